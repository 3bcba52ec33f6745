package drain

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// listener hands out connections that are counted, and can be told to stop without losing one that it has accepted.
type listener struct {
	net.Listener
	d         *drainer
	http      bool
	accepting func() // called at the first Accept
	stopped   atomic.Bool
	closeOnce sync.Once
	closeErr  error
}

func (l *listener) Accept() (net.Conn, error) {
	l.accepting()
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.d.track(c, l.http), nil
}

// stop ends accepting. An Accept that is about to return a connection still returns it.
func (l *listener) stop() {
	l.stopped.Store(true)
	l.Close()
}

func (l *listener) Close() error {
	l.closeOnce.Do(func() { l.closeErr = l.Listener.Close() })
	return l.closeErr
}

// track is what the drain knows of a connection.
type track struct {
	d    *drainer
	conn net.Conn
	http bool
	// state is the http.ConnState; only New and Idle may be closed for silence.
	state atomic.Int32
	// heard is when bytes last came in, or a request ended, in nanoseconds since the drain's start. Before that, silence
	// does not count.
	heard atomic.Int64
	once  sync.Once

	closing chan struct{} // of Closing, nil until somebody asks; guarded by d.mu, as told
	told    bool

	raw      net.Conn // conn without the wrapper
	dmu      sync.Mutex
	deadline time.Time // of reading, that the handler has set
	limit    time.Time // that it cannot exceed; zero means none
}

// hear notes that the connection is not silent.
func (t *track) hear() {
	if t.d.draining.Load() {
		t.heard.Store(int64(time.Since(t.d.started)))
	}
}

func (t *track) gone() {
	t.once.Do(func() {
		t.d.open.Add(-1)
		t.d.mu.Lock()
		delete(t.d.conns, t)
		t.d.mu.Unlock()
	})
}

// The wrappers embed the concrete connection, so that ReadFrom (sendfile, splice), CloseWrite and SyscallConn stay.
type (
	tcpConn struct {
		*net.TCPConn
		t *track
	}
	unixConn struct {
		*net.UnixConn
		t *track
	}
	otherConn struct {
		net.Conn
		t *track
	}
)

func (c *tcpConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.t.hear()
	return n, err
}

func (c *tcpConn) Close() error {
	defer c.t.gone()
	return c.TCPConn.Close()
}

func (c *tcpConn) SetDeadline(at time.Time) error     { return c.t.setDeadline(at) }
func (c *tcpConn) SetReadDeadline(at time.Time) error { return c.t.setReadDeadline(at) }

func (c *unixConn) Read(b []byte) (int, error) {
	n, err := c.UnixConn.Read(b)
	c.t.hear()
	return n, err
}

func (c *unixConn) Close() error {
	defer c.t.gone()
	return c.UnixConn.Close()
}

func (c *unixConn) SetDeadline(at time.Time) error     { return c.t.setDeadline(at) }
func (c *unixConn) SetReadDeadline(at time.Time) error { return c.t.setReadDeadline(at) }

func (c *otherConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.t.hear()
	return n, err
}

func (c *otherConn) Close() error {
	defer c.t.gone()
	return c.Conn.Close()
}

func (c *otherConn) SetDeadline(at time.Time) error     { return c.t.setDeadline(at) }
func (c *otherConn) SetReadDeadline(at time.Time) error { return c.t.setReadDeadline(at) }

func (d *drainer) track(c net.Conn, isHTTP bool) net.Conn {
	t := &track{d: d, conn: c, raw: c, http: isHTTP}
	t.hear()
	d.accepted.Add(1)
	d.open.Add(1)
	d.mu.Lock()
	d.conns[t] = struct{}{}
	d.mu.Unlock()
	switch c := c.(type) {
	case *net.TCPConn:
		return &tcpConn{c, t}
	case *net.UnixConn:
		return &unixConn{c, t}
	}
	return &otherConn{c, t}
}

// trackOf finds the track behind a connection as net/http reports it: ours, or TLS over ours.
func trackOf(c net.Conn) *track {
	for {
		switch v := c.(type) {
		case *tcpConn:
			return v.t
		case *unixConn:
			return v.t
		case *otherConn:
			return v.t
		case interface{ NetConn() net.Conn }:
			c = v.NetConn()
		default:
			return nil
		}
	}
}

func (t *track) setState(s http.ConnState) {
	t.hear()
	t.state.Store(int32(s))
	if s == http.StateHijacked && t.d.draining.Load() {
		t.tell()
	}
}
