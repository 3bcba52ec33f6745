package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/fairlead/fairlead/pool/causal"
)

// Compare-and-set alone melts on a hot session: of n writers one wins and the others start over. So the changes of one
// session queue up in each process, and one goroutine, the leader, applies all that wait in one compare-and-set.

// op is one change on its way.
type op[T any] struct {
	fn    func(*T) error // nil changes no value
	token string         // causal token to keep beside the value
	base  *snapshot      // what its session had loaded; nil: it is to be created

	mu    sync.Mutex // held while fn runs
	left  bool       // the caller has gone: fn must not run (again)
	taken bool       // a leader has it

	// The result, complete when done is closed.
	done     chan struct{}
	value    T
	snap     *snapshot // the session after it; nil if there still is none
	err      error
	panicked any
}

// queue holds the changes of one session.
type queue[T any] struct {
	token token
	ops   []*op[T]
	batch []*op[T] // what the leader works on
	known *snapshot
}

// elsewhere says that the record is no live session: the session has to look where it went.
type elsewhere struct{ at *snapshot }

func (elsewhere) Error() string { return "session: the record is not live" }

// enqueue hands o to the session's leader, and makes one if there is none.
func (m *Manager[T]) enqueue(t token, o *op[T]) error {
	id := t.id()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed.Load() {
		return m.fail(ErrClosed)
	}
	m.n.updates.Add(1)
	m.n.queued.Add(1)
	if q := m.queues[id]; q != nil {
		q.ops = append(q.ops, o)
		return nil
	}
	q := &queue[T]{token: t, ops: []*op[T]{o}}
	m.queues[id] = q
	m.work.Add(1)
	go m.lead(id, q)
	return nil
}

func (m *Manager[T]) lead(id string, q *queue[T]) {
	ended := false
	defer func() {
		if !ended { // a change called runtime.Goexit; its op has been told
			go m.lead(id, q)
		}
	}()
	for {
		if len(q.batch) == 0 {
			m.mu.Lock()
			q.batch, q.ops = q.ops, nil
			if len(q.batch) == 0 {
				delete(m.queues, id)
				m.mu.Unlock()
				ended = true
				m.work.Done()
				return
			}
			m.n.queued.Add(-int64(len(q.batch)))
			m.mu.Unlock()
		}
		m.commit(q)
	}
}

// finish tells the whole batch how it ended.
func (q *queue[T]) finish(snap *snapshot, err error) {
	for _, o := range q.batch {
		o.finish(snap, err)
	}
	q.batch, q.known = nil, snap
}

func (o *op[T]) finish(snap *snapshot, err error) {
	o.snap, o.err = snap, err
	close(o.done)
}

// commit brings the batch to its end.
func (m *Manager[T]) commit(q *queue[T]) {
	base := q.known
	for _, o := range q.batch {
		if o.base != nil && (base == nil || o.base.Version > base.Version) {
			base = o.base
		}
	}
	verified := false // base was read after all of the batch began
	for conflicts := 0; ; {
		if base != nil && base.kind != live {
			q.finish(nil, elsewhere{base})
			return
		}
		next, changed := m.run(q, base)
		if len(q.batch) == 0 {
			q.known = nil
			return
		}
		if !changed && (verified || base == nil) {
			q.finish(base, nil)
			return
		}
		if !changed { // what it saw may be old
			now, err := m.read(context.Background(), q.token.tag, q.token.id())
			if err != nil || now == nil {
				if err == nil {
					err = m.fail(ErrEnded)
				}
				q.finish(nil, err)
				return
			}
			base, verified = now, true
			continue
		}
		r := Record{Tag: q.token.tag, ID: q.token.id(), Left: m.o.Idle}
		if base == nil {
			r.Life = m.o.Absolute
		} else {
			r.Version, r.User, r.Deadline = base.Version, base.User, base.Deadline
		}
		now, how, err := m.write(r, next)
		switch how {
		case stored:
			q.finish(now, nil)
			return
		case failed, unknown:
			q.finish(nil, err)
			return
		}
		if now == nil {
			q.finish(nil, m.fail(ErrEnded))
			return
		}
		base, verified = now, true
		time.Sleep(rand.N(min(time.Millisecond<<min(conflicts, 4), 10*time.Millisecond)))
		conflicts++
	}
}

// run applies the changes of the batch to base, in turn, and says whether that changed anything. Those that fail, or whose
// callers have gone, leave the batch and no trace.
func (m *Manager[T]) run(q *queue[T], base *snapshot) (next envelope, changed bool) {
	if base != nil {
		next = base.envelope
	} else {
		next = m.zero
		next.created = time.Now()
	}
	before := next
	for _, o := range slices.Clone(q.batch) {
		data, ok := m.runOne(q, o, next)
		if !ok {
			q.batch = slices.DeleteFunc(q.batch, func(x *op[T]) bool { return x == o })
			continue
		}
		if o.fn != nil {
			next.format, next.data = m.zero.format, data
		}
		if merged, err := causal.Merge(next.causal, o.token); err == nil {
			next.causal = merged
		}
	}
	return next, before.format != next.format || !bytes.Equal(before.data, next.data) || next.causal != before.causal
}

func (m *Manager[T]) runOne(q *queue[T], o *op[T], at envelope) (after []byte, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.taken = true
	if o.left {
		o.finish(nil, context.Canceled) // nobody listens
		return nil, false
	}
	if o.fn == nil {
		return nil, true
	}
	var v T
	var err error
	returned := false
	func() {
		defer func() {
			if returned {
				return
			}
			if o.panicked = recover(); o.panicked != nil {
				return
			}
			// runtime.Goexit: this goroutine ends here, another goes on with the batch.
			q.batch = slices.DeleteFunc(q.batch, func(x *op[T]) bool { return x == o })
			o.finish(nil, m.fail(errors.New("the change called runtime.Goexit")))
		}()
		// Each change gets a value of its own: a caller may keep what it was given.
		if v, err = m.decode(at.format, at.data); err == nil {
			err = o.fn(&v)
		}
		if err == nil {
			after, err = m.encode(v)
		}
		returned = true
	}()
	if !returned {
		o.finish(nil, nil)
		return nil, false
	}
	if err != nil {
		o.finish(nil, err)
		return nil, false
	}
	o.value = v
	return after, true
}

// do sends one change through the queue and waits for its end, or for that of ctx.
func (m *Manager[T]) do(ctx context.Context, t token, o *op[T]) error {
	o.done = make(chan struct{})
	if err := m.enqueue(t, o); err != nil {
		return err
	}
	select {
	case <-o.done:
	case <-ctx.Done():
		o.mu.Lock() // waits for fn, which the caller may not run beside
		defer o.mu.Unlock()
		select {
		case <-o.done:
		default:
			o.left = true
			if !o.taken {
				return m.fail(context.Cause(ctx)) // and it will not be
			}
			m.n.unknown.Add(1)
			return m.fail(fmt.Errorf("%w: %w", ErrOutcomeUnknown, context.Cause(ctx)))
		}
	}
	if o.panicked != nil {
		panic(o.panicked)
	}
	return o.err
}
