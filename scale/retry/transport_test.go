package retry

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type body struct {
	io.Reader
	read   int
	closed bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.read += n
	return n, err
}
func (b *body) Close() error { b.closed = true; return nil }

// Over real connections: the body is sent again in full, connections are used again, and the answer comes.
func TestTransportRepeatsTheBody(t *testing.T) {
	var got []string
	var conns atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		got = append(got, r.Method+" "+string(text))
		if len(got) < 3 {
			w.WriteHeader(503)
			w.Write(bytes.Repeat([]byte("x"), 30_000))
			return
		}
		fmt.Fprint(w, "stored")
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	b := newTest(t, Options{BaseDelay: time.Millisecond})
	client := &http.Client{Transport: Transport(nil, b)}
	defer client.CloseIdleConnections()
	req, _ := http.NewRequest("PUT", server.URL, strings.NewReader("five stars"))
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); string(text) != "stored" {
		t.Errorf("%s", text)
	}
	if want := "[PUT five stars PUT five stars PUT five stars]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %v", got, want)
	}
	if n := conns.Load(); n > 2 { // net/http may find one still busy on a loaded machine
		t.Errorf("%d connections", n)
	}
	if s := b.Stats(); s != (Stats{Requests: 1, Retries: 2, Recovered: 1}) {
		t.Errorf("%+v", s)
	}
}

// attempts sends one request against a target that always answers so.
func attempts(t *testing.T, o Options, req *http.Request, answer func() (*http.Response, error)) (n int, resp *http.Response, err error) {
	t.Helper()
	rt := Transport(roundTrip(func(*http.Request) (*http.Response, error) { n++; return answer() }), newTest(t, o))
	resp, err = rt.RoundTrip(req)
	return n, resp, err
}

func status(code int) func() (*http.Response, error) {
	return func() (*http.Response, error) {
		return &http.Response{StatusCode: code, Header: http.Header{}, Body: http.NoBody}, nil
	}
}

func request(method string, body io.Reader, header ...string) *http.Request {
	req, err := http.NewRequest(method, "http://reviews/", body)
	if err != nil {
		panic(err)
	}
	for _, h := range header {
		req.Header[h] = nil
	}
	return req
}

func TestTransportRetriesOnlyWhatIsSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stream := io.MultiReader(strings.NewReader("x")) // cannot be read again
		for _, test := range []struct {
			name string
			req  *http.Request
			o    Options
			want int
		}{
			{"GET", request("GET", nil), Options{}, 3},
			{"HEAD", request("HEAD", nil), Options{}, 3},
			{"DELETE", request("DELETE", nil), Options{}, 3},
			{"PUT", request("PUT", strings.NewReader("x")), Options{}, 3},
			{"PUT of a stream", request("PUT", stream), Options{}, 1},
			{"POST", request("POST", strings.NewReader("x")), Options{}, 1},
			{"PATCH", request("PATCH", nil), Options{}, 1},
			{"POST with a key", request("POST", strings.NewReader("x"), "Idempotency-Key"), Options{}, 3},
			{"POST with the other key", request("POST", nil, "X-Idempotency-Key"), Options{}, 3},
			{"POST of a stream with a key", request("POST", stream, "Idempotency-Key"), Options{}, 1},
			{"POST said to be safe", request("POST", strings.NewReader("x")), Options{IsSafe: func(*http.Request) bool { return true }}, 3},
			{"GET said not to be", request("GET", nil), Options{IsSafe: func(*http.Request) bool { return false }}, 1},
		} {
			n, resp, err := attempts(t, test.o, test.req, status(503))
			if n != test.want || err != nil || resp.StatusCode != 503 {
				t.Errorf("%s: %d attempts, want %d; %v %v", test.name, n, test.want, resp, err)
			}
		}
	})
}

func TestTransportRetriesOnlyWhatMayPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for code, want := range map[int]int{200: 1, 404: 1, 429: 3, 500: 1, 501: 1, 502: 3, 503: 3, 504: 3} {
			if n, resp, err := attempts(t, Options{}, request("GET", nil), status(code)); n != want || err != nil || resp.StatusCode != code {
				t.Errorf("%d: %d attempts, want %d; %v", code, n, want, err)
			}
		}
		own := Options{RetryStatus: func(s int) bool { return s == 500 }}
		if n, _, _ := attempts(t, own, request("GET", nil), status(500)); n != 3 {
			t.Errorf("own statuses: %d attempts", n)
		}
		for _, test := range []struct {
			err  error
			want int
		}{
			{errDown, 3}, {local{}, 1}, {Permanent(errDown), 1}, {fmt.Errorf("dial: %w", local{}), 1},
			{&tls.CertificateVerificationError{Err: errDown}, 1},
		} {
			n, resp, err := attempts(t, Options{}, request("GET", nil), func() (*http.Response, error) { return nil, test.err })
			if n != test.want || err != test.err || resp != nil {
				t.Errorf("%v: %d attempts, want %d; %v", test.err, n, test.want, err)
			}
		}
	})
}

// attempts <= 1.1*requests + 10 for each host, and one host's failures leave another's budget alone.
func TestTransportAttemptsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTest(t, Options{})
		sent := map[string]int{}
		rt := Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			sent[r.URL.Host]++
			return status(503)()
		}), b)
		send := func(host string, n int) {
			for range n {
				req, _ := http.NewRequest("GET", "http://"+host+"/", nil)
				if resp, err := rt.RoundTrip(req); err != nil || resp.StatusCode != 503 {
					t.Fatal(resp, err)
				}
			}
		}
		send("a", 2000)
		if n := sent["a"]; n > 2210 || n < 2209 {
			t.Errorf("%d attempts for 2000 requests", n)
		}
		send("b", 5)
		if n := sent["b"]; n != 15 {
			t.Errorf("%d attempts for another host's 5 requests, want 15", n)
		}
		// Names that a client cannot stop coming share a bucket.
		total := 0
		for i := range 5000 {
			send(fmt.Sprint("h", i), 1)
			total += sent[fmt.Sprint("h", i)]
		}
		if len(b.hosts) != maxHosts || total > 3*(maxHosts-2)+(5000-maxHosts+2)*11/10+10 {
			t.Errorf("%d hosts kept, %d attempts", len(b.hosts), total)
		}
	})
}

func TestTransportHonoursRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			name, value string
			o           Options
			want        time.Duration // before each retry; -1 means none
		}{
			{"date", time.Now().Add(4 * time.Second).UTC().Format(http.TimeFormat), Options{MaxAttempts: 2}, 4 * time.Second},
			{"seconds", "3", Options{}, 3 * time.Second},
			{"at once", "0", Options{}, 0},
			{"in the past", "Fri, 01 Jan 1999 00:00:00 GMT", Options{}, 0},
			{"too long", "11", Options{}, -1},
			{"as long as it may be", "10", Options{}, 10 * time.Second},
			{"endless", "99999999999999999999999", Options{MaxRetryAfter: time.Hour}, -1},
			{"not waited for", "0", Options{MaxRetryAfter: -1}, -1},
			{"malformed", "soon", Options{}, 0},
			{"negative", "-5", Options{}, 0},
		} {
			test.o.BaseDelay, test.o.MaxDelay = 100*time.Millisecond, 100*time.Millisecond
			var at []time.Time
			_, resp, err := attempts(t, test.o, request("GET", nil), func() (*http.Response, error) {
				at = append(at, time.Now())
				return &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {test.value}}, Body: http.NoBody}, nil
			})
			if err != nil || resp.Header.Get("Retry-After") != test.value {
				t.Errorf("%s: %v %v", test.name, resp, err)
			}
			if test.want < 0 {
				if len(at) != 1 {
					t.Errorf("%s: %d attempts, want 1", test.name, len(at))
				}
				continue
			}
			want := 3
			if test.o.MaxAttempts > 0 {
				want = test.o.MaxAttempts
			}
			if len(at) != want {
				t.Fatalf("%s: %d attempts", test.name, len(at))
			}
			for i := range at[1:] {
				if d := at[i+1].Sub(at[i]); d < test.want || d > test.want+100*time.Millisecond {
					t.Errorf("%s: waited %v, want %v and up to 100ms", test.name, d, test.want)
				}
			}
		}
	})
}

func TestTransportDoesNotWaitPastTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		start := time.Now()
		n, resp, err := attempts(t, Options{}, request("GET", nil).WithContext(short), func() (*http.Response, error) {
			return &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {"3"}}, Body: http.NoBody}, nil
		})
		if n != 1 || err != nil || resp.StatusCode != 503 || time.Since(start) != 0 {
			t.Errorf("%d attempts in %v: %v %v", n, time.Since(start), resp, err)
		}
	})
}

// All responses but the last are read to their end, within reason, and closed; the last is left to the caller.
func TestTransportDrainsWhatItDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, size := range []int{1000, 1 << 20} {
			var bodies []*body
			_, resp, err := attempts(t, Options{}, request("GET", nil), func() (*http.Response, error) {
				b := &body{Reader: strings.NewReader(strings.Repeat("x", size))}
				bodies = append(bodies, b)
				return &http.Response{StatusCode: 503, Header: http.Header{}, Body: b}, nil
			})
			if err != nil || len(bodies) != 3 {
				t.Fatal(err, len(bodies))
			}
			for _, b := range bodies[:2] {
				if !b.closed || b.read < min(size, 64<<10) || b.read > 64<<10 {
					t.Errorf("of %d bytes %d read, closed %v", size, b.read, b.closed)
				}
			}
			if last := bodies[2]; last.closed || last.read != 0 || resp.Body != last {
				t.Errorf("the last was touched: %+v", last)
			}
		}
	})
}

func TestTransportCancelledWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		answer := &body{Reader: strings.NewReader("x")}
		var again []*body
		req := request("PUT", strings.NewReader("x")).WithContext(ctx)
		req.GetBody = func() (io.ReadCloser, error) {
			again = append(again, &body{Reader: strings.NewReader("x")})
			return again[len(again)-1], nil
		}
		start := time.Now()
		time.AfterFunc(time.Second, cancel)
		n, resp, err := attempts(t, Options{}, req, func() (*http.Response, error) {
			return &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {"5"}}, Body: answer}, nil
		})
		if n != 1 || resp != nil || err != context.Canceled || !answer.closed || len(again) != 1 || !again[0].closed || time.Since(start) != time.Second {
			t.Errorf("%d attempts, %v %v, %+v", n, resp, err, again)
		}
	})
}

func TestTransportWithoutItsBodyAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req := request("PUT", strings.NewReader("x"))
		req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
		answer := &body{Reader: strings.NewReader("x")}
		n, resp, err := attempts(t, Options{}, req, func() (*http.Response, error) {
			return &http.Response{StatusCode: 503, Header: http.Header{}, Body: answer}, nil
		})
		if n != 1 || err != nil || resp.Body != answer || answer.closed {
			t.Errorf("%d attempts, %v %v", n, resp, err)
		}
	})
}

func TestRetryAfterUsesTheResponsesClock(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	skewed := now.Add(3 * time.Hour)
	h := http.Header{"Date": {skewed.Format(http.TimeFormat)}, "Retry-After": {skewed.Add(7 * time.Second).Format(http.TimeFormat)}}
	if d, ok := retryAfter(h, now); d != 7*time.Second || !ok {
		t.Error(d, ok)
	}
	h.Set("Date", skewed.Add(time.Minute).Format(http.TimeFormat)) // asked for a time that is over
	if d, ok := retryAfter(h, now); d != 0 || !ok {
		t.Error(d, ok)
	}
	h.Set("Retry-After", skewed.AddDate(100, 0, 0).Format(http.TimeFormat))
	if d, ok := retryAfter(h, now); d != year || !ok {
		t.Error(d, ok)
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, v := range []string{"", "0", "120", "-1", "1.5", "99999999999999999999", "Fri, 01 Jan 1999 00:00:00 GMT", " 5 ", "Monday", "٣"} {
		f.Add(v, "Thu, 01 Jan 1998 00:00:00 GMT")
	}
	f.Fuzz(func(t *testing.T, value, date string) {
		h := http.Header{"Retry-After": {value}, "Date": {date}}
		if d, ok := retryAfter(h, time.Now()); d < 0 || d > year || !ok && d != 0 {
			t.Errorf("%v %v", d, ok)
		}
	})
}
