package pool

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"
	"strings"
	"sync"
	"time"
)

// permits bounds how many connections of one server are in use, and serves those who wait in the order in which they came.
// It also knows since when, and by what code, each is held: a pool that runs dry is mostly one whose connections do not come
// back, and the error should say from where.
type permits struct {
	mu      sync.Mutex
	holders []holder // by slot; grows to most
	free    []int    // slots
	used    int
	most    int
	queue   list.List // of *waiter, oldest first
	backs   uint64    // how often a slot came back
	closed  bool
}

// holder is who holds a slot.
type holder struct {
	since time.Time // zero: nobody
	pcs   [8]uintptr
}

type waiter struct{ slot chan int }

var (
	errNoPermit = errors.New("pool: no permit in time")
	errRetired  = fmt.Errorf("%w: its connections are being closed", errMoved)
)

// try takes a slot if one is free and nobody waits.
func (q *permits) try(traced bool) (slot int, ok bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return 0, false, errRetired
	case len(q.free) > 0 && q.queue.Len() == 0:
		slot = q.free[len(q.free)-1]
		q.free = q.free[:len(q.free)-1]
	case len(q.holders) < q.most && q.queue.Len() == 0:
		slot = len(q.holders)
		q.holders = append(q.holders, holder{})
	default:
		return 0, false, nil
	}
	q.used++
	q.holders[slot].hold(traced)
	return slot, true, nil
}

// hold notes that its caller's caller holds the slot from now on.
func (h *holder) hold(traced bool) {
	h.since = time.Now()
	h.pcs[0] = 0
	if traced {
		if n := runtime.Callers(5, h.pcs[:]); n < len(h.pcs) {
			h.pcs[n] = 0
		}
	}
}

// wait takes a slot within d (0: as long as ctx lasts). backs is how many came back in the meantime.
func (q *permits) wait(ctx context.Context, d time.Duration, traced bool) (slot int, backs uint64, err error) {
	w := &waiter{make(chan int, 1)}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return 0, 0, errRetired
	}
	at := q.queue.PushBack(w)
	before := q.backs
	q.serveLocked()
	q.mu.Unlock()
	var timeout <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case slot := <-w.slot:
		return q.got(slot, traced)
	case <-timeout:
		err = errNoPermit
	case <-ctx.Done():
		err = ctx.Err()
	}
	q.mu.Lock()
	backs = q.backs - before
	select {
	case slot := <-w.slot: // at the last moment
		q.mu.Unlock()
		if err == errNoPermit || slot < 0 {
			return q.got(slot, traced)
		}
		q.give(slot)
		return 0, backs, err
	default:
	}
	q.queue.Remove(at)
	q.mu.Unlock()
	return 0, backs, err
}

func (q *permits) got(slot int, traced bool) (int, uint64, error) {
	if slot < 0 {
		return 0, 0, errRetired
	}
	q.mu.Lock()
	q.holders[slot].hold(traced)
	q.mu.Unlock()
	return slot, 0, nil
}

// serveLocked hands free slots to the oldest waiters.
func (q *permits) serveLocked() {
	for q.queue.Len() > 0 {
		var slot int
		switch {
		case len(q.free) > 0:
			slot = q.free[len(q.free)-1]
			q.free = q.free[:len(q.free)-1]
		case len(q.holders) < q.most:
			slot = len(q.holders)
			q.holders = append(q.holders, holder{})
		default:
			return
		}
		q.used++
		q.holders[slot].since = time.Now()
		q.queue.Remove(q.queue.Front()).(*waiter).slot <- slot
	}
}

// give takes a slot back.
func (q *permits) give(slot int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.holders[slot].since = time.Time{}
	q.free = append(q.free, slot)
	q.used--
	q.backs++
	q.serveLocked()
}

// close turns away those who wait and those who come.
func (q *permits) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for q.queue.Len() > 0 {
		q.queue.Remove(q.queue.Front()).(*waiter).slot <- -1
	}
}

func (q *permits) inUse() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.used
}

// longest returns for how long the oldest holder has its slot, and where that began, if it is known.
func (q *permits) longest() (time.Duration, [8]uintptr) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var oldest holder
	for _, h := range q.holders {
		if !h.since.IsZero() && (oldest.since.IsZero() || h.since.Before(oldest.since)) {
			oldest = h
		}
	}
	if oldest.since.IsZero() {
		return 0, oldest.pcs
	}
	return time.Since(oldest.since), oldest.pcs
}

// blame says in words who has held a connection for longest, and whether the one who waits may be waiting for itself.
func (q *permits) blame(ctx context.Context, backs uint64) string {
	var b strings.Builder
	held, pcs := q.longest()
	if backs == 0 {
		b.WriteString(", none came back meanwhile")
	}
	if held > 0 {
		fmt.Fprintf(&b, ", the longest for %v", held.Round(time.Millisecond))
	}
	function, where := caller(pcs[:])
	if where != "" {
		fmt.Fprintf(&b, " by %s", where)
	}
	switch own := [64]uintptr{}; {
	case ctx.Value(inTxKey{}) != nil:
		b.WriteString("; this call was made inside of RunTx, whose connection is one of them: use its tx, or the pool waits for itself")
	case backs == 0 && function != "" && calledFrom(own[:runtime.Callers(2, own[:])], function):
		fmt.Fprintf(&b, "; this call was made there too: if it is while that connection is held, use its transaction or "+
			"connection, or the pool waits for itself")
	case backs == 0:
		b.WriteString("; rows and transactions that are not closed keep theirs")
	}
	return b.String()
}

// inTxKey marks a context whose code holds a connection of a pool.
type inTxKey struct{}

// caller returns the first function outside of this package and pgx, and its place.
func caller(pcs []uintptr) (function, where string) {
	n := 0
	for n < len(pcs) && pcs[n] != 0 {
		n++
	}
	if n == 0 {
		return "", ""
	}
	frames := runtime.CallersFrames(pcs[:n])
	for {
		f, more := frames.Next()
		if !ours(f.Function) {
			return f.Function, fmt.Sprintf("%s (%s:%d)", path.Base(f.Function), path.Base(f.File), f.Line)
		}
		if !more {
			return "", ""
		}
	}
}

func ours(function string) bool {
	return strings.HasPrefix(function, "github.com/fairlead/fairlead/pool.") || strings.HasPrefix(function, "github.com/jackc/pgx/")
}

func calledFrom(pcs []uintptr, function string) bool {
	frames := runtime.CallersFrames(pcs)
	for {
		f, more := frames.Next()
		if f.Function == function {
			return true
		}
		if !more {
			return false
		}
	}
}
