package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"time"

	"github.com/fairlead/fairlead/ratelimit"
)

func ExampleLimiter_Take() {
	logins, err := ratelimit.New("login", ratelimit.Per(3, time.Hour), ratelimit.Options{OnError: ratelimit.Deny})
	if err != nil {
		panic(err)
	}
	defer logins.Close()
	for range 4 {
		d, err := logins.Take(context.Background(), "ann@example.com", 1)
		if err != nil {
			panic(err)
		}
		fmt.Println(d.Allowed, d.Remaining, d.RetryAfter.Round(time.Minute))
	}
	// Output:
	// true 2 0s
	// true 1 0s
	// true 0 0s
	// false 0 20m0s
}

func ExampleLimit_And() {
	limit := ratelimit.PerSecond(10).Burst(20).And(ratelimit.Per(1000, time.Hour))
	fmt.Println(limit)
	// Output: 10 per 1s (burst 20) and 1000 per 1h0m0s
}

func ExampleLimiter_Wait() {
	api, err := ratelimit.New("their-api", ratelimit.Per(1, time.Minute), ratelimit.Options{})
	if err != nil {
		panic(err)
	}
	defer api.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	fmt.Println(api.Wait(ctx, "account"))
	err = api.Wait(ctx, "account") // does not wait for what comes too late
	if exceeded, ok := errors.AsType[*ratelimit.Exceeded](err); ok {
		fmt.Println("in", exceeded.RetryAfter.Round(time.Minute))
	}
	// Output:
	// <nil>
	// in 1m0s
}

func ExampleMiddleware() {
	perClient, err := ratelimit.New("client", ratelimit.Per(1, time.Minute), ratelimit.Options{})
	if err != nil {
		panic(err)
	}
	defer perClient.Close()
	loadBalancers := netip.MustParsePrefix("10.0.0.0/8")
	handler := ratelimit.Middleware(perClient, ratelimit.ClientIP(loadBalancers))(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }))

	for range 2 {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "10.0.0.7:41000"
		r.Header.Set("X-Forwarded-For", "1.2.3.4, 203.0.113.9") // the left one is the client's invention
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		left, _, _ := strings.Cut(w.Header().Get("RateLimit"), ";t=") // followed by the seconds until a permit is there
		fmt.Println(w.Code, w.Header().Get("RateLimit-Policy"), left)
	}
	// Output:
	// 200 "client";q=1;w=60 "client";r=0
	// 429 "client";q=1;w=60 "client";r=0
}

func ExampleOptions_limitFor() {
	plans := map[string]ratelimit.Limit{"pro": ratelimit.Per(100, time.Hour)}
	limiter, err := ratelimit.New("tenant", ratelimit.Per(10, time.Hour), ratelimit.Options{
		LimitFor: func(_ context.Context, key string) ratelimit.Limit { return plans[key] }, // the zero Limit: the limiter's own
	})
	if err != nil {
		panic(err)
	}
	defer limiter.Close()
	for _, tenant := range []string{"free", "pro"} {
		d, err := limiter.Take(context.Background(), tenant, 1)
		fmt.Println(tenant, d.Limit, err)
	}
	// Output:
	// free 10 <nil>
	// pro 100 <nil>
}

func ExampleInFlight() {
	exports, err := ratelimit.New("exports", ratelimit.InFlight(2, time.Minute), ratelimit.Options{})
	if err != nil {
		panic(err)
	}
	defer exports.Close()
	ctx := context.Background()
	var first ratelimit.Decision
	for i := range 3 {
		d, err := exports.Take(ctx, "tenant-7", 1)
		if err != nil {
			panic(err)
		}
		if i == 0 {
			first = d
		}
		fmt.Println(d.Allowed, d.Remaining)
	}
	err = exports.Return(ctx, "tenant-7", first) // when the export is done
	d, _ := exports.Take(ctx, "tenant-7", 1)
	fmt.Println(err, d.Allowed)
	// Output:
	// true 1
	// true 0
	// false 0
	// <nil> true
}

func ExampleCalendar() {
	zone := time.FixedZone("UTC+1", 3600)
	limit := ratelimit.Calendar(10_000, ratelimit.Month, zone).And(ratelimit.PerSecond(5))
	fmt.Println(limit)
	start, end := limit.Rules()[0].Window(time.Date(2026, 2, 14, 12, 0, 0, 0, time.UTC))
	fmt.Println(start, "to", end)
	// Output:
	// 10000 per month (UTC+1) and 5 per 1s
	// 2026-02-01 00:00:00 +0100 UTC+1 to 2026-03-01 00:00:00 +0100 UTC+1
}

func ExampleTransport() {
	theirs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("RateLimit", `"default";r=0;t=3600`) // nothing left for an hour
	}))
	defer theirs.Close()

	limiter, err := ratelimit.New("their-api", ratelimit.PerSecond(10), ratelimit.Options{})
	if err != nil {
		panic(err)
	}
	defer limiter.Close()
	client := &http.Client{Transport: ratelimit.Transport(nil, limiter, nil), Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Get(theirs.URL)
	if err != nil {
		panic(err)
	}
	resp.Body.Close()
	_, err = client.Get(theirs.URL) // does not send what they would refuse
	if exceeded, ok := errors.AsType[*ratelimit.Exceeded](err); ok {
		fmt.Println("in", exceeded.RetryAfter.Round(time.Minute))
	}
	// Output: in 1h0m0s
}
