package session

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead/fairlead/pool/causal"
)

// Manager keeps the sessions of an application, each with a value of type T, in a store. It is safe for concurrent use.
type Manager[T any] struct {
	o     Options
	store Store
	keys  keyring

	mu     sync.Mutex // guards queues and the change of closed
	queues map[string]*queue[T]
	closed atomic.Bool
	work   sync.WaitGroup

	touches toucher
	watches hub
	n       counters
	zero    envelope // of the zero T
}

// New returns a Manager whose sessions hold a T, encoded by Options.Codecs, else as JSON: exported fields count, and a
// change of T must keep reading what is stored. A T whose zero value cannot be encoded is an error, as is every field of o
// that is out of range. It does not talk to the store.
func New[T any](store Store, o Options) (*Manager[T], error) {
	o, err := o.check(store)
	m := &Manager[T]{o: o, store: store, queues: map[string]*queue[T]{}}
	if len(o.Codecs) > 0 && o.Codecs[0] != nil {
		zero, zeroErr := m.encode(*new(T))
		if zeroErr != nil {
			err = errors.Join(err, fmt.Errorf("session: type %T cannot be encoded: %w", *new(T), zeroErr))
		}
		m.zero = envelope{format: o.Codecs[0].Format(), kind: live, data: zero}
	}
	if err != nil {
		return nil, err
	}
	m.keys.given = o.Causal.Keys
	m.touches.flush = m.flush
	return m, nil
}

type contextKey[T any] struct{ m *Manager[T] }

// From returns the session of the request with this context. It is never nil; where [Manager.Middleware] does not stand in
// front, its methods fail.
func (m *Manager[T]) From(ctx context.Context) *Session[T] {
	if s, ok := ctx.Value(contextKey[T]{m}).(*Session[T]); ok {
		return s
	}
	return &Session[T]{m: m, state: outside}
}

// RevokeUser ends every session of a user, except those given, in one atomic step, and refuses every login of that user
// that began before it. (While keys are being replaced it is one step for each of Options.Causal.Keys.) The cookies of the
// ended sessions stay with their clients and are worth nothing.
func (m *Manager[T]) RevokeUser(ctx context.Context, userID string, except ...*Session[T]) error {
	index, err := m.index()
	if err != nil {
		return err
	}
	var keep []string
	for _, s := range except {
		if err := s.load(ctx); err != nil {
			return err
		}
		if snap := s.current(); snap != nil {
			keep = append(keep, snap.ID)
		}
	}
	keys, err := m.secrets(ctx)
	if err != nil {
		return err
	}
	for _, k := range keys { // a user's sessions made with an older key have another tag
		err := m.call(ctx, func(ctx context.Context) error {
			n, err := index.Revoke(ctx, k.userTag(userID), keep)
			m.n.revoked.Add(uint64(n))
			return err
		})
		m.watches.wake(k.userTag(userID))
		if err != nil {
			return err
		}
	}
	return nil
}

// EndSession ends one session of a user, by the ID that List shows: ErrEnded says that there is none, ErrRotated that it
// has a new id since.
func (m *Manager[T]) EndSession(ctx context.Context, userID, id string) error {
	if _, err := m.index(); err != nil {
		return err
	}
	keys, err := m.secrets(ctx)
	if err != nil {
		return err
	}
	for _, k := range keys {
		tag := k.userTag(userID)
		var found Record
		err := m.call(ctx, func(ctx context.Context) (err error) {
			found, err = m.store.Delete(ctx, tag, id)
			return err
		})
		switch {
		case err != nil:
			return err
		case found.Pinned:
			return m.fail(ErrRotated)
		case found.Version > 0:
			m.n.revoked.Add(1)
			m.watches.wake(tag)
			return nil
		}
	}
	return m.fail(ErrEnded)
}

// Info describes one session of a user.
type Info struct {
	ID      string    // stands for the session in a page; it cannot be made into a cookie
	Created time.Time // when the login, or the rotation, was
	Idle    time.Duration
	Ends    time.Time // its absolute end, by the store's clock
}

// List returns the sessions of a user, in no order. An error ends it.
func (m *Manager[T]) List(ctx context.Context, userID string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		index, err := m.index()
		if err != nil {
			yield(Info{}, err)
			return
		}
		keys, err := m.secrets(ctx)
		if err != nil {
			yield(Info{}, err)
			return
		}
		for _, k := range keys {
			var records []Record
			err := m.call(ctx, func(ctx context.Context) (err error) {
				records, err = index.List(ctx, k.userTag(userID))
				return err
			})
			if err != nil {
				yield(Info{}, err)
				return
			}
			for _, r := range records {
				e, err := decodeEnvelope(r.Value, m.known)
				if err != nil || e.kind != live && e.kind != foreign {
					continue
				}
				if !yield(Info{ID: r.ID, Created: e.created, Idle: max(0, m.o.Idle-r.Left), Ends: r.Deadline}, nil) {
					return
				}
			}
		}
	}
}

func (m *Manager[T]) index() (UserIndex, error) {
	if m.closed.Load() {
		return nil, m.fail(ErrClosed)
	}
	index, ok := m.store.(UserIndex)
	if !ok {
		return nil, m.fail(fmt.Errorf("store %T has no UserIndex: %w", m.store, errors.ErrUnsupported))
	}
	return index, nil
}

// Close ends the manager: it waits for the changes that are on their way to the store and notes the uses that are not yet
// noted. It does not close the store.
func (m *Manager[T]) Close() error {
	m.mu.Lock()
	m.closed.Store(true)
	m.mu.Unlock()
	m.watches.close()
	m.work.Wait()
	m.touches.close()
	return nil
}

// fail names the manager in an error, unless that would only repeat the package's name.
func (m *Manager[T]) fail(err error) error {
	if m.o.Name == "session" && strings.HasPrefix(err.Error(), "session: ") {
		return err
	}
	return fmt.Errorf("%s: %w", m.o.Name, err)
}

// unscoped hides a context's causal scope. What a store does for the manager is neither written nor read by the request: a
// store on a database that keeps track of positions would make every client look like one that had written.
type unscoped struct{ context.Context }

func (c unscoped) Value(key any) any {
	v := c.Context.Value(key)
	if _, ok := v.(*causal.Scope); ok {
		return nil
	}
	return v
}

// call asks the store once, within the time it may take and outside the causal scope of ctx. What it fails with wraps
// ErrUnavailable, or is the error of ctx.
func (m *Manager[T]) call(ctx context.Context, f func(context.Context) error) error {
	if m.closed.Load() {
		return m.fail(ErrClosed)
	}
	limited, cancel := context.WithTimeout(ctx, m.o.StoreTimeout)
	defer cancel()
	err := f(unscoped{limited})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return m.fail(context.Cause(ctx))
	case errors.Is(err, ErrRevoked):
		return m.fail(err)
	}
	return m.unavailable(err)
}

func (m *Manager[T]) unavailable(err error) error {
	m.n.unavailable.Add(1)
	if m.n.warn(time.Now()) {
		m.o.Logger.Warn("session: the store failed", "name", m.o.Name, "error", err)
	}
	if !errors.Is(err, ErrUnavailable) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return m.fail(err)
}
