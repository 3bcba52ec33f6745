package ratelimit

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	_ "time/tzdata"
)

func TestWindows(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err) // the tests of this package import time/tzdata
	}
	at := func(loc *time.Location, s string) time.Time {
		v, err := time.ParseInLocation("2006-01-02 15:04:05", s, loc)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct {
		unit       Unit
		loc        *time.Location
		t          string
		start, end string
	}{
		{Minute, time.UTC, "2026-11-25 04:22:13", "2026-11-25 04:22:00", "2026-11-25 04:23:00"},
		{Hour, berlin, "2026-11-25 04:22:13", "2026-11-25 04:00:00", "2026-11-25 05:00:00"},
		{Day, berlin, "2026-11-25 00:00:00", "2026-11-25 00:00:00", "2026-11-26 00:00:00"},
		{Day, berlin, "2026-03-29 12:00:00", "2026-03-29 00:00:00", "2026-03-30 00:00:00"}, // 23 hours
		{Day, berlin, "2026-10-25 23:59:59", "2026-10-25 00:00:00", "2026-10-26 00:00:00"}, // 25 hours
		{Week, time.UTC, "2026-11-25 04:22:13", "2026-11-23 00:00:00", "2026-11-30 00:00:00"},
		{Week, time.UTC, "2026-11-29 23:59:59", "2026-11-23 00:00:00", "2026-11-30 00:00:00"},
		{Week, time.UTC, "2026-11-30 00:00:00", "2026-11-30 00:00:00", "2026-12-07 00:00:00"},
		{Month, berlin, "2026-12-31 23:59:59", "2026-12-01 00:00:00", "2027-01-01 00:00:00"},
		{Month, time.UTC, "2028-02-29 12:00:00", "2028-02-01 00:00:00", "2028-03-01 00:00:00"},
	} {
		start, end := Calendar(1, c.unit, c.loc).rules[0].Window(at(c.loc, c.t))
		if !start.Equal(at(c.loc, c.start)) || !end.Equal(at(c.loc, c.end)) {
			t.Errorf("%v of %s: %v to %v", c.unit, c.t, start, end)
		}
	}
	// The hour that is there twice is two.
	first := time.Date(2026, 10, 25, 0, 30, 0, 0, time.UTC)
	a, aEnd := Calendar(1, Hour, berlin).rules[0].Window(first)
	b, _ := Calendar(1, Hour, berlin).rules[0].Window(first.Add(time.Hour))
	if !b.Equal(aEnd) || b.Sub(a) != time.Hour {
		t.Errorf("%v to %v, then %v", a, aEnd, b)
	}
}

func TestAQuotaOverAMonth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at midnight UTC 2000-01-01
		l := mustNew(t, "plan", Calendar(100, Month, nil).And(PerSecond(5)), Options{})
		take := func(n int) (granted int) {
			for range n {
				if d, _ := l.Take(t.Context(), "k", 1); d.Allowed {
					granted++
				}
				time.Sleep(200 * time.Millisecond)
			}
			return granted
		}
		if n := take(150); n != 100 {
			t.Errorf("%d in January", n)
		}
		d, _ := l.Take(t.Context(), "k", 1)
		if want := 31*24*time.Hour - 30*time.Second; d.Rule != 0 || d.RetryAfter < want || d.RetryAfter > want+time.Microsecond {
			t.Errorf("got %+v, want it until February", d)
		}
		time.Sleep(d.RetryAfter)
		if d, _ := l.Take(t.Context(), "k", 1); !d.Allowed || d.Remaining != 4 || d.Rule != 1 {
			t.Errorf("the first in February: got %+v", d)
		}
		if n := take(150); n != 99 {
			t.Errorf("%d more in February", n)
		}
	})
}

// What is in flight over a fleet never exceeds the limit, whoever dies with permits in hand, and all is free again afterwards.
func TestInFlightOverAFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFar()
		limit := InFlight(10, time.Second)
		var now, peak atomic.Int64
		var wg sync.WaitGroup
		for p := range 40 {
			l := mustNew(t, "jobs", limit, Options{Store: store, Logger: quiet()})
			wg.Go(func() {
				for i := range 50 {
					d, err := l.Take(t.Context(), "k", 1)
					if err != nil {
						t.Error(err)
						return
					}
					if !d.Allowed {
						if d.RetryAfter <= 0 || d.RetryAfter > time.Second {
							t.Errorf("got %+v", d)
						}
						time.Sleep(10 * time.Millisecond)
						continue
					}
					n := now.Add(1)
					for {
						if old := peak.Load(); n <= old || peak.CompareAndSwap(old, n) {
							break
						}
					}
					killed := p%4 == 0 && i%10 == 0
					if killed { // its permit stays out for the whole second, the work does not
						now.Add(-1)
						continue
					}
					time.Sleep(20 * time.Millisecond)
					now.Add(-1)
					if err := l.Return(t.Context(), "k", d); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if peak.Load() > 10 || peak.Load() < 5 {
			t.Errorf("%d were at it at once, want at most 10", peak.Load())
		}
		time.Sleep(time.Second)
		l := mustNew(t, "jobs", limit, Options{Store: store, Logger: quiet()})
		if d, err := l.Take(t.Context(), "k", 10); err != nil || !d.Allowed {
			t.Errorf("a second after the last: got %+v, %v", d, err)
		}
		if s := store.len(); s != 1 {
			t.Errorf("%d keys held", s)
		}
	})
}

// Another process may give back at any time, so what was refused is asked for again.
func TestARefusalOfWhatIsInFlightIsNotRemembered(t *testing.T) {
	store := newFar()
	one := mustNew(t, "jobs", InFlight(1, time.Hour), Options{Store: store, Logger: quiet()})
	two := mustNew(t, "jobs", InFlight(1, time.Hour), Options{Store: store, Logger: quiet()})
	d, err := one.Take(t.Context(), "k", 1)
	if err != nil || !d.Allowed {
		t.Fatalf("got %+v, %v", d, err)
	}
	if d, err := two.Take(t.Context(), "k", 1); err != nil || d.Allowed {
		t.Fatalf("got %+v, %v", d, err)
	}
	if err := one.Return(t.Context(), "k", d); err != nil {
		t.Fatal(err)
	}
	if d, err := two.Take(t.Context(), "k", 1); err != nil || !d.Allowed {
		t.Errorf("after another process gave it back: got %+v, %v", d, err)
	}
}

func TestMiddlewareGivesBackWhatIsInFlight(t *testing.T) {
	l := mustNew(t, "jobs", InFlight(1, time.Hour), Options{})
	key := func(*http.Request) string { return "k" }
	var inner *httptest.ResponseRecorder
	handler := Middleware(l, key)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			panic("no")
		}
		inner = httptest.NewRecorder()
		Middleware(l, key)(http.NotFoundHandler()).ServeHTTP(inner, r)
	}))
	for _, path := range []string{"/", "/panic", "/"} {
		func() {
			defer func() { recover() }()
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			if w.Code != 200 || w.Header().Get("RateLimit-Policy") != `"jobs";q=1;qu="concurrent-requests"` || w.Header().Get("RateLimit") != `"jobs";r=0` {
				t.Errorf("%s: %d %v", path, w.Code, w.Header())
			}
		}()
		if path == "/" && inner.Code != http.StatusTooManyRequests {
			t.Errorf("a second at the same time: %d", inner.Code)
		}
	}
	if s := l.Stats(); s.Returned != 3 {
		t.Errorf("%+v", s)
	}
}

func TestWhatAStoreCannotCountFailsNew(t *testing.T) {
	plain := struct{ Store }{NewMemory(0)} // says nothing of what it supports
	if _, err := New("x", PerSecond(1), Options{Store: plain}); err != nil {
		t.Error(err)
	}
	for limit, want := range map[string]Limit{
		"cannot count 5 per day (UTC)":       PerSecond(1).And(Calendar(5, Day, nil)),
		"cannot count 2 in flight (for 1s)":  InFlight(2, time.Second),
		"cannot count 2 in flight (for 10s)": Per(1, time.Hour).And(InFlight(2, 10*time.Second)),
	} {
		if _, err := New("x", want, Options{Store: plain}); err == nil || !strings.Contains(err.Error(), limit) {
			t.Errorf("%v: %v", want, err)
		}
	}
	l := mustNew(t, "x", PerSecond(1), Options{Store: plain, LimitFor: func(context.Context, string) Limit { return InFlight(2, time.Second) }})
	if _, err := l.Take(t.Context(), "k", 1); err == nil || !strings.Contains(err.Error(), "LimitFor") {
		t.Error(err)
	}
}

func TestReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, store := range map[string]Store{"memory": nil, "far": newFar()} {
			l := mustNew(t, "x", Per(10, 10*time.Hour), Options{Store: store, Logger: quiet()})
			take := func(cost int) Decision {
				d, err := l.Take(t.Context(), "k", cost)
				if err != nil {
					t.Fatal(err)
				}
				return d
			}
			give := func(d Decision) {
				if err := l.Return(t.Context(), "k", d); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			d := take(8)
			if r := take(3); r.Allowed {
				t.Errorf("%s: got %+v", name, r)
			} else {
				give(r) // gives back nothing
			}
			give(d)
			if d = take(3); !d.Allowed || d.Remaining != 7 { // the refusal of 3 is not remembered any more
				t.Errorf("%s: after a return: got %+v", name, d)
			}
			l.Close()
			if err := l.Return(t.Context(), "k", d); !errors.Is(err, ErrClosed) {
				t.Errorf("%s: %v", name, err)
			}
		}

		// While the store is away its share decides, and gets back what it gave.
		store := newFar()
		l := mustNew(t, "x", Per(10, 10*time.Hour), Options{Store: store, Processes: 2, Logger: quiet()})
		store.fails.Store(true)
		d, _ := l.Take(t.Context(), "k", 5)
		if !d.Allowed || d.Limit != 5 {
			t.Fatalf("got %+v", d)
		}
		asked := store.asked.Load()
		if err := l.Return(t.Context(), "k", d); err != nil || store.asked.Load() != asked {
			t.Errorf("%v, the store was asked", err)
		}
		if d, _ = l.Take(t.Context(), "k", 5); !d.Allowed {
			t.Errorf("got %+v", d)
		}
		store.fails.Store(false)
		if d, _ = l.Take(t.Context(), "k", 5); !d.Allowed || d.Limit != 10 {
			t.Fatalf("got %+v", d)
		}
		store.fails.Store(true)
		if err := l.Return(t.Context(), "k", d); !errors.Is(err, errFar) {
			t.Errorf("a return that failed: %v", err)
		}
	})
}

func TestWaitRefusesWhatItCannotGiveBack(t *testing.T) {
	l := mustNew(t, "jobs", InFlight(1, time.Hour), Options{})
	if err := l.Wait(t.Context(), "k"); err == nil || !strings.Contains(err.Error(), "use Take and Return") {
		t.Error(err)
	}
}

func TestExceededIsNotRetried(t *testing.T) {
	var says interface{ Retryable() bool }
	if !errors.As(error(&Exceeded{}), &says) || says.Retryable() {
		t.Error("package retry would try again")
	}
}
