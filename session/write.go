package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// An outcome is how a write ended.
type outcome int

const (
	stored   outcome = iota // as wanted
	conflict                // not now: the record is another one, or gone
	failed                  // not, and the error says why
	unknown                 // perhaps
)

// write creates r (Version 0) or swaps it in. On conflict it returns the record as it is, nil if there is none.
func (m *Manager[T]) write(r Record, e envelope) (*snapshot, outcome, error) {
	op := rand.Uint64()
	e.ring = e.after(op)
	r.Value = e.encode()
	return m.persist(r.Version, op, e, func(ctx context.Context) (Record, bool, error) {
		if r.Version == 0 {
			return m.store.Create(ctx, r)
		}
		return m.store.CompareAndSwap(ctx, r)
	})
}

// persist has the store put, which stores e, and asks again when an answer is lost: op, the last operation in the ring of the
// record that was at version base, tells whether it was done. It runs to its end: no caller's context cuts it.
func (m *Manager[T]) persist(base int64, op uint64, e envelope, put func(context.Context) (Record, bool, error)) (*snapshot, outcome, error) {
	started := time.Now()
	patience := m.o.StoreTimeout * 2 / 5 // so that a lost answer leaves time to ask again
	for {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		m.n.writes.Add(1)
		current, ok, err := put(ctx)
		cancel()
		switch {
		case err == nil && ok:
			return &snapshot{current, e}, stored, nil
		case err == nil && current.Version == 0:
			return nil, conflict, nil
		case err == nil:
			m.n.conflicts.Add(1)
			now, err := m.open(current)
			if err != nil {
				return nil, failed, m.fail(err)
			}
			switch {
			case now.applied(op): // the answer to an earlier try was lost
				return now, stored, nil
			case now.kind != foreign && now.remembers(base):
				return now, conflict, nil
			}
			m.n.unknown.Add(1)
			return nil, unknown, m.fail(fmt.Errorf("%w: more than %d changes since", ErrOutcomeUnknown, ringLen))
		case errors.Is(err, ErrRevoked):
			return nil, failed, m.fail(err)
		case !errors.Is(err, ErrUnavailable):
			return nil, failed, m.unavailable(err)
		}
		if patience = m.o.StoreTimeout - time.Since(started); patience < m.o.StoreTimeout/20 {
			m.n.unknown.Add(1)
			return nil, unknown, fmt.Errorf("%w: %w", ErrOutcomeUnknown, m.unavailable(err))
		}
		time.Sleep(m.o.StoreTimeout / 50)
		patience = max(m.o.StoreTimeout-time.Since(started), m.o.StoreTimeout/20)
	}
}

func (m *Manager[T]) open(r Record) (*snapshot, error) {
	e, err := decodeEnvelope(r.Value, m.known)
	if err != nil {
		return nil, err
	}
	return &snapshot{r, e}, nil
}

// read loads a record, nil if there is none.
func (m *Manager[T]) read(ctx context.Context, tag, id string) (snap *snapshot, err error) {
	m.n.loads.Add(1)
	err = m.call(ctx, func(ctx context.Context) error {
		r, err := m.store.Load(ctx, tag, id)
		if err != nil || r.Version == 0 {
			return err
		}
		snap, err = m.open(r)
		return err
	})
	return snap, err
}
