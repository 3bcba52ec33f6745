package scale

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// guarded serves handler behind the guards and returns the server, what was logged and the samples.
func guarded(t *testing.T, handler http.Handler, middleware ...func(http.Handler) http.Handler) (*httptest.Server, *lockedBuffer, *fakeWorker) {
	t.Helper()
	log := new(lockedBuffer)
	s, err := New("test", Options{Logger: slog.New(slog.NewTextHandler(log, nil)), Header: http.Header{"Worker": {"1/2/3"}}})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.guard(handler, middleware))
	t.Cleanup(srv.Close)
	w := newFakeWorker(nil)
	w.AddSamples(s.traffic.samples)
	return srv, log, w
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestRecover(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /early/{id}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "half=done")
		w.Header().Set("Content-Length", "3")
		panic("early")
	})
	mux.HandleFunc("GET /late/{id}", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half of the")
		http.NewResponseController(w).Flush()
		panic("late")
	})
	mux.HandleFunc("GET /abort/{id}", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	srv, log, worker := guarded(t, mux, copying)

	resp, err := http.Get(srv.URL + "/early/1")
	if err != nil {
		t.Fatal(err)
	}
	checkProblem(t, resp, http.StatusInternalServerError)
	if resp.Header.Get("Set-Cookie") != "" {
		t.Error("the headers of the handler that panicked went out")
	}
	if got := resp.Header.Get("Worker"); got != "1/2/3" {
		t.Errorf("Worker = %q on the 500, want Options.Header's", got)
	}
	if n := strings.Count(log.String(), "panic in a handler"); n != 1 {
		t.Errorf("the panic was logged %d times, want 1:\n%s", n, log)
	}
	for _, want := range []string{"panic=early", `route="GET /early/{id}"`, "guard_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s:\n%s", want, log)
		}
	}

	resp, err = http.Get(srv.URL + "/late/1")
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("a client read %q as a whole response", body)
	}
	if n := strings.Count(log.String(), "panic in a handler"); n != 2 {
		t.Errorf("%d panics logged, want 2", n)
	}

	if _, err := http.Get(srv.URL + "/abort/1"); err == nil {
		t.Error("http.ErrAbortHandler: got a response, want none")
	}
	if n := strings.Count(log.String(), "panic in a handler"); n != 2 {
		t.Errorf("%d panics logged after http.ErrAbortHandler, want still 2", n)
	}
	srv.Close()
	got := worker.samples()
	for key, want := range map[string]float64{
		"http.server.request.duration test GET /early/{id} 5xx":     1,
		"http.server.request.duration test GET /late/{id} aborted":  1,
		"http.server.request.duration test GET /abort/{id} aborted": 1,
		"http.server.active_requests test":                          0,
	} {
		if v, ok := got[key]; !ok || v != want {
			t.Errorf("%s = %v (%v), want %v; all: %v", key, v, ok, want, got)
		}
	}
}

// copying is middleware that passes on a copy of the request, as every one that adds to the context does.
func copying(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(w, r.WithContext(r.Context())) })
}

func TestTelemetry(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /products/{id}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") == "0" {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	mux.HandleFunc("/any", func(w http.ResponseWriter, r *http.Request) {})
	mux.HandleFunc("/upgrade", func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		conn.Close()
	})
	srv, _, worker := guarded(t, mux, copying)
	do := func(method, path string) {
		t.Helper()
		req, _ := http.NewRequest(method, srv.URL+path, nil)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	for _, id := range []string{"1", "2", "3", "0"} {
		do("GET", "/products/"+id)
	}
	do("GET", "/any")
	do("BREW", "/any")
	do("GET", "/nowhere/"+strings.Repeat("x", 50))
	do("GET", "/upgrade")
	srv.Close()

	want := map[string]float64{
		"http.server.active_requests test":                         0,
		"http.server.request.duration test GET /products/{id} 2xx": 3,
		"http.server.request.duration test GET /products/{id} 4xx": 1,
		"http.server.request.duration test GET /any 2xx":           1,
		"http.server.request.duration test _OTHER /any 2xx":        1,
		"http.server.request.duration test GET  4xx":               1,
	}
	got := worker.samples()
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s = %v, want %v", k, got[k], v)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d series, want %d: %v", len(got), len(want), got)
	}
}

// A router that makes up a pattern a request costs a bounded number of series.
func TestTelemetryBoundsSeries(t *testing.T) {
	tr := newTraffic("test")
	for i := range maxSeries + 500 {
		tr.begin()
		tr.end(&request{began: time.Now(), route: strings.Repeat("x", i)}, "GET", 200, false)
	}
	series, requests := 0, uint64(0)
	for s := range tr.samples() {
		if s.Buckets != nil {
			series++
			requests += s.Buckets.Count()
		}
	}
	if series > maxSeries+1 || requests != maxSeries+500 {
		t.Errorf("%d series for %d requests; want at most %d for %d", series, requests, maxSeries+1, maxSeries+500)
	}
}

func TestMiddlewareOrder(t *testing.T) {
	var order []string
	tag := func(name string) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				order = append(order, name)
				next.ServeHTTP(w, r)
			})
		}
	}
	s, err := New("test", Options{})
	if err != nil {
		t.Fatal(err)
	}
	h := s.guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { order = append(order, "handler") }),
		[]func(http.Handler) http.Handler{tag("first"), tag("second")})
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	if got := strings.Join(order, " "); got != "first second handler" {
		t.Errorf("order = %s", got)
	}
}
