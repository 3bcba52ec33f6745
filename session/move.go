package session

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"
)

// move is a session on its way from one id to another.
//
// Where both are in one slot the store does it in one step. Else it is three, which a crash may part: the successor is
// created, pending; the predecessor becomes a pointer, which decides it; the successor becomes live. Whoever finds a pending
// successor whose predecessor is gone does the third.
type move[T any] struct {
	m        *Manager[T]
	old      *snapshot // nil: there is none
	oldToken token
	next     token
	r        Record // the successor's
	same     func(old *snapshot) bool
	linked   bool
}

func (v *move[T]) do() (*snapshot, error) {
	index, ok := v.m.store.(UserIndex)
	switch {
	case v.old == nil:
		now, how, err := v.m.write(v.r, v.successor(live))
		if how != stored {
			return nil, err
		}
		return now, nil
	case ok && v.old.Tag == v.r.Tag:
		return v.inOneStep(index)
	}
	now, how, err := v.m.write(v.r, v.successor(pending))
	if how != stored {
		return nil, err
	}
	return v.supersede(now)
}

// successor is what the new record holds: what the client has written, and the value unless it is another user's.
func (v *move[T]) successor(k kind) envelope {
	e := v.m.zero
	e.kind, e.created = k, time.Now()
	if v.old == nil {
		return e
	}
	e.causal = v.old.causal
	if v.same(v.old) {
		e.format, e.data = v.old.format, v.old.data
	}
	if k == pending {
		e.link = []byte(v.old.Tag + "/" + v.old.ID)
	}
	return e
}

// pointer is what the old record becomes.
func (v *move[T]) pointer() (Record, envelope) {
	e := envelope{format: v.m.zero.format, kind: moved, ring: v.old.ring, created: v.old.created, causal: v.old.causal}
	if v.linked {
		e.link = v.oldToken.seal(v.next)
	}
	r := v.old.Record
	r.Pinned, r.Left, r.Fence, r.Limit = true, grace, "", 0
	return r, e
}

func (v *move[T]) inOneStep(index UserIndex) (*snapshot, error) {
	for {
		op := rand.Uint64()
		r, pointer := v.pointer()
		e := v.successor(live)
		pointer.ring, e.ring = pointer.after(op), e.after(op)
		r.Value, v.r.Value = pointer.encode(), e.encode()
		now, how, err := v.m.persist(r.Version, op, e, func(ctx context.Context) (Record, bool, error) {
			return index.Move(ctx, r, v.r)
		})
		switch {
		case how == stored && now.kind == moved: // the answer was lost, and with it the successor
			if now, err = v.m.read(context.Background(), v.r.Tag, v.r.ID); now == nil && err == nil {
				err = v.m.fail(ErrRevoked)
			}
			return now, err
		case how == stored:
			return now, nil
		case how != conflict:
			return nil, err
		case now == nil:
			return nil, v.m.fail(ErrEnded)
		case now.kind != live:
			return nil, v.m.fail(ErrRotated)
		}
		v.old = now // somebody changed it since: copy again
	}
}

// supersede is the second step.
func (v *move[T]) supersede(successor *snapshot) (*snapshot, error) {
	abandon := func(err error) (*snapshot, error) {
		if _, rmErr := v.m.remove(context.Background(), v.next); rmErr != nil {
			v.m.o.Logger.Debug("session: an abandoned login is left to expire", "name", v.m.o.Name, "error", rmErr)
		}
		return nil, v.m.fail(err)
	}
	for {
		now, how, err := v.m.write(v.pointer())
		switch {
		case how == stored:
			return v.activate(successor)
		case how != conflict:
			return nil, err // whoever finds the successor knows by the predecessor whether this was done
		case now == nil:
			return abandon(ErrEnded)
		case now.kind != live:
			return abandon(ErrRotated)
		}
		// Somebody changed the old session since: copy again.
		v.old = now
		e := v.successor(pending)
		e.ring, e.created = successor.ring, successor.created
		r := successor.Record
		r.Left = v.m.o.Idle
		if now, how, err = v.m.write(r, e); how != stored {
			if how == conflict {
				return abandon(ErrRevoked) // only a revocation touches a pending record
			}
			return nil, err
		}
		successor = now
	}
}

// activate is the third step. That it has to be done is settled already, so if it fails the next request does it.
func (v *move[T]) activate(successor *snapshot) (*snapshot, error) {
	now, how, _ := v.m.enliven(successor)
	switch {
	case how == conflict && now == nil:
		return nil, v.m.fail(ErrRevoked)
	case how == stored || how == conflict:
		return now, nil
	}
	return successor, nil
}

// enliven makes a pending record live.
func (m *Manager[T]) enliven(at *snapshot) (*snapshot, outcome, error) {
	e := at.envelope
	e.kind, e.link = live, nil
	r := at.Record
	r.Left = m.o.Idle
	return m.write(r, e)
}

// rollForward completes what was cut off before the third step. It returns nil if the second did not happen.
func (m *Manager[T]) rollForward(ctx context.Context, at *snapshot) (*snapshot, error) {
	tag, id, _ := strings.Cut(string(at.link), "/")
	old, err := m.read(ctx, tag, id)
	if err != nil || old != nil && old.kind != moved {
		return nil, err
	}
	now, how, err := m.enliven(at)
	if how == stored || how == conflict {
		return now, nil
	}
	return nil, err
}
