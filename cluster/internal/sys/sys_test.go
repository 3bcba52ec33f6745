//go:build unix

package sys

import (
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/cluster/internal/wire"
	"github.com/fairlead/fairlead/internal/telemetry"
)

func pair(t *testing.T) (*wire.Conn, *wire.Conn) {
	t.Helper()
	a, fd, err := SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	b, err := InheritedConn(fd)
	if err != nil {
		t.Fatal(err)
	}
	return wire.NewConn(a), wire.NewConn(b)
}

func TestLargeFramesCrossASocketPair(t *testing.T) {
	a, b := pair(t)
	f := &wire.Frame{}
	for range 20000 {
		f.Samples = append(f.Samples, telemetry.Sample{Name: strings.Repeat("x", 100), Kind: telemetry.Counter, Value: 1})
	}
	go func() {
		a.Send(wire.Message{Type: wire.Update, Frame: f}) // about 3 MB: far more than a packet or the socket's buffer
		a.Close()
	}()
	m, err := b.Receive()
	if err != nil || len(m.Frame.Samples) != 20000 {
		t.Fatalf("%v, %v", err, m.Type)
	}
	if _, err := b.Receive(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// A worker that exits without having read a poll resets the connection; its last frame must arrive all the same.
func TestALastMessageOutlivesAReset(t *testing.T) {
	a, b := pair(t)
	if err := a.Send(wire.Message{Type: wire.Poll}); err != nil {
		t.Fatal(err)
	}
	if err := b.Send(wire.Message{Type: wire.Update, Poll: 7}); err != nil {
		t.Fatal(err)
	}
	b.Close() // with the poll unread
	m, err := a.Receive()
	if err != nil || m.Poll != 7 {
		t.Errorf("got %+v, %v", m, err)
	}
	if _, err := a.Receive(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func nonblocking(t *testing.T, fd int) bool {
	t.Helper()
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	return flags&unix.O_NONBLOCK != 0
}

// A listening socket stays non-blocking, for all processes that share it, and survives those that borrow it.
func TestSpawnLeavesSocketsNonBlocking(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	fd, err := Detach(ln)
	if err != nil {
		t.Fatal(err)
	}
	defer CloseFD(fd)
	null, err := DevNull()
	if err != nil {
		t.Fatal(err)
	}
	defer CloseFD(null)
	for range 20 {
		r, w, err := Pipe()
		if err != nil {
			t.Fatal(err)
		}
		pid, err := Spawn("/bin/sh", []string{"sh", "-c", "echo from the child; exit 3"}, os.Environ(), []int{null, w, null, fd})
		CloseFD(w)
		if err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(r)
		r.Close()
		if err != nil || string(out) != "from the child\n" {
			t.Errorf("%q, %v", out, err)
		}
		exit := reapOne(t, pid)
		if exit.OK || exit.Status != "exit status 3" {
			t.Errorf("%+v", exit)
		}
		if !nonblocking(t, fd) {
			t.Fatal("the socket has become blocking")
		}
	}
	if c, err := net.Dial("tcp", addr); err != nil {
		t.Errorf("nobody listens any more: %v", err)
	} else {
		c.Close()
	}
}

func reapOne(t *testing.T, pid int) Exit {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for _, e := range Reap() {
			if e.PID == pid {
				return e
			}
		}
	}
	t.Fatal("the child does not end")
	return Exit{}
}

func TestKillEndsAProcess(t *testing.T) {
	null, err := DevNull()
	if err != nil {
		t.Fatal(err)
	}
	defer CloseFD(null)
	pid, err := Spawn("/bin/sh", []string{"sh", "-c", "exec sleep 600"}, os.Environ(), []int{null, null, null})
	if err != nil {
		t.Fatal(err)
	}
	if pgid, err := syscall.Getpgid(pid); err != nil || pgid != pid {
		t.Errorf("process group %d, %v; want its own", pgid, err)
	}
	Kill(pid)
	if exit := reapOne(t, pid); exit.Status != "signal: killed" {
		t.Errorf("%+v", exit)
	}
}

func TestBrokenPipesDoNotCrowdOutAStop(t *testing.T) {
	c := SupervisorSignals()
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, syscall.SIGPIPE)
	defer signal.Stop(c)
	defer signal.Stop(pipes)
	for range 2 * cap(c) {
		syscall.Kill(os.Getpid(), syscall.SIGPIPE)
		<-pipes
	}
	syscall.Kill(os.Getpid(), syscall.SIGTERM)
	if s := <-c; !IsStop(s) {
		t.Errorf("got %v", s)
	}
}
