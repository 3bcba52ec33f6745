package redislimit

import (
	"context"
	"testing"
	"time"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/ratelimit"
)

// While Redis is dead or frozen each policy decides, in bounded time, and Redis decides again once it is back.
func TestRedisGone(t *testing.T) {
	for _, how := range []string{"killed", "frozen"} {
		for _, policy := range []ratelimit.OnError{ratelimit.Local, ratelimit.Deny} {
			t.Run(how+"/"+policy.String(), func(t *testing.T) {
				t.Parallel()
				testGone(t, how, policy)
			})
		}
	}
}

func testGone(t *testing.T, how string, policy ratelimit.OnError) {
	ctx := t.Context()
	r, err := testenv.StartRedis(ctx, testenv.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l := limiter(t, connect(t, r.URL()), ratelimit.Per(40, time.Hour), func(o *ratelimit.Options) {
		o.OnError, o.Processes, o.Timeout = policy, 4, 0
	})
	until(t, "Redis to decide", func() bool {
		d, err := l.Take(ctx, "warm up", 1)
		return err == nil && d.Limit == 40 && d.Allowed
	})

	down, up := r.Kill, func() error { return r.Start(ctx) }
	if how == "frozen" {
		down, up = r.Freeze, r.Thaw
	}
	if err := down(); err != nil {
		t.Fatal(err)
	}
	before := l.Stats()
	granted, errs := 0, 0
	for range 100 {
		d, err := l.Take(ctx, "k", 1)
		switch {
		case err != nil && d.Allowed:
			t.Fatalf("allowed beside an error: %+v, %v", d, err)
		case err != nil:
			errs++
		case d.Allowed:
			granted++
		}
	}
	s := l.Stats()
	switch policy {
	case ratelimit.Local: // a quarter of 40 for each of 4 processes
		if granted != 10 || errs != 0 || s.Local-before.Local != 100 || s.Denied != before.Denied {
			t.Errorf("Local: granted %d, %d errors, stats %+v after %+v; want 10 granted of the share", granted, errs, s, before)
		}
	case ratelimit.Deny:
		if granted != 0 || errs != 100 || s.Denied-before.Denied != 100 || s.Local != before.Local {
			t.Errorf("Deny: granted %d, %d errors, stats %+v after %+v; want 100 errors", granted, errs, s, before)
		}
	}
	if !s.Down || s.Failures == before.Failures {
		t.Errorf("stats %+v: want Down, and more failures than %d", s, before.Failures)
	}

	if err := up(); err != nil {
		t.Fatal(err)
	}
	until(t, "Redis to decide again", func() bool {
		d, err := l.Take(ctx, "again", 1)
		return err == nil && d.Limit == 40
	})
	until(t, "Down to end", func() bool { return !l.Stats().Down })
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited a minute for %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
