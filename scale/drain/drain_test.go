package drain

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const backstop = 60 * time.Second

// running is a call of Serve on a loopback port.
type running struct {
	t    *testing.T
	addr string
	srv  *http.Server
	stop context.CancelFunc
	done chan error

	draining func() bool // accepting has stopped, and answers say so
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func start(t *testing.T, o Options, h http.HandlerFunc) *running {
	t.Helper()
	return startWith(t, o, lastWord, h)
}

// startWith takes the last word that handlers have, which on a busy machine may be too short.
func startWith(t *testing.T, o Options, last time.Duration, h http.HandlerFunc) *running {
	t.Helper()
	ln := listen(t)
	ctx, stop := context.WithCancel(t.Context())
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &running{t: t, addr: ln.Addr().String(), srv: &http.Server{Handler: h}, stop: stop, done: make(chan error, 1)}
	d := newDrainer(ctx, o)
	r.draining = d.draining.Load
	go func() {
		defer d.endRequests()
		d.lastWord = last
		r.done <- d.run(ctx, []Server{HTTP(r.srv, ln)})
	}()
	t.Cleanup(func() { stop() })
	return r
}

func (r *running) wait() error {
	r.t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(backstop):
		r.t.Fatal("Serve did not return")
		return nil
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(backstop); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(backstop))
	return c
}

func refused(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return true
	}
	c.Close()
	return false
}

const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

func ok(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }

// stateNew counts the connections a server has been told of, so that a test knows that one was accepted.
func stateNew(srv *http.Server) *atomic.Int32 {
	var n atomic.Int32
	srv.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			n.Add(1)
		}
	}
	return &n
}

// The control: what happens to a connection that was accepted before Shutdown and sends its request after.
func TestPlainShutdownDropsAYoungConnection(t *testing.T) {
	ln := listen(t)
	srv := &http.Server{Handler: http.HandlerFunc(ok)}
	accepted := stateNew(srv)
	go srv.Serve(ln)
	c := dial(t, ln.Addr().String())
	eventually(t, "connection accepted", func() bool { return accepted.Load() == 1 })
	done := make(chan struct{})
	go func() { srv.Shutdown(context.Background()); close(done) }()
	eventually(t, "listener closed", func() bool { return refused(ln.Addr().String()) })
	io.WriteString(c, get)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil {
		t.Logf("this version of Go answers it: %s (golang/go#75591 may be fixed)", resp.Status)
	}
	c.Close()
	<-done
}

func TestAYoungConnectionIsAnswered(t *testing.T) {
	ln := listen(t)
	srv := &http.Server{Handler: http.HandlerFunc(ok)}
	accepted := stateNew(srv)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, Options{IdleGrace: backstop, DrainTimeout: backstop}, HTTP(srv, ln)) }()
	c := dial(t, ln.Addr().String())
	eventually(t, "connection accepted", func() bool { return accepted.Load() == 1 })
	stop()
	eventually(t, "listener closed", func() bool { return refused(ln.Addr().String()) })
	io.WriteString(c, get)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 || !resp.Close {
		t.Errorf("status %d, Connection: close %v; want 200, true", resp.StatusCode, resp.Close)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAnIdleConnectionGetsItsNextAnswerWithConnectionClose(t *testing.T) {
	r := start(t, Options{IdleGrace: backstop, DrainTimeout: backstop}, ok)
	c := dial(t, r.addr)
	br := bufio.NewReader(c)
	for i := range 2 {
		io.WriteString(c, get)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		if last := i == 1; resp.Close != last {
			t.Errorf("request %d: Connection: close is %v", i, resp.Close)
		}
		r.stop()
		eventually(t, "draining", func() bool { return r.draining() && refused(r.addr) })
	}
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("after the last answer: %v, want EOF", err)
	}
	if err := r.wait(); err != nil {
		t.Error(err)
	}
}

// Bytes of a request header that arrives during the drain keep its connection from being taken for idle.
func TestArrivingBytesAreNotSilence(t *testing.T) {
	d := &drainer{conns: make(map[*track]struct{}), started: time.Now()}
	server, client := net.Pipe()
	defer client.Close()
	c := d.track(server, true)
	tr := trackOf(c)
	d.draining.Store(true)
	later := d.started.Add(time.Hour)
	if !tr.silent(later, d.started, time.Minute) || tr.silent(d.started.Add(59*time.Second), d.started, time.Minute) {
		t.Error("a new connection is silent when the grace has passed, not before")
	}
	go io.WriteString(client, "G")
	if _, err := c.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	heard := d.started.Add(time.Duration(tr.heard.Load()))
	if !heard.After(d.started) || tr.silent(heard.Add(59*time.Second), d.started, time.Minute) {
		t.Error("a byte was not heard")
	}
	if !tr.silent(heard.Add(time.Minute), d.started, time.Minute) {
		t.Error("never silent again")
	}
	for _, s := range []http.ConnState{http.StateActive, http.StateHijacked} {
		if tr.setState(s); tr.silent(later, d.started, time.Minute) {
			t.Errorf("silent in state %v", s)
		}
	}
	c.Close()
	if !d.quiet(later, time.Minute) || d.open.Load() != 0 {
		t.Error("a closed connection still counts")
	}
}

func TestSilentConnectionsDoNotHoldTheDrain(t *testing.T) {
	r := start(t, Options{IdleGrace: 50 * time.Millisecond, DrainTimeout: 10 * backstop}, ok)
	young, idle := dial(t, r.addr), dial(t, r.addr)
	io.WriteString(idle, get)
	if _, err := http.ReadResponse(bufio.NewReader(idle), nil); err != nil {
		t.Fatal(err)
	}
	r.stop()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	if _, err := young.Read(make([]byte, 1)); err == nil {
		t.Error("the silent connection is still open")
	}
}

func TestARequestUnderWayIsWaitedFor(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	r := start(t, Options{IdleGrace: time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-release
		ok(w, r)
	})
	type answer struct {
		resp *http.Response
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		resp, err := http.Get("http://" + r.addr)
		got <- answer{resp, err}
	}()
	<-entered
	r.stop()
	eventually(t, "listener closed", func() bool { return refused(r.addr) })
	select {
	case err := <-r.done:
		t.Fatalf("Serve returned with a request under way: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	if a := <-got; a.err != nil || a.resp.StatusCode != 200 {
		t.Errorf("got %v, %v", a.resp, a.err)
	}
	if err := r.wait(); err != nil {
		t.Error(err)
	}
}

func TestDrainTimeoutEndsContextsAndLetsThemAnswer(t *testing.T) {
	entered := make(chan struct{})
	r := startWith(t, Options{DrainTimeout: 50 * time.Millisecond}, backstop, func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	got := make(chan int, 1)
	go func() {
		resp, err := http.Get("http://" + r.addr)
		if err != nil {
			t.Error(err)
			got <- 0
			return
		}
		got <- resp.StatusCode
	}()
	<-entered
	r.stop()
	if code := <-got; code != http.StatusServiceUnavailable {
		t.Errorf("status %d, want 503", code)
	}
	if err := r.wait(); err != nil {
		t.Errorf("nothing was cut, and yet: %v", err)
	}
}

func TestACustomServerThatWaitsForItsConnectionsHoldsTheDrainNoLongerThanItsTimeout(t *testing.T) {
	ln := listen(t)
	accepted, stopped := make(chan struct{}), make(chan struct{})
	serve := func(ln net.Listener) error {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		close(accepted)
		if c2, err := ln.Accept(); err == nil {
			c2.Close()
		}
		c.Read(make([]byte, 1)) // until somebody closes it
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{t: t, done: make(chan error, 1)}
	go func() {
		r.done <- Serve(ctx, Options{DrainTimeout: 20 * time.Millisecond}, Custom(ln, serve, func(context.Context) error {
			close(stopped)
			return nil
		}))
	}()
	c := dial(t, ln.Addr().String())
	<-accepted
	cancel()
	if err := r.wait(); err == nil || !strings.Contains(err.Error(), "1 servers had not returned at the DrainTimeout of 20ms") {
		t.Errorf("got %v", err)
	}
	select {
	case <-stopped:
	default:
		t.Error("stop was not called")
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is still open: %v", err)
	}
}

func TestDrainTimeoutCutsWhatIgnoresItsContext(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	r := start(t, Options{DrainTimeout: 20 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-release
	})
	c := dial(t, r.addr)
	io.WriteString(c, get)
	<-entered
	r.stop()
	err := r.wait()
	if err == nil || !strings.Contains(err.Error(), "1 connections were cut") {
		t.Errorf("got %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still open")
	}
}

func TestStreamsAreToldByClosing(t *testing.T) {
	entered := make(chan struct{})
	r := start(t, Options{DrainTimeout: 10 * backstop}, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		close(entered)
		<-Closing(r.Context())
		io.WriteString(w, "bye")
	})
	resp, err := http.Get("http://" + r.addr)
	if err != nil {
		t.Fatal(err)
	}
	<-entered
	r.stop()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "bye" {
		t.Errorf("got %q, %v", body, err)
	}
	if err := r.wait(); err != nil {
		t.Error(err)
	}
}

func TestClosingOutsideOfARequestIsTheContextsEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	<-Closing(ctx)
}

func TestHijackedConnectionsAreCountedAndCut(t *testing.T) {
	entered := make(chan struct{})
	told := make(chan struct{})
	r := start(t, Options{DrainTimeout: 100 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		closing := Closing(r.Context())
		_, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
		}
		close(entered)
		<-closing
		close(told)
	})
	c := dial(t, r.addr)
	io.WriteString(c, get)
	<-entered
	r.stop()
	<-told
	if err := r.wait(); err == nil || !strings.Contains(err.Error(), "1 connections were cut") {
		t.Errorf("got %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the hijacked connection is still open")
	}
}

func TestSendfileStays(t *testing.T) {
	got := make(chan bool, 1)
	r := start(t, Options{IdleGrace: time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, readFrom := c.(io.ReaderFrom)
		_, raw := c.(interface{ CloseWrite() error })
		got <- readFrom && raw
		c.Close()
	})
	io.WriteString(dial(t, r.addr), get)
	if !<-got {
		t.Error("the connection lost ReadFrom or CloseWrite")
	}
}

func TestTLSAndHTTP2(t *testing.T) {
	ts := httptest.NewUnstartedServer(nil)
	ts.EnableHTTP2 = true
	ts.StartTLS() // for its certificate and the client that trusts it
	defer ts.Close()
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			ln := listen(t)
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }),
				TLSConfig: ts.TLS.Clone()}
			srv.TLSConfig.NextProtos = nil
			if proto == "HTTP/1.1" {
				srv.Protocols = new(http.Protocols)
				srv.Protocols.SetHTTP1(true)
			}
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- Serve(ctx, Options{IdleGrace: 100 * time.Millisecond}, HTTP(srv, ln)) }()
			client := &http.Client{Transport: ts.Client().Transport.(*http.Transport).Clone()}
			resp, err := client.Get("https://" + ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			if string(body) != proto {
				t.Errorf("spoke %q", body)
			}
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
			client.CloseIdleConnections()
		})
	}
}

func TestOneServerOnSeveralListeners(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	srv := &http.Server{Handler: http.HandlerFunc(ok)}
	var addrs []string
	var servers []Server
	for range 4 {
		ln := listen(t)
		addrs = append(addrs, ln.Addr().String())
		servers = append(servers, HTTP(srv, ln))
	}
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, Options{IdleGrace: time.Millisecond}, servers...) }()
	for _, a := range addrs {
		c := dial(t, a)
		io.WriteString(c, get)
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != 200 {
			t.Errorf("%v, %v", resp, err)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCustomServer(t *testing.T) {
	ln := listen(t)
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	var mu sync.Mutex
	var order []string
	note := func(s string) { mu.Lock(); order = append(order, s); mu.Unlock() }
	accepted := make(chan net.Conn, 1)
	s := Custom(ln, func(ln net.Listener) error {
		for {
			c, err := ln.Accept()
			if err != nil {
				note("serve returned")
				return err
			}
			accepted <- c
		}
	}, func(ctx context.Context) error {
		note("stop")
		close(stopped)
		return nil
	})
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, Options{}, s) }()
	c := dial(t, ln.Addr().String())
	<-accepted
	stop()
	<-stopped
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := fmt.Sprint(order); got != "[serve returned stop]" {
		t.Errorf("order %s", got)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still open")
	}
}

func TestAFailingServerEndsTheOthers(t *testing.T) {
	broken := errors.New("broken")
	ln := listen(t)
	err := Serve(t.Context(), Options{IdleGrace: time.Millisecond, Logger: slog.New(slog.DiscardHandler)},
		HTTP(&http.Server{Handler: http.HandlerFunc(ok)}, ln),
		Custom(listen(t), func(net.Listener) error { return broken }, func(context.Context) error { return nil }))
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if !refused(ln.Addr().String()) {
		t.Error("the other one still listens")
	}
}

func TestValidation(t *testing.T) {
	err := Serve(t.Context(), Options{DrainTimeout: -1, IdleGrace: -time.Second}, Server{})
	want := `drain: Options.DrainTimeout = -1ns: must be >= 0 (0 means 20s)
drain: Options.IdleGrace = -1s: must be >= 0 (0 means 2s)
drain: server 0 has no listener`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// A server that is drained and started anew on the same socket, as a supervisor does it, loses nothing that keep-alive
// clients without retries ask in the meantime.
func TestRollingDrainLosesNothing(t *testing.T) {
	socket := listen(t).(*net.TCPListener)
	defer socket.Close()
	addr := socket.Addr().String()
	dup := func() net.Listener {
		f, err := socket.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		ln, err := net.FileListener(f)
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	serve := func() (context.CancelFunc, chan error) {
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		srv := &http.Server{Handler: http.HandlerFunc(ok)}
		ln := dup()
		go func() {
			done <- Serve(ctx, Options{IdleGrace: 10 * time.Second, DrainTimeout: backstop, Logger: slog.New(slog.DiscardHandler)}, HTTP(srv, ln))
		}()
		return stop, done
	}
	stop, done := serve()

	const clients, requests = 8, 250
	var failed, answered atomic.Int64
	var wg sync.WaitGroup
	for i := range clients {
		keepAlive := i%2 == 0
		wg.Go(func() {
			var c net.Conn
			var br *bufio.Reader
			for range requests {
				if c == nil {
					var err error
					if c, err = net.Dial("tcp", addr); err != nil {
						failed.Add(1)
						t.Error(err)
						return
					}
					c.SetDeadline(time.Now().Add(backstop))
					br = bufio.NewReader(c)
				}
				io.WriteString(c, get)
				resp, err := http.ReadResponse(br, nil)
				if err != nil {
					failed.Add(1)
					t.Error(err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				answered.Add(1)
				if resp.Close || !keepAlive {
					c.Close()
					c = nil
				}
			}
			if c != nil {
				c.Close()
			}
		})
	}
	for reload := range 5 {
		eventually(t, "requests go on", func() bool { return answered.Load() > int64(reload)*clients*requests/6 || failed.Load() > 0 })
		stop2, done2 := serve()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		stop, done = stop2, done2
	}
	wg.Wait()
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if failed.Load() > 0 || answered.Load() != clients*requests {
		t.Errorf("%d answered, %d failed", answered.Load(), failed.Load())
	}
}

func ExampleServe() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background()) // usually signal.NotifyContext(…, SIGTERM, SIGINT)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stop() // the drain begins while this request is under way
		<-Closing(r.Context())
		io.WriteString(w, "served to the end")
	})}
	answer := make(chan string)
	go func() {
		resp, err := http.Get("http://" + ln.Addr().String())
		if err != nil {
			panic(err)
		}
		body, _ := io.ReadAll(resp.Body)
		answer <- string(body)
	}()
	err = Serve(ctx, Options{IdleGrace: 100 * time.Millisecond}, HTTP(srv, ln))
	fmt.Println(<-answer, err)
	// Output: served to the end <nil>
}
