//go:build unix

package cluster

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/fairlead/fairlead/cluster/internal/sys"
)

func loopbackListener(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// say opens a connection to addr and sends s over it.
func say(t *testing.T, addr, s string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	io.WriteString(c, s)
}

func heard(t *testing.T, ln net.Listener) string {
	t.Helper()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, ok := c.(*net.TCPConn); !ok {
		t.Errorf("accepted a %T", c)
	}
	c.SetReadDeadline(time.Now().Add(time.Minute))
	b := make([]byte, 8)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestASlotListenerAcceptsForTheSlotsItHasAdopted(t *testing.T) {
	own, other := loopbackListener(t), loopbackListener(t)
	ownAddr, otherAddr := own.Addr().String(), other.Addr().String()
	fd, err := sys.Detach(other)
	if err != nil {
		t.Fatal(err)
	}
	l := newSlotListener(own)

	say(t, otherAddr, "other") // waits in the other socket's queue
	say(t, ownAddr, "own")
	if got := heard(t, l); got != "own" {
		t.Errorf("heard %q before the slot was adopted", got)
	}
	l.adopt(map[int]int{1: fd})
	l.adopt(map[int]int{1: fd})
	if got := heard(t, l); got != "other" {
		t.Errorf("heard %q", got)
	}
	l.adopt(nil)
	say(t, otherAddr, "later")
	l.adopt(map[int]int{1: fd})
	if got := heard(t, l); got != "later" {
		t.Errorf("heard %q: a connection that came in between is lost", got)
	}

	// What has been accepted is delivered, also after Close.
	say(t, ownAddr, "last")
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	var first net.Conn
	for first == nil {
		select {
		case first = <-l.accepted:
		case <-poll.C:
		}
	}
	go func() { l.accepted <- first }()
	l.work.Add(1) // on behalf of that goroutine
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	if got := heard(t, l); got != "last" {
		t.Errorf("heard %q", got)
	}
	l.work.Done()
	if c, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after the end: %v, %v", c, err)
	}
	l.adopt(map[int]int{1: fd})
	if len(l.adopted) != 1 {
		t.Errorf("adopted after Close: %v", l.adopted)
	}
}
