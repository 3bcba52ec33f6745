package scale

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead/fairlead/pool/causal"
	"github.com/fairlead/fairlead/scale/breaker"
	"github.com/fairlead/fairlead/scale/retry"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func newTestClient(t *testing.T, o ClientOptions) *http.Client {
	t.Helper()
	o.Breaker.Logger = quiet()
	c, err := NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func answer(status int, headers ...string) (*http.Response, error) {
	resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody}
	for i := 0; i < len(headers); i += 2 {
		resp.Header.Set(headers[i], headers[i+1])
	}
	return resp, nil
}

func get(ctx context.Context, c *http.Client, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err == nil {
		resp.Body.Close()
	}
	return resp, err
}

func TestEveryBadClientOptionIsReported(t *testing.T) {
	_, err := NewClient(ClientOptions{
		AttemptTimeout: -1, Breaker: breaker.Options{Probes: -1}, Retry: retry.Options{MaxAttempts: -1}, Causal: causal.Options{Keys: [][]byte{{1}}},
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"scale: ClientOptions.AttemptTimeout = -1ns: must be >= 0", "ClientOptions.Breaker: breaker: Options.Probes = -1",
		"ClientOptions.Retry: retry: Options.MaxAttempts = -1", "ClientOptions.Causal: causal: Options.Keys[0]",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
}

// fakeLimiter waits, and records for whom.
type fakeLimiter struct {
	wait time.Duration
	err  error
	keys []string
}

func (l *fakeLimiter) Wait(ctx context.Context, key string) error {
	l.keys = append(l.keys, key)
	select {
	case <-time.After(l.wait):
		return l.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Retries stand outside the limiter, the limiter outside the breaker, and the deadline is the attempt's own.
func TestClientOrderOfGuards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &fakeLimiter{wait: 2 * time.Second}
		var timeouts []string
		c := newTestClient(t, ClientOptions{
			Limiter: l,
			Breaker: breaker.Options{MinCalls: 1, SlowCall: time.Second, MaxThrottle: -1},
			Retry:   retry.Options{BaseDelay: 1},
			Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
				timeouts = append(timeouts, r.Header.Get("Fairlead-Timeout-Ms"))
				if len(timeouts) == 3 {
					return answer(200)
				}
				return answer(503, "Retry-After", "1")
			}),
		})
		resp, err := get(t.Context(), c, "http://Reviews:8080/x")
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		// 30 s less 2 s for the limiter; then 1 s for Retry-After and 2 s for the limiter, twice.
		if want := []string{"28000", "24999", "21999"}; !slices.Equal(timeouts, want) {
			t.Errorf("Fairlead-Timeout-Ms was %v, want %v", timeouts, want)
		}
		if want := []string{"reviews", "reviews", "reviews"}; !slices.Equal(l.keys, want) {
			t.Errorf("the limiter was asked for %v, want %v", l.keys, want)
		}
		// The limiter's 2 s are no slow calls, and refusals no failures.
		stats := c.Transport.(*clientTransport).hosts.Stats()["reviews:8080"]
		if stats.State != breaker.Closed || stats.Slow != 0 || stats.Refused != 2 || stats.Successes != 1 {
			t.Errorf("%+v", stats)
		}
	})
}

// What this process refused is not tried again, and is no failure of the service.
func TestClientDoesNotRetryItsOwnRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		down := roundTrip(func(*http.Request) (*http.Response, error) { sent++; return nil, errors.New("down") })

		l := &fakeLimiter{err: errors.New("too many")}
		c := newTestClient(t, ClientOptions{Limiter: l, Transport: down})
		if _, err := get(t.Context(), c, "http://reviews/"); !errors.Is(err, l.err) || len(l.keys) != 1 || sent != 0 {
			t.Errorf("limiter: %v after %d waits and %d attempts", err, len(l.keys), sent)
		}

		c = newTestClient(t, ClientOptions{Transport: down, Breaker: breaker.Options{MinCalls: 1}})
		_, err := get(t.Context(), c, "http://reviews/")
		if open, ok := errors.AsType[*breaker.OpenError](err); !ok || open.Name != "client/reviews:80" || sent != 1 {
			t.Errorf("the retry met %v after %d attempts, want the breaker's refusal after 1", err, sent)
		}
		if _, err = get(t.Context(), c, "http://reviews/"); sent != 1 {
			t.Errorf("an open breaker let %d attempts pass: %v", sent, err)
		}
		before := c.Transport.(*clientTransport).budget.Stats().Retries
		for range 10 {
			get(t.Context(), c, "http://reviews/")
		}
		if s := c.Transport.(*clientTransport).budget.Stats(); s.Retries != before {
			t.Errorf("%d retries against an open breaker", s.Retries-before)
		}

		sent = 0
		c = newTestClient(t, ClientOptions{Transport: down})
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond-1)
		defer cancel()
		if _, err := get(short, c, "http://reviews/"); !errors.Is(err, context.DeadlineExceeded) || sent != 0 {
			t.Errorf("less than a millisecond left: %v after %d attempts", err, sent)
		}
		if s := c.Transport.(*clientTransport).hosts.Stats()["reviews:80"]; s.Failures != 0 || s.Ignored != 1 {
			t.Errorf("an attempt that was not sent counts: %+v", s)
		}
	})
}

// Against a target that always fails, attempts <= 1.1*requests + 10, whatever the breaker does.
func TestClientAttemptsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, disabled := range []bool{true, false} {
			sent := 0
			c := newTestClient(t, ClientOptions{
				Breaker:   breaker.Options{Disabled: disabled},
				Transport: roundTrip(func(*http.Request) (*http.Response, error) { sent++; return answer(502) }),
			})
			const requests = 1000
			for range requests {
				get(t.Context(), c, "http://reviews/")
			}
			if most := requests*11/10 + 10; sent > most {
				t.Errorf("disabled %v: %d attempts for %d requests, want at most %d", disabled, sent, requests, most)
			}
			if least := requests * 11 / 10; disabled && sent < least {
				t.Errorf("%d attempts for %d requests, want %d: the budget is there to be used", sent, requests, least)
			}
		}
	})
}

func TestClientTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var timeouts []string
		hang := roundTrip(func(r *http.Request) (*http.Response, error) {
			timeouts = append(timeouts, r.Header.Get("Fairlead-Timeout-Ms"))
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		for _, test := range []struct {
			o    ClientOptions
			took time.Duration
			want []string
		}{
			{ClientOptions{}, 30 * time.Second, []string{"30000"}},
			{ClientOptions{Timeout: time.Second, AttemptTimeout: 400 * time.Millisecond}, time.Second, []string{"400", "399", "199"}},
			{ClientOptions{Timeout: -1, AttemptTimeout: time.Second}, 3 * time.Second, []string{"1000", "1000", "1000"}},
		} {
			timeouts = nil
			test.o.Transport, test.o.Retry.BaseDelay = hang, 2
			began := time.Now()
			_, err := get(t.Context(), newTestClient(t, test.o), "http://reviews/")
			if took := time.Since(began).Round(time.Millisecond); !errors.Is(err, context.DeadlineExceeded) || took != test.took {
				t.Errorf("%+v: %v after %v, want a time-out after %v", test.o, err, took, test.took)
			}
			if len(timeouts) != len(test.want) || timeouts[0] != test.want[0] || timeouts[len(timeouts)-1] != test.want[len(test.want)-1] {
				t.Errorf("told the other side %v, want %v", timeouts, test.want)
			}
		}
		timeouts = nil
		none := newTestClient(t, ClientOptions{Timeout: -1, Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			timeouts = r.Header["Fairlead-Timeout-Ms"]
			return answer(200)
		})})
		if _, err := get(t.Context(), none, "http://reviews/"); err != nil || timeouts != nil {
			t.Errorf("without a deadline: %v, %v", timeouts, err)
		}
	})
}

// AttemptTimeout covers the body, and lets go of its timer when the body ends.
func TestClientAttemptTimeoutCoversTheBody(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
		}
	}))
	defer srv.Close()
	c := newTestClient(t, ClientOptions{AttemptTimeout: 100 * time.Millisecond})
	defer c.CloseIdleConnections()
	resp, err := c.Get(srv.URL + "/hang")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); string(text) != "half" || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%q, %v", text, err)
	}
	patient := newTestClient(t, ClientOptions{AttemptTimeout: time.Minute})
	defer patient.CloseIdleConnections()
	if resp, err = patient.Get(srv.URL); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(resp.Body); string(text) != "half" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	if resp.Request.Context().Err() == nil { // of the attempt: ended with the body
		t.Error("the attempt's context lives on")
	}
	resp.Body.Close()
}

// A deadline goes through a service to the one behind it, less what it took on the way; once it has passed nothing is begun.
func TestDeadlineCrossesTwoServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := func(h http.HandlerFunc) http.RoundTripper {
			s, err := New("test", Options{Logger: quiet()})
			if err != nil {
				t.Fatal(err)
			}
			guarded := s.guard(h, nil)
			return roundTrip(func(r *http.Request) (*http.Response, error) {
				w := httptest.NewRecorder()
				guarded.ServeHTTP(w, r.Clone(context.WithoutCancel(r.Context()))) // a server knows of a deadline only what it is told
				return w.Result(), nil
			})
		}
		var began atomic.Int32
		var left time.Duration
		back := service(func(w http.ResponseWriter, r *http.Request) {
			began.Add(1)
			deadline, _ := r.Context().Deadline()
			left = time.Until(deadline)
			w.WriteHeader(http.StatusNoContent)
		})
		toBack := newTestClient(t, ClientOptions{Transport: back})
		var took time.Duration // by the first service, before it calls the second
		front := service(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(took)
			resp, err := get(r.Context(), toBack, "http://back/")
			if err != nil {
				w.WriteHeader(http.StatusGatewayTimeout)
				return
			}
			w.WriteHeader(resp.StatusCode)
		})
		toFront := newTestClient(t, ClientOptions{Transport: front, Retry: retry.Options{MaxAttempts: 1}})
		call := func() int {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			resp, err := get(ctx, toFront, "http://front/")
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode
		}
		took = 300 * time.Millisecond
		if status := call(); status != http.StatusNoContent || left != 700*time.Millisecond || began.Load() != 1 {
			t.Errorf("status %d; the second service had %v left, want 700ms", status, left)
		}
		for _, took = range []time.Duration{time.Second - time.Millisecond/2, time.Second} {
			if status := call(); status != http.StatusGatewayTimeout || began.Load() != 1 {
				t.Errorf("after %v of 1 s: status %d, the second service began %d times, want once from before", took, status, began.Load())
			}
		}
	})
}

// What a request has written and read reaches the other service, and what that wrote comes back.
func TestClientCarriesTheCausalScope(t *testing.T) {
	o := causal.Options{Keys: [][]byte{[]byte("0123456789abcdef")}}
	carry, err := causal.Middleware(o)
	if err != nil {
		t.Fatal(err)
	}
	saw := make(chan string, 1)
	srv := httptest.NewServer(carry(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scope := causal.From(r.Context())
		saw <- scope.Seen()
		scope.Wrote("other=2")
	})))
	defer srv.Close()
	c := newTestClient(t, ClientOptions{Causal: o})
	defer c.CloseIdleConnections()
	ctx, scope := causal.Begin(t.Context())
	if err := errors.Join(scope.Wrote("db=7"), scope.Saw("cache=3,db=5")); err != nil {
		t.Fatal(err)
	}
	if _, err := get(ctx, c, srv.URL); err != nil {
		t.Fatal(err)
	}
	if got := <-saw; got != "cache=3,db=7" {
		t.Errorf("the service saw %q", got)
	}
	if got := scope.Written(ctx); !strings.Contains(got, "other=2") || !strings.Contains(got, "db=7") {
		t.Errorf("the caller has written %q, want what the service wrote in it", got)
	}

	// Without keys, or without a scope, nothing is sent.
	var sent http.Header
	rt := roundTrip(func(r *http.Request) (*http.Response, error) {
		sent = r.Header
		return answer(200, causal.Header, "forged")
	})
	get(ctx, newTestClient(t, ClientOptions{Transport: rt}), "http://reviews/")
	if sent.Get(causal.Header) != "" {
		t.Error("sent without keys")
	}
	get(t.Context(), newTestClient(t, ClientOptions{Transport: rt, Causal: o}), "http://reviews/")
	if sent.Get(causal.Header) != "" {
		t.Error("sent without a scope")
	}
	before := scope.Written(ctx)
	if _, err := get(ctx, newTestClient(t, ClientOptions{Transport: rt, Causal: o}), "http://reviews/"); err != nil || scope.Written(ctx) != before {
		t.Errorf("a forged answer: %v, written %q", err, scope.Written(ctx))
	}
}

func TestClientTransportIsAComponent(t *testing.T) {
	c := newTestClient(t, ClientOptions{Name: "reviews", Transport: roundTrip(func(*http.Request) (*http.Response, error) { return answer(200) })})
	if _, err := get(t.Context(), c, "http://a/"); err != nil {
		t.Fatal(err)
	}
	comp, err := newComponent(c.Transport)
	if err != nil || comp.close == nil || comp.samples == nil {
		t.Fatalf("%+v, %v", comp, err)
	}
	w := newFakeWorker(nil)
	w.AddSamples(comp.samples)
	if got := w.samples(); got["fairlead.breaker.calls reviews a:80 success"] != 1 || got["fairlead.retry.requests reviews"] != 1 {
		t.Errorf("%v", got)
	}
}

func ExampleNewClient() {
	reviews := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "five stars")
	}))
	defer reviews.Close()

	client, err := NewClient(ClientOptions{Name: "reviews", Timeout: 2 * time.Second, AttemptTimeout: 500 * time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.CloseIdleConnections()
	resp, err := client.Get(reviews.URL)
	if err != nil {
		// A breaker that is open, a deadline, or the last attempt's own error: answer without the reviews.
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	fmt.Println(string(text), err)
	// Output: five stars <nil>
}
