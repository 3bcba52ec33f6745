package overload

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestARefusalIsAProblemWithARetryAfter(t *testing.T) {
	l := fixed(t, 1, Options{MaxQueue: -1, RetryAfter: 4 * time.Second})
	defer Release(hold(t, l))
	h := l.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler ran") }))
	told := map[int]int{}
	for range 300 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		var p struct {
			Title, Detail string
			Status        int
		}
		if w.Code != 503 || w.Header().Get("Content-Type") != "application/problem+json" || json.Unmarshal(w.Body.Bytes(), &p) != nil || p.Status != 503 || p.Title == "" {
			t.Fatalf("%d %v %s", w.Code, w.Header(), w.Body)
		}
		after, err := strconv.Atoi(w.Header().Get("Retry-After"))
		if err != nil {
			t.Fatal(err)
		}
		told[after]++
	}
	for after := range told {
		if after < 2 || after > 7 {
			t.Errorf("Retry-After: %d", after)
		}
	}
	if len(told) < 4 {
		t.Errorf("Retry-After is not spread: %v", told)
	}
}

func TestADeadlineThatPassesInTheQueueIsAGatewayTimeout(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), -1)
	defer cancel()
	w := httptest.NewRecorder()
	fixed(t, 1, Options{}).Middleware(nil).ServeHTTP(w, httptest.NewRequest("GET", "/", nil).WithContext(ctx))
	if w.Code != 504 || w.Header().Get("Retry-After") != "" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

func TestTheHandlerSeesItsPriorityAndMayReleaseEarly(t *testing.T) {
	l := fixed(t, 1, Options{Priority: func(r *http.Request) Priority {
		if r.URL.Path == "/pay" {
			return Critical + 5
		}
		return Default
	}})
	for path, want := range map[string]Priority{"/pay": Critical, "/": Default} {
		l.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if got := PriorityFrom(r.Context()); got != want {
				t.Errorf("%s is %v", path, got)
			}
			if n := l.Stats().InFlight; n != 1 {
				t.Errorf("%d in flight", n)
			}
			Release(r.Context())
			if n := l.Stats().InFlight; n != 0 {
				t.Errorf("%d in flight after Release", n)
			}
		})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil))
		if n := l.Stats().InFlight; n != 0 {
			t.Errorf("%d in flight at the end", n)
		}
	}
}

func TestAPanicGivesThePermitBack(t *testing.T) {
	l := fixed(t, 1, Options{})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		l.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("x") })).
			ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	}()
	if n := l.Stats().InFlight; n != 0 {
		t.Errorf("%d in flight", n)
	}
}

// While these are open their permits are free again.
func TestStreamsGiveTheirPermitBackWhenTheyBegin(t *testing.T) {
	l := fixed(t, 1, Options{})
	release := make(chan struct{})
	end := sync.OnceFunc(func() { close(release) })
	srv := httptest.NewServer(l.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		switch r.URL.Path {
		case "/events":
			w.Header().Set("Content-Type", "Text/Event-Stream; charset=utf-8")
			fmt.Fprint(w, "data: 1\n\n")
			_ = rc.Flush()
		case "/socket":
			c, rw, err := rc.Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
			_ = rw.Flush()
		case "/page":
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "page\n")
			_ = rc.Flush()
		}
		<-release
	})))
	defer srv.Close()
	defer end()
	open := func(path string) *http.Response {
		res, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		if path == "/socket" {
			if res.StatusCode != 101 {
				t.Fatalf("%s: %d", path, res.StatusCode)
			}
		} else if line, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil || res.StatusCode != 200 {
			t.Fatalf("%s: %d %q %v", path, res.StatusCode, line, err)
		}
		return res
	}
	for _, path := range []string{"/events", "/socket", "/events"} {
		res := open(path)
		defer res.Body.Close()
		if s := l.Stats(); s.InFlight != 0 {
			t.Errorf("%s holds its permit", path)
		}
	}
	page := open("/page")
	defer page.Body.Close()
	if s := l.Stats(); s.InFlight != 1 || s.Streams != 3 {
		t.Errorf("a page that is flushed keeps its permit: %+v", s)
	}
	end()
	if _, err := io.Copy(io.Discard, page.Body); err != nil {
		t.Error(err)
	}
}

func TestPeersShareByAddress(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.7:80":           "192.0.2.7",
		"[::ffff:192.0.2.7]:80":  "192.0.2.7",
		"[2001:db8:1:2:3::4]:80": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80":      "fe80::/64",
		"@":                      "",
		"":                       "",
	} {
		if got := peer(&http.Request{RemoteAddr: remote}); got != want {
			t.Errorf("%q is %q, want %q", remote, got, want)
		}
	}
}

func TestTheKeyIsAskedOnlyOfThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		l := fixed(t, 1, Options{Key: func(*http.Request) string { asked++; return "" }})
		h := l.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		if asked != 0 {
			t.Errorf("asked %d times", asked)
		}
		held := hold(t, l)
		time.AfterFunc(time.Millisecond, func() { Release(held) })
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if asked != 1 || w.Code != 200 {
			t.Errorf("asked %d times, %d", asked, w.Code)
		}
	})
}
