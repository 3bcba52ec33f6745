package ratelimit

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func byUser(r *http.Request) string { return r.Header.Get("User") }

func serve(h http.Handler, user string) *http.Response {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("User", user)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

var teapot = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) })

func TestMiddleware(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := mustNew(t, "client", Per(2, 10*time.Second), Options{}) // one in 5 s
		h := Middleware(l, byUser)(teapot)

		for i, want := range []string{`"client";r=1;t=5`, `"client";r=0;t=5`} {
			resp := serve(h, "ann")
			if resp.StatusCode != http.StatusTeapot {
				t.Fatalf("request %d: status %d", i, resp.StatusCode)
			}
			if got := resp.Header.Get("RateLimit"); got != want {
				t.Errorf("request %d: RateLimit: %s, want %s", i, got, want)
			}
			if got, want := resp.Header.Get("RateLimit-Policy"), `"client";q=2;w=10`; got != want {
				t.Errorf("request %d: RateLimit-Policy: %s, want %s", i, got, want)
			}
			if got := resp.Header.Get("Retry-After"); got != "" {
				t.Errorf("request %d: Retry-After: %s beside %d", i, got, resp.StatusCode)
			}
		}

		time.Sleep(900 * time.Millisecond)
		seen := map[string]int{}
		for range 200 {
			resp := serve(h, "ann")
			if resp.StatusCode != http.StatusTooManyRequests {
				t.Fatalf("status %d, want 429", resp.StatusCode)
			}
			if got, want := resp.Header.Get("RateLimit"), `"client";r=0;t=5`; got != want { // 4.1 s, rounded up
				t.Fatalf("RateLimit: %s, want %s", got, want)
			}
			seen[resp.Header.Get("Retry-After")]++
			if got := resp.Header.Get("Content-Type"); got != "application/problem+json" {
				t.Fatalf("Content-Type: %s", got)
			}
			var body map[string]any
			if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
				t.Fatal(err)
			}
			if got, want := fmt.Sprint(body), "map[status:429 title:Too many requests type:https://iana.org/assignments/http-problem-types#quota-exceeded violated-policies:[client]]"; got != want {
				t.Fatalf("body %s, want %s", got, want)
			}
		}
		// 4.1 s and up to a quarter more, at least a second.
		if len(seen) != 2 || seen["5"] == 0 || seen["6"] == 0 {
			t.Errorf("Retry-After was %v, want 5 and 6", seen)
		}

		if resp := serve(h, "bob"); resp.StatusCode != http.StatusTeapot {
			t.Errorf("another key: status %d", resp.StatusCode)
		}
		for range 10 {
			if resp := serve(h, ""); resp.StatusCode != http.StatusTeapot || resp.Header.Get("RateLimit") != "" {
				t.Errorf("no key: status %d, RateLimit: %q; want no limit", resp.StatusCode, resp.Header.Get("RateLimit"))
			}
		}
	})
}

func TestRetryAfterIsNeverZeroNorEarly(t *testing.T) {
	for _, d := range []time.Duration{-time.Second, 0, 1, time.Microsecond, time.Millisecond, time.Second, time.Second + 1, time.Minute, time.Hour, 24 * time.Hour} {
		for range 200 {
			got := retryAfter(d)
			if got < 1 || time.Duration(got)*time.Second < d || time.Duration(got)*time.Second > d+max(d/4, 0)+2*time.Second || time.Duration(got)*time.Second > max(d, 0)+32*time.Second {
				t.Fatalf("%v became %d s", d, got)
			}
		}
	}
}

func TestMiddlewareNamesTheLimitThatBinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := mustNew(t, "api", PerSecond(100).Burst(50).And(Per(3, time.Hour)), Options{})
		outer := mustNew(t, "everybody", Per(10_000, time.Hour), Options{})
		h := Middleware(outer, func(*http.Request) string { return "all" })(Middleware(l, byUser)(teapot))
		var resp *http.Response
		for range 4 {
			resp = serve(h, "ann")
		}
		policies := parseList(t, resp.Header.Values("RateLimit-Policy"))
		if got, want := fmt.Sprint(policies), "[{everybody map[q:10000 w:3600]} {api map[q:50 w:1]} {api-2 map[q:3 w:3600]}]"; got != want {
			t.Errorf("policies %s, want %s", got, want)
		}
		limits := parseList(t, resp.Header.Values("RateLimit"))
		if len(limits) != 2 || limits[0].value != "everybody" || limits[0].params["r"] != 9996 || limits[1].value != "api-2" || limits[1].params["r"] != 0 {
			t.Errorf("limits %v", limits)
		}
		if after, _ := strconv.Atoi(resp.Header.Get("Retry-After")); int64(after) < limits[1].params["t"] {
			t.Errorf("Retry-After: %d is before the end of the window, %d", after, limits[1].params["t"])
		}
		var body problem
		if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || !slices.Equal(body.Violated, []string{"api-2"}) {
			t.Errorf("body %+v, %v", body, err)
		}
	})
}

func TestMiddlewareWithoutAStore(t *testing.T) {
	store := newFar()
	store.fails.Store(true)
	deny := mustNew(t, "login", Per(5, time.Minute), Options{Store: store, OnError: Deny, Logger: quiet()})
	resp := serve(Middleware(deny, byUser)(teapot), "ann")
	var body problem
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || resp.Header.Get("RateLimit") != "" ||
		body.Type != "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity" {
		t.Errorf("Deny: status %d, header %v, body %+v", resp.StatusCode, resp.Header, body)
	}

	local := mustNew(t, "traffic", Per(50, time.Minute), Options{Store: store, Processes: 5, Logger: quiet()})
	resp = serve(Middleware(local, byUser)(teapot), "ann")
	if got := resp.Header.Get("RateLimit"); resp.StatusCode != http.StatusTeapot || got != `"traffic";r=9;t=6` {
		t.Errorf("Local: status %d, RateLimit: %s; want the share, with a permit each 6 s", resp.StatusCode, got)
	}
}

func TestMiddlewareWhenTimeHasRunOut(t *testing.T) {
	l := mustNew(t, "x", PerSecond(1), Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
	r.Header.Set("User", "ann")
	w := httptest.NewRecorder()
	Middleware(l, byUser)(teapot).ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("status %d, header %v; want 503", w.Code, w.Header())
	}
}

// Fields of any limit and decision parse, and say nothing absurd.
func FuzzFields(f *testing.F) {
	f.Add(50, int64(time.Second), 100, 3, int64(0))
	f.Add(1, int64(time.Hour), 2, 2, int64(1))
	f.Add(999_983, int64(time.Second), 1000, 1000, int64(17))
	f.Fuzz(func(t *testing.T, n int, per int64, burst, cost int, again int64) {
		limit := Per(n, time.Duration(per)).Burst(burst).And(PerSecond(1))
		if limit.valid() != nil {
			return
		}
		store := NewMemory(0)
		ask := Ask{Name: "n", Key: "k", Cost: max(1, cost%(maxCost(limit.rules)+1)), Rules: limit.rules[:1]}
		if again%2 == 0 {
			ask.Rules = limit.rules
		}
		if ask.Cost < 1 || ask.Cost > maxCost(ask.Rules) {
			return
		}
		for range 1 + (again%5+5)%5 {
			d := store.take(ask)
			l := parseList(t, []string{limitField("n", d, ask.Rules)})
			p := parseList(t, []string{policyField("n", ask.Rules)})
			if len(l) != 1 || len(p) != len(ask.Rules) || l[0].value != p[d.Rule].value {
				t.Fatalf("limits %v, policies %v", l, p)
			}
			if r, tt := l[0].params["r"], l[0].params["t"]; r < 0 || r > p[d.Rule].params["q"] || tt < 1 {
				t.Fatalf("%v of %v, decision %+v", l, p, d)
			}
			if d.Allowed && time.Duration(l[0].params["t"])*time.Second > d.ResetAfter+2*time.Second {
				t.Fatalf("%v for %+v: a permit comes back later than all of them", l, d)
			}
		}
	})
}

type item struct {
	value  string
	params map[string]int64
}

// parseList reads a list of strings with integer parameters as RFC 9651 section 4.2 does, and nothing else.
func parseList(t *testing.T, lines []string) (items []item) {
	t.Helper()
	in := strings.Join(lines, ", ")
	s := strings.TrimLeft(in, " ")
	fail := func(what string) {
		t.Helper()
		t.Fatalf("field %q: %s at %q", in, what, s)
	}
	for {
		if !strings.HasPrefix(s, `"`) {
			fail("want a string")
		}
		end := strings.IndexByte(s[1:], '"')
		if end < 0 || strings.ContainsAny(s[1:1+end], "\\\x7f") {
			fail("want a plain string")
		}
		it := item{s[1 : 1+end], map[string]int64{}}
		for s = s[end+2:]; strings.HasPrefix(s, ";"); {
			s = strings.TrimLeft(s[1:], " ")
			i := strings.IndexAny(s, "=;, ")
			if i < 1 || s[i] != '=' || strings.Trim(s[:i], "abcdefghijklmnopqrstuvwxyz") != "" {
				fail("want a key with a value")
			}
			name := s[:i]
			s = s[i+1:]
			j := 0
			for j < len(s) && ('0' <= s[j] && s[j] <= '9' || j == 0 && s[j] == '-') {
				j++
			}
			if j > 15 {
				fail("integer of more than 15 digits")
			}
			n, err := strconv.ParseInt(s[:j], 10, 64)
			if err != nil {
				fail("want an integer")
			}
			it.params[name] = n
			s = s[j:]
		}
		items = append(items, it)
		if s = strings.TrimLeft(s, " \t"); s == "" {
			return items
		}
		if s[0] != ',' {
			fail("want a comma")
		}
		if s = strings.TrimLeft(s[1:], " \t"); s == "" {
			fail("trailing comma")
		}
	}
}
