package breaker

import (
	"net"
	"net/http"
	"net/url"
	"strings"
)

// Transport returns an http.RoundTripper that guards rt (nil means http.DefaultTransport) with the breaker that breakerFor
// names for a request's host, "example.com:443" with the port always there; nil means none. Requests that are refused
// fail with an *OpenError.
//
//	breaker.Transport(nil, hosts.For)                                            // of PerHost
//	breaker.Transport(nil, func(string) *breaker.Breaker { return reviews })     // one for all
//
// Options.FailureStatus says which responses are failures. 429, and 503 with Retry-After, are the dependency's refusals.
// The response is passed on as it is.
func Transport(rt http.RoundTripper, breakerFor func(host string) *Breaker) http.RoundTripper {
	if rt == nil {
		rt = http.DefaultTransport
	}
	return &transport{rt, breakerFor}
}

type transport struct {
	rt         http.RoundTripper
	breakerFor func(string) *Breaker
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	b := t.breakerFor(hostPort(req.URL))
	if b == nil {
		return t.rt.RoundTrip(req)
	}
	ctx := req.Context()
	c, err := b.begin(ctx)
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	returned := false
	defer func() {
		if !returned {
			b.end(c, panicked)
		}
	}()
	resp, err := t.rt.RoundTrip(req)
	var o outcome
	switch {
	case err != nil || resp == nil:
		o = b.outcome(ctx, err)
	case isRefusal(resp):
		o = refused
	case b.opts.FailureStatus(resp.StatusCode):
		o = failed
	}
	returned = true
	b.end(c, o)
	return resp, err
}

// CloseIdleConnections is what http.Client.CloseIdleConnections looks for.
func (t *transport) CloseIdleConnections() {
	if rt, ok := t.rt.(interface{ CloseIdleConnections() }); ok {
		rt.CloseIdleConnections()
	}
}

func isRefusal(resp *http.Response) bool {
	return resp.StatusCode == http.StatusTooManyRequests ||
		resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != ""
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "80"
		if u.Scheme == "https" {
			port = "443"
		}
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
