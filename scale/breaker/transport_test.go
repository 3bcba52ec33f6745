package breaker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type body struct {
	io.Reader
	closed int
}

func (b *body) Close() error { b.closed++; return nil }

// One host's failures do not touch another's breaker.
func TestTransportPerHost(t *testing.T) {
	status := 500
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) }))
	defer bad.Close()
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "fine") }))
	defer good.Close()

	hosts, err := PerHost("upstream", Options{Logger: quiet, OpenFor: time.Hour, SlowCall: -1})
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: Transport(nil, hosts.For)}
	defer client.CloseIdleConnections()
	get := func(url string) (string, error) {
		resp, err := client.Get(url)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.Status + " " + string(text), nil
	}
	for range 20 {
		if got, err := get(bad.URL); !strings.HasPrefix(got, "500 ") {
			t.Fatal(got, err)
		}
		if got, err := get(good.URL); got != "200 OK fine" {
			t.Fatal(got, err)
		}
	}
	_, err = get(bad.URL)
	host := strings.TrimPrefix(bad.URL, "http://")
	if e := wantOpenError(t, err); e.Name != "upstream/"+host || e.Failures != 20 {
		t.Errorf("%+v", e)
	}
	if got, err := get(good.URL); got != "200 OK fine" {
		t.Error(got, err)
	}
	stats := hosts.Stats()
	if len(stats) != 2 || stats[host].State != Open || stats[strings.TrimPrefix(good.URL, "http://")].Successes != 21 {
		t.Errorf("%+v", stats)
	}
	found := false
	for s := range hosts.Samples() {
		if s.Name == "fairlead.breaker.trips" && s.Attrs[0].Value == "upstream" && s.Attrs[1].Value == host {
			found = s.Value == 1
		}
	}
	if !found {
		t.Error("no sample for the trip")
	}
}

func TestTransportStatuses(t *testing.T) {
	const success, failure, refusal = "success", "failure", "refusal"
	for _, test := range []struct {
		status     int
		retryAfter bool
		want       string
	}{
		{200, false, success}, {304, false, success}, {404, false, success}, {501, false, success}, {101, false, success},
		{500, false, failure}, {502, false, failure}, {503, false, failure}, {504, false, failure}, {500, true, failure},
		{503, true, refusal}, {429, false, refusal}, {429, true, refusal},
	} {
		b := newTest(t, Options{})
		rt := Transport(roundTrip(func(*http.Request) (*http.Response, error) {
			h := http.Header{}
			if test.retryAfter {
				h.Set("Retry-After", "1")
			}
			return &http.Response{StatusCode: test.status, Header: h}, nil
		}), func(string) *Breaker { return b })
		req, _ := http.NewRequest("GET", "http://x/", nil)
		if resp, err := rt.RoundTrip(req); err != nil || resp.StatusCode != test.status {
			t.Error(resp, err)
		}
		s := b.Stats()
		got := map[string]uint64{success: s.Successes, failure: s.Failures, refusal: s.Refused}
		if got[test.want] != 1 || s.Successes+s.Failures+s.Refused != 1 {
			t.Errorf("%d, Retry-After %v: %v, want one %s", test.status, test.retryAfter, got, test.want)
		}
	}
	b := newTest(t, Options{FailureStatus: func(s int) bool { return s == 404 }})
	rt := Transport(roundTrip(func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: 404}, nil }), func(string) *Breaker { return b })
	req, _ := http.NewRequest("GET", "http://x/", nil)
	rt.RoundTrip(req)
	if b.Stats().Failures != 1 {
		t.Errorf("%+v", b.Stats())
	}
}

func TestTransportErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTest(t, Options{MinCalls: 3})
		var next func(*http.Request) (*http.Response, error)
		var asked []string
		rt := Transport(roundTrip(func(r *http.Request) (*http.Response, error) { return next(r) }), func(host string) *Breaker {
			asked = append(asked, host)
			if strings.HasPrefix(host, "free") {
				return nil
			}
			return b
		})
		send := func(ctx context.Context, url string, body io.ReadCloser) error {
			req, _ := http.NewRequestWithContext(ctx, "POST", url, body)
			_, err := rt.RoundTrip(req)
			return err
		}
		next = func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() }
		cancelled, cancel := context.WithCancel(ctx)
		time.AfterFunc(time.Second, cancel)
		send(cancelled, "http://x/", nil)
		late, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		send(late, "http://x/", nil)
		next = func(*http.Request) (*http.Response, error) { return nil, errDown }
		send(ctx, "http://x/", nil)
		next = func(*http.Request) (*http.Response, error) { panic(errDown) }
		func() {
			defer func() {
				if v := recover(); v != errDown {
					t.Error(v)
				}
			}()
			send(ctx, "https://X/", nil)
		}()
		if s := b.Stats(); s.Ignored != 1 || s.Failures != 3 || s.Panics != 1 || s.State != Open {
			t.Errorf("%+v", s)
		}
		rest := &body{Reader: strings.NewReader("x")}
		wantOpenError(t, send(ctx, "http://[::1]:8080/", rest))
		if rest.closed != 1 {
			t.Errorf("the refused request's body was closed %d times", rest.closed)
		}
		if err := send(cancelled, "http://x/", nil); err != context.Canceled {
			t.Error(err)
		}
		next = func(*http.Request) (*http.Response, error) { return nil, errors.New("as it is") }
		if err := send(ctx, "http://free/", nil); err == nil || err.Error() != "as it is" {
			t.Error(err)
		}
		if want := "x:80 x:80 x:80 x:443 [::1]:8080 x:80 free:80"; strings.Join(asked, " ") != want {
			t.Errorf("%q, want %q", asked, want)
		}
	})
}

func TestHostPort(t *testing.T) {
	for in, want := range map[string]string{
		"http://Example.com": "example.com:80", "https://example.com": "example.com:443", "https://example.com:443": "example.com:443",
		"http://example.com:8080": "example.com:8080", "http://[::1]": "[::1]:80", "http://example.com:": "example.com:80",
	} {
		u, err := url.Parse(in)
		if got := hostPort(u); err != nil || got != want {
			t.Errorf("%s: %s, want %s (%v)", in, got, want, err)
		}
	}
}

// However many hosts, memory is bounded; what is used, open or forced stays.
func TestHostsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts, err := PerHost("upstream", Options{Logger: quiet, MinCalls: 1, OpenFor: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		open, forced, used := hosts.For("open"), hosts.For("forced"), hosts.For("used")
		do(open, 1, 0, errDown)
		forced.Force(Closed)
		for i := range 3000 {
			time.Sleep(time.Millisecond)
			hosts.For(fmt.Sprint("h", i))
			if hosts.For("used") != used {
				t.Fatal("a breaker in use was dropped")
			}
		}
		if n := len(hosts.Stats()); n != maxHosts {
			t.Errorf("%d hosts", n)
		}
		if hosts.For("open") != open || hosts.For("forced") != forced {
			t.Error("an open or forced breaker was dropped")
		}
	})
}
