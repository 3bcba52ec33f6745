package testenv

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// lineServer answers every line with the same line behind its name, and counts.
type lineServer struct {
	net.Listener
	name string
	wg   sync.WaitGroup

	mu    sync.Mutex
	lines []string
	ends  []error // how connections ended
}

func startLineServer(t *testing.T, name string) *lineServer {
	t.Helper()
	l, err := listen()
	must(t, err)
	s := &lineServer{Listener: l, name: name}
	s.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() { l.Close(); s.wg.Wait() })
	return s
}

func (s *lineServer) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			s.mu.Lock()
			s.ends = append(s.ends, err)
			s.mu.Unlock()
			return
		}
		s.mu.Lock()
		s.lines = append(s.lines, strings.TrimSpace(line))
		s.mu.Unlock()
		fmt.Fprintf(conn, "%s %s", s.name, line)
	}
}

func (s *lineServer) got() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, ",")
}

func (s *lineServer) ended() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]error(nil), s.ends...)
}

func (s *lineServer) waitFor(t *testing.T, want string) {
	t.Helper()
	eventually(t, func() string {
		if got := s.got(); got != want {
			return fmt.Sprintf("server got %q, want %q", got, want)
		}
		return ""
	})
}

// lineClient sends and receives lines.
type lineClient struct {
	*net.TCPConn
	r *bufio.Reader
}

func dialLines(t *testing.T, addr string) *lineClient {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	return &lineClient{TCPConn: conn.(*net.TCPConn), r: bufio.NewReader(conn)}
}

func (c *lineClient) send(t *testing.T, line string) {
	t.Helper()
	_, err := io.WriteString(c, line+"\n")
	must(t, err)
}

func (c *lineClient) expect(t *testing.T, want string) {
	t.Helper()
	line, err := c.r.ReadString('\n')
	must(t, err)
	if line != want+"\n" {
		t.Fatalf("got %q, want %q", line, want)
	}
}

func (c *lineClient) call(t *testing.T, line, want string) {
	t.Helper()
	c.send(t, line)
	c.expect(t, want)
}

// expectEnd expects that the connection ends without another byte.
func (c *lineClient) expectEnd(t *testing.T, want error) {
	t.Helper()
	line, err := c.r.ReadString('\n')
	if line != "" || !errors.Is(err, want) {
		t.Fatalf("got %q and %v, want %v", line, err, want)
	}
}

func startProxy(t *testing.T, target string) *Proxy {
	t.Helper()
	p, err := StartProxy(target)
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

func waitStats(t *testing.T, p *Proxy, ok func(ProxyStats) bool) {
	t.Helper()
	eventually(t, func() string {
		if s := p.Stats(); !ok(s) {
			return fmt.Sprintf("stats are %+v", s)
		}
		return ""
	})
}

func TestProxyForwards(t *testing.T) {
	s := startLineServer(t, "a")
	p := startProxy(t, s.Addr().String())
	c := dialLines(t, p.Addr())
	c.call(t, "one", "a one")
	// The answer may be here before the proxy has counted the question.
	waitStats(t, p, func(s ProxyStats) bool { return s.Accepted == 1 && s.Open == 1 && s.Up == 4 })
	must(t, c.CloseWrite())
	c.expectEnd(t, io.EOF)
	waitStats(t, p, func(s ProxyStats) bool { return s.Open == 0 && s.Down == 6 && s.QueuedUp == 0 && s.QueuedDown == 0 })
	if ends := s.ended(); len(ends) != 1 || ends[0] != io.EOF {
		t.Errorf("the server saw %v, want an orderly end", ends)
	}
}

// Every byte arrives, in order, whatever the delays do meanwhile.
func TestProxyKeepsOrder(t *testing.T) {
	l, err := listen()
	must(t, err)
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		io.Copy(conn, conn)
		conn.Close()
	}()
	p := startProxy(t, l.Addr().String())
	c := dialLines(t, p.Addr())
	sent := make([]byte, 4<<20)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range sent {
		sent[i] = byte(random.Uint32())
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for rest := sent; len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(100_000))
			if _, err := c.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
			switch random.IntN(4) {
			case 0:
				p.SetDelay(time.Duration(random.IntN(3))*time.Millisecond, time.Duration(random.IntN(3))*time.Millisecond)
			case 1:
				p.Hold()
			case 2:
				p.Release()
			}
		}
		p.Release()
		c.CloseWrite()
	})
	got, err := io.ReadAll(c)
	must(t, err)
	if !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came back as %d others", len(sent), len(got))
	}
}

func TestProxyDelay(t *testing.T) {
	s := startLineServer(t, "a")
	p := startProxy(t, s.Addr().String())
	c := dialLines(t, p.Addr())
	c.call(t, "one", "a one")
	p.SetDelay(time.Hour, 0)
	c.send(t, "two")
	waitStats(t, p, func(s ProxyStats) bool { return s.QueuedUp == 4 })
	p.SetDelay(0, time.Hour)
	s.waitFor(t, "one,two")
	waitStats(t, p, func(s ProxyStats) bool { return s.QueuedDown == 6 })
	p.SetDelay(0, 0)
	c.expect(t, "a two")

	const delay = 50 * time.Millisecond
	p.SetDelay(delay, delay)
	began := time.Now()
	c.call(t, "three", "a three")
	if took := time.Since(began); took < 2*delay {
		t.Errorf("took %v, less than there and back", took)
	}
}

func TestProxyHold(t *testing.T) {
	s := startLineServer(t, "a")
	p := startProxy(t, s.Addr().String())
	c := dialLines(t, p.Addr())
	c.call(t, "one", "a one")

	p.Hold(Up)
	c.send(t, "two")
	c.send(t, "three")
	must(t, c.CloseWrite()) // is held too
	waitStats(t, p, func(s ProxyStats) bool { return s.QueuedUp == 10 })
	if got := s.got(); got != "one" {
		t.Errorf("held, and the server got %q", got)
	}
	p.Hold(Down)
	p.Hold() // both at once, again
	p.Release()
	c.expect(t, "a two")
	c.expect(t, "a three")
	c.expectEnd(t, io.EOF)

	c = dialLines(t, p.Addr())
	c.call(t, "four", "a four")
	p.Hold(Down)
	c.send(t, "five")
	s.waitFor(t, "one,two,three,four,five")
	waitStats(t, p, func(s ProxyStats) bool { return s.QueuedDown == 7 })
	p.Cut() // what is held is gone
	c.expectEnd(t, io.EOF)
	waitStats(t, p, func(s ProxyStats) bool { return s.QueuedDown == 0 && s.Open == 0 })
}

func TestProxyDropReplies(t *testing.T) {
	s := startLineServer(t, "a")
	p := startProxy(t, s.Addr().String())
	c, idle := dialLines(t, p.Addr()), dialLines(t, p.Addr())
	c.call(t, "one", "a one")
	idle.call(t, "idle", "a idle")
	p.DropReplies(true)
	c.send(t, "two")
	waitStats(t, p, func(s ProxyStats) bool { return s.Dropped == 6 })
	p.DropReplies(false)
	c.send(t, "three") // arrives, but half a conversation is never resumed
	waitStats(t, p, func(s ProxyStats) bool { return s.Dropped == 14 })
	idle.call(t, "idle", "a idle")
	s.waitFor(t, "one,idle,two,three,idle")
	p.Cut()
	c.expectEnd(t, io.EOF)
}

func TestProxyLoseReplies(t *testing.T) {
	s := startLineServer(t, "a")
	p := startProxy(t, s.Addr().String())
	c, other := dialLines(t, p.Addr()), dialLines(t, p.Addr())
	c.call(t, "one", "a one")
	other.call(t, "one", "a one")
	p.LoseReplies(2, "commit")
	other.call(t, "two", "a two") // does not match
	_, err := io.WriteString(c, "com")
	must(t, err)
	waitStats(t, p, func(s ProxyStats) bool { return s.Up == 15 })
	c.send(t, "mit") // matches across two packets
	c.expectEnd(t, syscall.ECONNRESET)
	other.send(t, "commit")
	other.expectEnd(t, syscall.ECONNRESET)
	c = dialLines(t, p.Addr())
	c.call(t, "commit", "a commit") // two were lost
	s.waitFor(t, "one,one,two,commit,commit,commit")

	p.LoseReplies(1, "")
	c.send(t, "any")
	c.expectEnd(t, syscall.ECONNRESET)
}

func TestProxyBlackHole(t *testing.T) {
	s := startLineServer(t, "a")
	p := startProxy(t, s.Addr().String())
	c, gone := dialLines(t, p.Addr()), dialLines(t, p.Addr())
	c.call(t, "one", "a one")
	gone.call(t, "one", "a one")
	p.BlackHole(true)
	c.send(t, "two")
	fresh := dialLines(t, p.Addr()) // is accepted
	fresh.send(t, "three")
	must(t, gone.Close()) // nobody hears of it
	waitStats(t, p, func(s ProxyStats) bool { return s.Dropped == 10 })
	p.BlackHole(false)
	c.send(t, "four")
	waitStats(t, p, func(s ProxyStats) bool { return s.Dropped == 15 })
	after := dialLines(t, p.Addr())
	after.call(t, "five", "a five")
	if ends := s.ended(); len(ends) != 0 {
		t.Errorf("the server saw connections end: %v", ends)
	}
	p.Cut()
	c.expectEnd(t, io.EOF)
	fresh.expectEnd(t, io.EOF)
	after.expectEnd(t, io.EOF)
	s.waitFor(t, "one,one,five")
}

func TestProxyCutAndReset(t *testing.T) {
	s := startLineServer(t, "a")
	p := startProxy(t, s.Addr().String())
	c := dialLines(t, p.Addr())
	c.call(t, "one", "a one")
	p.Cut()
	if open := p.Stats().Open; open != 0 {
		t.Errorf("%d connections open after Cut", open)
	}
	c.expectEnd(t, io.EOF)

	c = dialLines(t, p.Addr())
	c.call(t, "two", "a two")
	p.Reset()
	c.expectEnd(t, syscall.ECONNRESET)
	eventually(t, func() string {
		if ends := s.ended(); len(ends) != 2 || !errors.Is(ends[0], io.EOF) || !errors.Is(ends[1], syscall.ECONNRESET) {
			return fmt.Sprintf("the server saw %v, want EOF and a reset", ends)
		}
		return ""
	})
}

// A reset by one side is a reset for the other.
func TestProxyForwardsReset(t *testing.T) {
	s := startLineServer(t, "a")
	p := startProxy(t, s.Addr().String())
	c := dialLines(t, p.Addr())
	c.call(t, "one", "a one")
	must(t, c.SetLinger(0))
	must(t, c.Close())
	eventually(t, func() string {
		if ends := s.ended(); len(ends) != 1 || !errors.Is(ends[0], syscall.ECONNRESET) {
			return fmt.Sprintf("the server saw %v, want a reset", ends)
		}
		return ""
	})
}

func TestProxyRefuse(t *testing.T) {
	s := startLineServer(t, "a")
	p := startProxy(t, s.Addr().String())
	c := dialLines(t, p.Addr())
	c.call(t, "one", "a one")
	must(t, p.Refuse(true))
	must(t, p.Refuse(true))
	if conn, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v and %v, want refused", conn, err)
	}
	c.call(t, "two", "a two")
	must(t, p.Refuse(false))
	dialLines(t, p.Addr()).call(t, "three", "a three")
}

func TestProxySetTarget(t *testing.T) {
	a, b := startLineServer(t, "a"), startLineServer(t, "b")
	p := startProxy(t, a.Addr().String())
	c := dialLines(t, p.Addr())
	c.call(t, "one", "a one")
	p.SetTarget(b.Addr().String())
	c.call(t, "two", "a two")
	dialLines(t, p.Addr()).call(t, "three", "b three")

	_, port, err := freePort()
	must(t, err)
	p.SetTarget(fmt.Sprintf("%s:%d", localHost(), port))
	conn, err := net.Dial("tcp", p.Addr()) // nobody there: reset, perhaps before Dial returns
	if err == nil {
		must(t, conn.SetDeadline(time.Now().Add(patience)))
		_, err = conn.Read(make([]byte, 1))
		conn.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("no target: %v, want a reset", err)
	}
}

func TestProxyClose(t *testing.T) {
	s := startLineServer(t, "a")
	p, err := StartProxy(s.Addr().String())
	must(t, err)
	c := dialLines(t, p.Addr())
	c.call(t, "one", "a one")
	p.Hold()
	c.send(t, "two")
	waitStats(t, p, func(s ProxyStats) bool { return s.QueuedUp == 4 })
	must(t, p.Close())
	must(t, p.Close())
	c.expectEnd(t, io.EOF)
	if err := p.Refuse(false); !errors.Is(err, ErrClosed) {
		t.Errorf("Refuse after Close: %v", err)
	}
	if conn, err := net.Dial("tcp", p.Addr()); err == nil {
		conn.Close()
		t.Error("accepts after Close")
	}
}

// A blocked receiver blocks the sender in the end, and loses nothing.
func TestProxyBackpressure(t *testing.T) {
	l, err := listen()
	must(t, err)
	defer l.Close()
	p := startProxy(t, l.Addr().String())
	p.Hold()
	c := dialLines(t, p.Addr())
	const total = 3 * maxQueued
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		io.Copy(c, io.LimitReader(zeroReader{}, total))
		c.CloseWrite()
	}()
	waitStats(t, p, func(s ProxyStats) bool { return s.QueuedUp >= maxQueued })
	p.Release()
	server, err := l.Accept()
	must(t, err)
	defer server.Close()
	n, err := io.Copy(io.Discard, server)
	must(t, err)
	if n != total {
		t.Errorf("%d bytes of %d arrived", n, total)
	}
	<-ctx.Done()
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
