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
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are in memory, for tests in fake time.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// streams runs n requests of handler, drains, and returns when the handlers ended, since the drain's start and in order.
func streams(t *testing.T, n int, o Options, handler func(http.ResponseWriter, *http.Request) error) []time.Duration {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	ln := newPipes()
	ctx, stop := context.WithCancel(t.Context())
	var mu sync.Mutex
	var ends []time.Time
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := handler(w, r); err != nil {
			t.Error(err)
		}
		mu.Lock()
		ends = append(ends, time.Now())
		mu.Unlock()
	})}
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, o, HTTP(srv, ln)) }()
	for range n {
		c := ln.dial()
		go func() {
			io.WriteString(c, get)
			io.Copy(io.Discard, c)
			c.Close()
		}()
	}
	synctest.Wait()
	began := time.Now()
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	var after []time.Duration
	for _, e := range ends {
		after = append(after, e.Sub(began))
	}
	slices.Sort(after)
	return after
}

func every(n int, first, pace time.Duration) []time.Duration {
	var at []time.Duration
	for i := range n {
		at = append(at, first+time.Duration(i)*pace)
	}
	return at
}

func eventStream(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "text/event-stream")
	http.NewResponseController(w).Flush()
	<-Closing(r.Context())
	_, err := io.WriteString(w, "retry: 1000\n\n")
	return err
}

func TestStreamsAreToldFromTheStartAndOneAfterTheOther(t *testing.T) {
	for _, c := range []struct {
		n      int
		spread time.Duration
		pace   time.Duration
	}{
		{1, 0, 0},
		{40, 0, 5 * time.Millisecond},
		{40, 100 * time.Millisecond, 2500 * time.Microsecond},
		{40, -1, 0},
		{40, time.Hour, 5 * time.Millisecond},
		{2500, 0, 4 * time.Millisecond}, // over ten seconds at most
	} {
		synctest.Test(t, func(t *testing.T) {
			got := streams(t, c.n, Options{Spread: c.spread}, eventStream)
			if want := every(c.n, 0, c.pace); !slices.Equal(got, want) {
				t.Errorf("%d streams, Spread %v: told at %v", c.n, c.spread, got)
			}
		})
	}
}

// takeOver is a handler that does not know of Closing, as one of a WebSocket library, and forbids its reads to end.
func takeOver(w http.ResponseWriter, r *http.Request) error {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(time.Minute))
	go func() {
		time.Sleep(time.Second)
		c.SetDeadline(time.Time{})
	}()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("read: %v", err)
	}
	return nil
}

func TestHijackedConnectionsHaveASpreadDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, timeout, pace = 40, 20 * time.Second, 5 * time.Millisecond
		got := streams(t, n, Options{DrainTimeout: timeout}, takeOver)
		if want := every(n, timeout-n*pace, pace); !slices.Equal(got, want) {
			t.Errorf("reads ended at %v", got)
		}
	})
}

func TestWhatIsHijackedDuringADrainIsToldAtOnceAndHasADeadline(t *testing.T) {
	entered, goOn := make(chan struct{}), make(chan struct{})
	r := start(t, Options{DrainTimeout: 500 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-goOn
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		<-Closing(r.Context())
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		io.WriteString(c, "good-bye")
	})
	c := dial(t, r.addr)
	io.WriteString(c, get)
	<-entered
	r.stop()
	eventually(t, "draining", r.draining)
	close(goOn)
	if b, err := io.ReadAll(c); err != nil || string(b) != "good-bye" {
		t.Errorf("got %q, %v", b, err)
	}
	if err := r.wait(); err != nil {
		t.Error(err)
	}
}

// Every stream of an HTTP/2 connection is told when the connection is.
func TestClosingOfAConnectionIsOneChannel(t *testing.T) {
	got := make(chan (<-chan struct{}), 2)
	r := start(t, Options{}, func(w http.ResponseWriter, r *http.Request) { got <- Closing(r.Context()) })
	c := dial(t, r.addr)
	br := bufio.NewReader(c)
	for range 2 {
		io.WriteString(c, get)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if a, b := <-got, <-got; a != b {
		t.Error("two requests of one connection have two channels")
	}
	c.Close()
	r.stop()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
}
