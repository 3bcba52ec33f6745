package scale

import (
	"bufio"
	"context"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead/fairlead/scale/offload"
	"github.com/fairlead/fairlead/scale/overload"
)

// only serves handler with one permit and no queue.
func only(t *testing.T, handler http.Handler, middleware ...func(http.Handler) http.Handler) (*httptest.Server, *Service) {
	t.Helper()
	s, err := New("test", Options{Logger: quiet(), Overload: overload.Options{Min: 1, Max: 1, MaxQueue: -1}})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.guard(handler, middleware))
	t.Cleanup(srv.Close)
	return srv, s
}

func fetch(t *testing.T, url string) *http.Response {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestExcessIsRefusedBeforeTheMiddleware(t *testing.T) {
	running, hold := make(chan struct{}), make(chan struct{})
	passed := 0
	srv, s := only(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(running)
		<-hold
	}), func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			passed++
			next.ServeHTTP(w, r)
		})
	})
	first := make(chan int)
	go func() {
		resp, err := http.Get(srv.URL)
		if err != nil {
			t.Error(err)
			first <- 0
			return
		}
		resp.Body.Close()
		first <- resp.StatusCode
	}()
	<-running
	resp := fetch(t, srv.URL)
	checkProblem(t, resp, http.StatusServiceUnavailable)
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || n < 1 {
		t.Errorf("Retry-After: %q", resp.Header.Get("Retry-After"))
	}
	// What comes with a deadline that has passed is answered by the guard outside.
	req, _ := http.NewRequestWithContext(t.Context(), "GET", srv.URL, nil)
	req.Header.Set("Fairlead-Timeout-Ms", "0")
	late, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	late.Body.Close()
	if late.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("a deadline of 0: %d", late.StatusCode)
	}
	close(hold)
	if status := <-first; status != 200 {
		t.Errorf("the first: %d", status)
	}
	if passed != 1 {
		t.Errorf("%d requests got to the middleware, want 1", passed)
	}
	if st := s.limiter.Stats(); st.RefusedDefault != 1 || st.Admitted != 1 {
		t.Errorf("%+v", st)
	}
	w := newFakeWorker(nil)
	w.AddSamples(s.traffic.samples)
	w.AddSamples(s.limiter.Samples)
	eventually(t, "telemetry counts the refusals", func() bool { return w.samples()["http.server.request.duration test GET  5xx"] == 2 })
	if n := w.samples()["fairlead.overload.refused test default"]; n != 1 {
		t.Errorf("%v", w.samples())
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("a minute later still not: %s", what)
		}
	}
}

// A stream holds no permit: the only one is free again while it goes on.
func TestStreamsHoldNoPermit(t *testing.T) {
	end := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /light", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "light") })
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: 1\n\n")
		http.NewResponseController(w).Flush()
		<-end
	})
	mux.HandleFunc("GET /hijack", func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		rw.WriteString("hijacked\n")
		rw.Flush()
		<-end
	})
	mux.HandleFunc("GET /upgrade", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "test")
		w.WriteHeader(http.StatusSwitchingProtocols)
		http.NewResponseController(w).Flush()
		<-end
	})
	mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("as asked") })
	srv, s := only(t, mux)
	defer close(end)
	streams := uint64(0)
	for path, want := range map[string]string{"/events": "data: 1", "/hijack": "hijacked", "/upgrade": "HTTP/1.1 101 Switching Protocols"} {
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: test\r\n\r\n")
		for r := bufio.NewReader(conn); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if strings.TrimSpace(line) == want {
				break
			}
		}
		if resp := fetch(t, srv.URL+"/light"); resp.StatusCode != 200 {
			t.Errorf("beside %s: %d", path, resp.StatusCode)
		}
		if streams++; s.limiter.Stats().Streams != streams {
			t.Errorf("%s is not counted as a stream", path)
		}
		eventually(t, "the light one's permit is back", func() bool { return s.limiter.Stats().InFlight == 0 })
	}
	checkProblem(t, fetch(t, srv.URL+"/panic"), http.StatusInternalServerError)
	eventually(t, "a panic gives its permit back", func() bool { return s.limiter.Stats().InFlight == 0 })
}

func TestALaneTakesAPermitsPlace(t *testing.T) {
	lane, err := offload.New("test", offload.Options{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer lane.Close()
	running, hold := make(chan struct{}), make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /light", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "light") })
	mux.HandleFunc("GET /heavy", func(w http.ResponseWriter, r *http.Request) {
		offload.Do(r.Context(), lane, func(context.Context) (int, error) {
			close(running)
			<-hold
			return 0, nil
		})
	})
	srv, _ := only(t, mux)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := http.Get(srv.URL + "/heavy"); err == nil {
			resp.Body.Close()
		}
	}()
	<-running
	if resp := fetch(t, srv.URL+"/light"); resp.StatusCode != 200 {
		t.Errorf("beside work in a lane: %d", resp.StatusCode)
	}
	close(hold)
	<-done
}

func TestOverloadOptions(t *testing.T) {
	_, err := New("test", Options{Overload: overload.Options{Min: -1, MaxWait: -1}})
	for _, want := range []string{"scale: Options.Overload: overload: Options.Min = -1", "Options.MaxWait"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %s", err, want)
		}
	}
	for _, test := range []struct{ max, own, want time.Duration }{
		{0, 0, 10 * time.Second},
		{5 * time.Second, 0, 4500 * time.Millisecond},
		{5 * time.Second, time.Second, time.Second},
		{-1, 0, 0},
	} {
		o := Options{MaxTimeout: test.max, Overload: overload.Options{MaxPatience: test.own}}.withDefaults()
		if o.Overload.MaxPatience != test.want {
			t.Errorf("MaxTimeout %v: MaxPatience %v, want %v", test.max, o.Overload.MaxPatience, test.want)
		}
	}
	s, err := New("test", Options{Logger: quiet(), Overload: overload.Options{Off: true, Min: 1, Max: 1, MaxQueue: -1}})
	if err != nil {
		t.Fatal(err)
	}
	inside := make(chan struct{}, 2)
	both := make(chan struct{})
	srv := httptest.NewServer(s.guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		inside <- struct{}{}
		<-both
	}), nil))
	defer srv.Close()
	for range 2 {
		go func() {
			if resp, err := http.Get(srv.URL); err == nil {
				resp.Body.Close()
			}
		}()
	}
	<-inside
	<-inside // switched off, it lets two in where one may be
	close(both)
}

func TestMemoryLimitOfTheControlGroup(t *testing.T) {
	const none, group = math.MaxInt64, 1 << 30
	for _, test := range []struct {
		env              string
		set, group, want int64
	}{
		{"", none, group, 966367641 - 64<<20},
		{"", none, 0, 0},
		{"off", none, group, 0},
		{"100MiB", 100 << 20, group, 0},
		{"", 100 << 20, group, 0},
	} {
		if got := memoryLimit(test.env, test.set, test.group); got != test.want {
			t.Errorf("%+v: %d", test, got)
		}
	}
}
