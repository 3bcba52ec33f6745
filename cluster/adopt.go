//go:build unix

package cluster

import (
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/fairlead/fairlead/cluster/internal/sys"
)

const adoptRetry = 10 * time.Millisecond

// slotListener accepts from the socket of the worker's own slot, and from those of slots that it has adopted: while such a
// slot has no worker that serves, nobody else empties the queue of its socket.
type slotListener struct {
	own      net.Listener
	fds      map[int]int // the other slots' sockets, inherited and open until Close
	accepted chan net.Conn
	failed   chan error

	mu      sync.Mutex
	closed  bool
	adopted map[int]net.Listener
	work    sync.WaitGroup // accepting, each may hold a connection that it has accepted
	drained chan struct{}  // closed after Close, when nobody holds one any more
}

func newSlotListener(own net.Listener, fds map[int]int) *slotListener {
	l := &slotListener{
		own: own, fds: fds,
		accepted: make(chan net.Conn), failed: make(chan error),
		adopted: make(map[int]net.Listener), drained: make(chan struct{}),
	}
	l.work.Go(func() { l.accept(own, true) })
	return l
}

// accept hands over what it accepts until ln is closed. Errors of the own socket go to Accept; what becomes of an adopted
// one concerns its slot.
func (l *slotListener) accept(ln net.Listener, own bool) {
	for {
		c, err := ln.Accept()
		if err == nil {
			l.accepted <- c
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if own {
			l.failed <- err
			continue
		}
		time.Sleep(adoptRetry) // too many open files, say
	}
}

// Accept also returns, after Close, what had been accepted before.
func (l *slotListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	default:
	}
	select {
	case c := <-l.accepted:
		return c, nil
	case err := <-l.failed:
		return nil, err
	case <-l.drained:
		return nil, &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: net.ErrClosed}
	}
}

func (l *slotListener) Addr() net.Addr { return l.own.Addr() }

// Close ends accepting from all sockets. Accept must be called until it fails, as servers do.
func (l *slotListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	err := l.own.Close()
	for _, ln := range l.adopted {
		ln.Close()
	}
	for _, fd := range l.fds { // an open one would keep its port taking connections that nobody accepts
		sys.CloseFD(fd)
	}
	go func() {
		l.work.Wait()
		close(l.drained)
	}()
	return err
}

// adopt makes slots the ones that are accepted for besides the own.
func (l *slotListener) adopt(slots []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	for slot, ln := range l.adopted {
		if !slices.Contains(slots, slot) {
			ln.Close()
			delete(l.adopted, slot)
		}
	}
	for _, slot := range slots {
		fd, ok := l.fds[slot]
		if _, has := l.adopted[slot]; has || !ok {
			continue
		}
		ln, err := sys.BorrowListener(fd)
		if err != nil {
			continue // its next worker will serve it
		}
		l.adopted[slot] = ln
		l.work.Go(func() { l.accept(ln, false) })
	}
}
