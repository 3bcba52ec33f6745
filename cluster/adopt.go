//go:build unix

package cluster

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/fairlead/fairlead/cluster/internal/sys"
	"github.com/fairlead/fairlead/cluster/internal/wire"
)

const adoptRetry = 10 * time.Millisecond

// slotListener accepts from the socket of the worker's own slot, and from those of slots that it has adopted: while such a
// slot has no worker that serves, nobody else empties the queue of its socket.
type slotListener struct {
	own      net.Listener
	accepted chan net.Conn
	failed   chan error

	mu      sync.Mutex
	closed  bool
	adopted map[int]net.Listener
	work    sync.WaitGroup // accepting, each may hold a connection that it has accepted
	drained chan struct{}  // closed after Close, when nobody holds one any more
}

func newSlotListener(own net.Listener) *slotListener {
	l := &slotListener{
		own:      own,
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
	go func() {
		l.work.Wait()
		close(l.drained)
	}()
	return err
}

// adopt makes the slots whose sockets fds are the ones that are accepted for besides the own. It keeps no fd.
func (l *slotListener) adopt(fds map[int]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	for slot, ln := range l.adopted {
		if _, ok := fds[slot]; !ok {
			ln.Close()
			delete(l.adopted, slot)
		}
	}
	for slot, fd := range fds {
		if _, has := l.adopted[slot]; has {
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

// adoptions are the sockets of other slots that this worker accepts for, also for listeners that the app has yet to ask for.
type adoptions struct {
	mu        sync.Mutex
	closed    bool
	fds       map[string]map[int]int // by listener and slot
	listeners map[string]*slotListener
}

// update takes m's descriptors over.
func (a *adoptions) update(m wire.Message) {
	fds := make(map[string]map[int]int)
	for i, fd := range m.FDs {
		if i >= len(m.Names) || i >= len(m.Slots) {
			sys.CloseFD(fd)
			continue
		}
		of := fds[m.Names[i]]
		if of == nil {
			of = make(map[int]int)
			fds[m.Names[i]] = of
		}
		of[m.Slots[i]] = fd
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.fds
	a.fds = fds
	if a.closed {
		old, a.fds = fds, nil
	}
	for name, l := range a.listeners {
		l.adopt(a.fds[name])
	}
	closeFDs(old)
}

// open makes ln accept for what has been adopted too.
func (a *adoptions) open(name string, ln net.Listener) net.Listener {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := newSlotListener(ln)
	if a.listeners == nil {
		a.listeners = make(map[string]*slotListener)
	}
	a.listeners[name] = l
	l.adopt(a.fds[name])
	return l
}

// close gives up the sockets that no listener has: an open one would keep its port taking connections that nobody accepts.
// Listeners go on with what they have.
func (a *adoptions) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	closeFDs(a.fds)
	a.fds, a.listeners = nil, nil
}

func closeFDs(fds map[string]map[int]int) {
	for _, of := range fds {
		for _, fd := range of {
			sys.CloseFD(fd)
		}
	}
}
