package scale

import (
	"context"
	"errors"
	"io"
	"iter"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead/fairlead/internal/process"
	"github.com/fairlead/fairlead/internal/telemetry"
)

// part is a component with everything that Use looks for.
type part struct {
	ping  func(context.Context) error
	close func() error
	value float64
}

func (p *part) Ping(ctx context.Context) error { return p.ping(ctx) }
func (p *part) Close() error                   { return p.close() }
func (p *part) Samples() iter.Seq[Sample] {
	return func(yield func(Sample) bool) {
		yield(Sample{Name: "part.value", Kind: telemetry.Gauge, Value: p.value})
	}
}

type closer struct{ f func() }

func (c closer) Close() { c.f() }

type generic[T any] struct{ part }

func TestNewReportsEveryBadField(t *testing.T) {
	_, err := New("", Options{CheckTimeout: -time.Second, CloseTimeout: -1, MaxHeaderBytes: -5})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"scale: name is empty",
		"scale: Options.CheckTimeout = -1s: must be >= 0 (0 means 1s)",
		"scale: Options.CloseTimeout = -1ns: must be >= 0",
		"scale: Options.MaxHeaderBytes = -5: must be >= 0 (0 means 65536)",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestServeReportsEveryMistakeAndCloses(t *testing.T) {
	s, err := New("test", Options{})
	if err != nil {
		t.Fatal(err)
	}
	closed := 0
	s.Use(42, closer{func() { closed++ }}, struct{ Name string }{"x"}, nil)
	err = s.Serve(t.Context(), nil, nil)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"int has none of Ping", "struct { Name string } has none", "a component is nil", "handler is nil", "middleware 0 is nil"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	if closed != 1 {
		t.Errorf("the good component was closed %d times, want 1", closed)
	}
	if err := s.Serve(t.Context(), http.NotFoundHandler()); err == nil || !strings.Contains(err.Error(), "serves once") {
		t.Errorf("second Serve = %v", err)
	}
	if closed != 1 {
		t.Errorf("the second Serve closed again")
	}
}

// The whole life: ready, probed, shown; a request in flight survives the drain; components end after it, in reverse, and
// what fails or hangs there is named and holds up nobody else. synctest proves that nothing is left but the close that
// hangs, which is let go at the end.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var events []string
		note := func(e string) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, e)
		}
		hang := make(chan struct{})
		down := errors.New("down")

		s, err := New("test", Options{Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		ok := func(context.Context) error { return nil }
		s.Use(
			&part{ping: ok, close: func() error { note("close first"); return nil }, value: 1},
			closer{func() { note("close second") }},
			&part{ping: func(context.Context) error { return down }, close: func() error { <-hang; return nil }, value: 2},
			&part{ping: ok, close: func() error { panic("boom") }, value: 4},
			&generic[map[string]int]{part{ping: ok, close: func() error { note("close last"); return errors.New("broken") }, value: 8}},
		)
		ln := newMemListener()
		worker := newFakeWorker(ln)
		ctx, stop := context.WithCancel(process.WithWorker(t.Context(), worker))
		entered, release := make(chan struct{}), make(chan struct{})
		mux := http.NewServeMux()
		mux.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
			close(entered)
			<-release
			note("request done")
			io.WriteString(w, "slow")
		})
		result := make(chan error, 1)
		go func() { result <- s.Serve(ctx, mux) }()
		<-worker.ready

		for name, want := range map[string]error{"scale.part": nil, "scale.part#2": down, "scale.part#3": nil, "scale.generic": nil} {
			check, ok := worker.checks[name]
			if !ok {
				t.Errorf("no check named %s: %v", name, worker.checks)
				continue
			}
			if err := check(ctx); err != want {
				t.Errorf("check %s = %v, want %v", name, err, want)
			}
		}
		if len(worker.checks) != 4 {
			t.Errorf("%d checks, want 4", len(worker.checks))
		}

		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return ln.dial(ctx) }}}
		answer := make(chan string, 1)
		go func() {
			resp, err := client.Get("http://mem/slow")
			if err != nil {
				answer <- err.Error()
				return
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			answer <- string(b)
		}()
		<-entered
		if got := worker.samples(); got["part.value"] != 15 || got["http.server.active_requests test"] != 1 {
			t.Errorf("samples = %v; want part.value 15 and one request in flight", got)
		}
		stop()
		synctest.Wait()
		if len(events) != 0 {
			t.Errorf("before the request is done: %v", events)
		}
		close(release)
		if got := <-answer; got != "slow" {
			t.Errorf("the request in flight got %q", got)
		}
		err = <-result
		for _, want := range []string{"closing scale.generic: broken", "closing scale.part#3: panic: boom", "closing scale.part#2: not finished after 2s"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not in: %v", want, err)
			}
		}
		if want := []string{"request done", "close last", "close second", "close first"}; !slices.Equal(events, want) {
			t.Errorf("events = %v, want %v", events, want)
		}
		client.CloseIdleConnections()
		close(hang)
	})
}

func TestServeWithoutCluster(t *testing.T) {
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	s, err := New("test", Options{Addr: probe.Addr().String(), Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), http.NotFoundHandler()); err == nil || !strings.Contains(err.Error(), probe.Addr().String()) {
		t.Errorf("Serve on a taken address = %v, want an error that names it", err)
	}

	s, err = New("test", Options{Addr: "127.0.0.1:0", Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	closed := make(chan struct{})
	s.Use(closer{func() { close(closed) }})
	time.AfterFunc(time.Millisecond, stop)
	if err := s.Serve(ctx, http.NotFoundHandler()); err != nil {
		t.Errorf("Serve = %v", err)
	}
	<-closed
}

func TestServeWithoutTheListener(t *testing.T) {
	s, err := New("test", Options{Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Serve(process.WithWorker(t.Context(), newFakeWorker(nil)), http.NotFoundHandler())
	if err == nil || !strings.Contains(err.Error(), "no listener named http") {
		t.Errorf("Serve = %v", err)
	}
}
