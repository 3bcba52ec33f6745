package offload

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestMiddlewareAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 1, MaxQueue: 1, RunTimeout: time.Minute})
		defer l.Close()
		serve := func(ctx context.Context) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			l.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if d, ok := r.Context().Deadline(); !ok || time.Until(d) > time.Minute {
					t.Error("no time-out in the handler's context")
				}
				io.WriteString(w, "done")
			})).ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/", nil))
			return w
		}
		if w := serve(t.Context()); w.Code != 200 || w.Body.String() != "done" {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		free := occupy(t, l)
		waits := make(chan *httptest.ResponseRecorder)
		go func() { waits <- serve(t.Context()) }()
		synctest.Wait()
		for _, w := range []*httptest.ResponseRecorder{serve(t.Context()), <-waits} {
			after, err := strconv.Atoi(w.Header().Get("Retry-After"))
			if w.Code != 503 || err != nil || after < 1 || after > 3 || w.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("refused: %d %v", w.Code, w.Header())
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if w := serve(ctx); w.Code != 504 || w.Header().Get("Retry-After") != "" {
			t.Errorf("its deadline passed in the queue: %d %v", w.Code, w.Header())
		}
		free()
	})
}

// net/http does not allow a handler to use its writer after ServeHTTP has returned.
func TestMiddlewareWaitsForTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 1, RunTimeout: 10 * time.Millisecond})
		defer l.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		began := time.Now()
		w := httptest.NewRecorder()
		l.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			io.WriteString(w, "late")
		})).ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/", nil))
		if d := time.Since(began); d != time.Second || w.Body.String() != "late" {
			t.Errorf("returned after %v with %q", d, w.Body)
		}
	})
}

func TestMiddlewarePassesPanicsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 1})
		defer l.Close()
		panicOf := func(h http.HandlerFunc) (v any) {
			defer func() { v = recover() }()
			l.Middleware(h).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
			return nil
		}
		if v := panicOf(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }); v != any(http.ErrAbortHandler) {
			t.Errorf("abort: %v", v)
		}
		if v := panicOf(func(http.ResponseWriter, *http.Request) { runtime.Goexit() }); v != any(http.ErrAbortHandler) {
			t.Errorf("Goexit: %v", v)
		}
		v := panicOf(func(http.ResponseWriter, *http.Request) { panic("as asked") })
		if p, ok := v.(*PanicError); !ok || p.Value != "as asked" || !strings.Contains(string(p.Stack), "middleware_test.go") {
			t.Errorf("panic: %v", v)
		}
	})
}
