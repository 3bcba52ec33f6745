package headers

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/fairlead/fairlead/ratelimit"
)

// policy is a member of RateLimit-Policy or RateLimit as draft-ietf-httpapi-ratelimit-headers defines it.
type policy struct {
	name   string
	params map[string]any
}

// parse reads a field as a List of Strings with parameters (RFC 9651), and holds it to the draft: of those parameters that it
// defines, q and r are there and not negative, w is above 0, qu is in the registry, nothing else is there.
func parse(t *testing.T, h http.Header, field, required string) []policy {
	t.Helper()
	lines := h.Values(field)
	list, err := httpsfv.UnmarshalList(lines)
	if err != nil {
		t.Fatalf("%s: %q: %v", field, lines, err)
	}
	var all []policy
	for _, m := range list {
		item, ok := m.(httpsfv.Item)
		if !ok {
			t.Fatalf("%s: %q: a member is a %T", field, lines, m)
		}
		p := policy{params: map[string]any{}}
		if p.name, ok = item.Value.(string); !ok || p.name == "" {
			t.Fatalf("%s: %q: a member is %v", field, lines, item.Value)
		}
		for _, name := range item.Params.Names() {
			v, _ := item.Params.Get(name)
			p.params[name] = v
			n, number := v.(int64)
			switch {
			case name == required && number && n >= 0, required == "r" && name == "t" && number && n >= 0:
			case required == "q" && name == "w" && number && n > 0:
			case required == "q" && name == "qu" && (v == "requests" || v == "content-bytes" || v == "concurrent-requests"):
			default:
				t.Errorf("%s: %q: parameter %s = %v (%T)", field, lines, name, v, v)
			}
		}
		if _, ok := p.params[required]; !ok {
			t.Errorf("%s: %q: %s has no %s", field, lines, p.name, required)
		}
		all = append(all, p)
	}
	return all
}

func TestRateLimitFields(t *testing.T) {
	key := func(*http.Request) string { return "k" }
	for name, limit := range map[string]ratelimit.Limit{
		"rate":      ratelimit.Per(3, time.Minute).Burst(2),
		"fast":      ratelimit.PerSecond(1_000_000),
		"slow":      ratelimit.Per(1, 10*365*24*time.Hour),
		"quota.day": ratelimit.Calendar(2, ratelimit.Day, nil),
		"month_q-1": ratelimit.Calendar(2, ratelimit.Month, nil),
		"in-flight": ratelimit.InFlight(1, time.Minute),
		"joined":    ratelimit.PerSecond(10).And(ratelimit.Per(2, time.Hour)).And(ratelimit.InFlight(5, time.Minute)),
	} {
		l, err := ratelimit.New(name, limit, ratelimit.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		outer, err := ratelimit.New("outer", ratelimit.Per(1000, time.Hour), ratelimit.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer outer.Close()
		handler := ratelimit.Middleware(outer, key)(ratelimit.Middleware(l, key)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if name == "in-flight" && r.Header.Get("Inner") == "" {
				r = r.Clone(context.Background())
				r.Header.Set("Inner", "1")
				ratelimit.Middleware(l, key)(http.NotFoundHandler()).ServeHTTP(w, r)
			}
		})))
		for i := range 4 {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			h := w.Header()
			policies := map[string]bool{}
			for _, p := range parse(t, h, "RateLimit-Policy", "q") {
				policies[p.name] = true
			}
			for _, p := range parse(t, h, "RateLimit", "r") {
				if !policies[p.name] {
					t.Errorf("%s: RateLimit speaks of %s, which no policy declares: %v", name, p.name, policies)
				}
			}
			if !policies["outer"] || !policies[name] {
				t.Errorf("%s: policies %v", name, policies)
			}
			if w.Code != http.StatusTooManyRequests {
				continue
			}
			if n, err := strconv.Atoi(h.Get("Retry-After")); err != nil || n < 1 {
				t.Errorf("%s, request %d: Retry-After: %q", name, i, h.Get("Retry-After"))
			}
		}
	}
}
