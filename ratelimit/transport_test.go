package ratelimit

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int, headers ...string) *http.Response {
	resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody}
	for i := 0; i < len(headers); i += 2 {
		resp.Header.Add(headers[i], headers[i+1])
	}
	return resp
}

func TestTransportKeepsWithinTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		began := time.Now()
		l := mustNew(t, "api", PerSecond(10).Burst(2), Options{})
		rt := Transport(roundTrip(func(*http.Request) (*http.Response, error) {
			at = append(at, time.Since(began))
			return answer(200), nil
		}), l, nil)
		for range 12 {
			req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://API.example/", nil)
			if _, err := rt.RoundTrip(req); err != nil {
				t.Fatal(err)
			}
		}
		for i := range at {
			for j := i; j < len(at); j++ {
				if n, most := j-i+1, 2+int((at[j]-at[i])/(100*time.Millisecond)); n > most {
					t.Fatalf("%d requests in %v: want at most %d", n, at[j]-at[i], most)
				}
			}
		}
	})
}

func TestTransportHonoursWhatItIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		date := time.Now().Add(time.Hour) // their clock is wrong
		for _, test := range []struct {
			name string
			resp *http.Response
			want time.Duration
		}{
			{"429", answer(429, "Retry-After", "7"), 7 * time.Second},
			{"503", answer(503, "Retry-After", "3"), 3 * time.Second},
			{"a date", answer(429, "Retry-After", date.Add(9*time.Second).UTC().Format(http.TimeFormat), "Date", date.UTC().Format(http.TimeFormat)), 9 * time.Second},
			{"another status", answer(200, "Retry-After", "3"), 0},
			{"429 without", answer(429), 0},
			{"malformed", answer(429, "Retry-After", "-3"), 0},
			{"for ever", answer(429, "Retry-After", "4000000000"), time.Hour},
			{"nothing left", answer(200, "RateLimit", `"default";r=0;t=5`), 5 * time.Second},
			{"some left", answer(200, "RateLimit", `"default";r=1;t=5`), 0},
			{"of several", answer(200, "RateLimit", `"a;r=0;t=99,";r=2;t=5, "b";t=6;r=0;pk=:YQ==:`, "RateLimit", `"c";r=0;t=2`), 6 * time.Second},
			{"both", answer(429, "RateLimit", `"a";r=0;t=2`, "Retry-After", "4"), 4 * time.Second},
			{"the old form", answer(200, "RateLimit", "limit=10, remaining=0, reset=5"), 0},
		} {
			l := mustNew(t, "api", PerSecond(1000), Options{})
			next := test.resp
			rt := Transport(roundTrip(func(*http.Request) (*http.Response, error) {
				resp := next
				next = answer(200)
				return resp, nil
			}), l, nil)
			send := func(ctx context.Context, host string) error {
				req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+host+"/", nil)
				_, err := rt.RoundTrip(req)
				return err
			}
			if err := send(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if err := send(t.Context(), "b"); err != nil || time.Since(began) != 0 {
				t.Errorf("%s: another host: %v after %v", test.name, err, time.Since(began))
			}
			if test.want > 0 {
				short, cancel := context.WithTimeout(t.Context(), test.want-1)
				err := send(short, "a")
				var e *Exceeded
				if !errors.As(err, &e) || e.RetryAfter != test.want || e.Retryable() || time.Since(began) != 0 {
					t.Errorf("%s: with too little time: %v after %v", test.name, err, time.Since(began))
				}
				cancel()
			}
			if err := send(t.Context(), "A"); err != nil || time.Since(began) != test.want {
				t.Errorf("%s: %v after %v, want %v", test.name, err, time.Since(began), test.want)
			}
		}
	})
}

type closeRecorder struct {
	io.Reader
	closed bool
}

func (c *closeRecorder) Close() error { c.closed = true; return nil }

func TestTransportEndsWithItsContextAndWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := mustNew(t, "api", PerSecond(1000), Options{})
		rt := Transport(roundTrip(func(*http.Request) (*http.Response, error) { return answer(429, "Retry-After", "60"), nil }), l, nil)
		body := &closeRecorder{Reader: strings.NewReader("x")}
		send := func(ctx context.Context) error {
			req, _ := http.NewRequestWithContext(ctx, "POST", "http://a/", body)
			_, err := rt.RoundTrip(req)
			return err
		}
		if err := send(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := send(ctx); !errors.Is(err, context.Canceled) || !body.closed {
			t.Errorf("%v, body closed %v", err, body.closed)
		}
		time.AfterFunc(time.Second, func() { l.Close() })
		if err := send(t.Context()); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

func FuzzExhausted(f *testing.F) {
	for _, s := range []string{"", `"a";r=0;t=5`, `"a;,\"";r=0`, `a;r=0;t=99999999999`, `,;=,"`, `"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d := exhausted([]string{s}); d < 0 {
			t.Errorf("%q: %v", s, d)
		}
	})
}
