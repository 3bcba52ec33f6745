package ratelimit

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxPauses = 1024
	maxPause  = time.Hour // nobody who says more is believed for longer
)

// Transport returns an http.RoundTripper that keeps within limits that somebody else has published: before each request it waits
// for a permit of l ([Limiter.Wait]), for the key that key returns; nil means the URL's host. rt sends the requests; nil means
// http.DefaultTransport.
//
// It also listens. After 429, or 503 with Retry-After, or a RateLimit field that has nothing left (r=0), requests of that key wait
// until the time that was named, at most an hour, is over. A request that would wait past its context's deadline fails at once
// with *[Exceeded]. It repeats nothing: that is for package scale/retry, which stands outside of it.
func Transport(rt http.RoundTripper, l *Limiter, key func(*http.Request) string) http.RoundTripper {
	if rt == nil {
		rt = http.DefaultTransport
	}
	if key == nil {
		key = func(r *http.Request) string { return strings.ToLower(r.URL.Host) }
	}
	return &transport{rt: rt, l: l, key: key, until: make(map[string]time.Time)}
}

type transport struct {
	rt  http.RoundTripper
	l   *Limiter
	key func(*http.Request) string

	mu    sync.Mutex
	until map[string]time.Time // keys that were told to wait
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	key, ctx := t.key(req), req.Context()
	err := t.pause(ctx, key)
	if err == nil {
		err = t.l.Wait(ctx, key)
	}
	if err == nil {
		err = t.pause(ctx, key) // somebody may have been told while this one waited
	}
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	resp, err := t.rt.RoundTrip(req)
	if err == nil {
		if d := told(resp, time.Now()); d > 0 {
			t.remember(key, time.Now().Add(min(d, maxPause)))
		}
	}
	return resp, err
}

// CloseIdleConnections is what http.Client.CloseIdleConnections looks for.
func (t *transport) CloseIdleConnections() {
	if rt, ok := t.rt.(interface{ CloseIdleConnections() }); ok {
		rt.CloseIdleConnections()
	}
}

// pause waits while the key was told to.
func (t *transport) pause(ctx context.Context, key string) error {
	for {
		t.mu.Lock()
		until, ok := t.until[key]
		wait := time.Until(until)
		if ok && wait <= 0 {
			delete(t.until, key)
		}
		t.mu.Unlock()
		if !ok || wait <= 0 {
			return nil
		}
		if beyond(ctx, wait) {
			return &Exceeded{Name: t.l.name, RetryAfter: wait}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-t.l.closing:
			timer.Stop()
			return fmt.Errorf("%s: %w", t.l.name, ErrClosed)
		}
	}
}

func (t *transport) remember(key string, until time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.until) >= maxPauses {
		now := time.Now()
		for k, at := range t.until {
			if !at.After(now) {
				delete(t.until, k)
			}
		}
	}
	if len(t.until) < maxPauses && until.After(t.until[key]) {
		t.until[key] = until
	}
}

// told is how long the other side wants to hear nothing.
func told(resp *http.Response, now time.Time) time.Duration {
	d := exhausted(resp.Header.Values("RateLimit"))
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		d = max(d, after(resp.Header, now))
	}
	return d
}

// after reads Retry-After (RFC 9110, 10.2.3). A date is taken relative to the response's own, so that the clocks need not agree.
func after(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.ParseUint(value, 10, 32); err == nil {
		return time.Duration(n) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return at.Sub(now)
}

// exhausted is the longest t of the limits in RateLimit fields that have r=0. Older forms of the field, and what is malformed, are
// not there.
func exhausted(fields []string) (longest time.Duration) {
	for _, f := range fields {
		for f != "" {
			member := f
			if i := lastOutsideQuotes(f, ','); i >= 0 {
				member, f = f[i+1:], f[:i]
			} else {
				f = ""
			}
			left, wait := -1, 0
			for {
				i := lastOutsideQuotes(member, ';')
				if i < 0 {
					break
				}
				name, value, _ := strings.Cut(strings.Trim(member[i+1:], " "), "=")
				member = member[:i]
				n, err := strconv.ParseUint(value, 10, 31)
				switch {
				case err != nil:
				case name == "r":
					left = int(n)
				case name == "t":
					wait = int(n)
				}
			}
			if left == 0 {
				longest = max(longest, time.Duration(wait)*time.Second)
			}
		}
	}
	return longest
}
