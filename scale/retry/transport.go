package retry

import (
	"io"
	"net/http"
	"strings"
	"time"
)

// Transport returns an http.RoundTripper that retries what rt (nil means http.DefaultTransport) does not get done, as far
// as Options.IsSafe allows it and b pays for it. The last response is returned as it is; of those before it, up to 64 KiB
// are read, so that their connections can be used again. With an http.Client, its Timeout covers all attempts.
func Transport(rt http.RoundTripper, b *Budget) http.RoundTripper {
	if rt == nil {
		rt = http.DefaultTransport
	}
	return &transport{rt, b}
}

type transport struct {
	rt     http.RoundTripper
	budget *Budget
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	b, ctx := t.budget, req.Context()
	tokens := b.forHost(strings.ToLower(req.URL.Host))
	b.deposit(tokens)
	again := (req.Body == nil || req.Body == http.NoBody || req.GetBody != nil) && b.opts.IsSafe(req)
	attempt := req
	for n := 0; ; n++ {
		resp, err := t.rt.RoundTrip(attempt)
		if err == nil && !b.opts.RetryStatus(resp.StatusCode) {
			if n > 0 {
				b.recovered.Add(1)
			}
			return resp, nil
		}
		if !again || n+1 >= b.opts.MaxAttempts || ctx.Err() != nil {
			return resp, err
		}
		delay, ok := b.delay(n, resp, err)
		if !ok || !fits(ctx, delay) || !b.withdraw(tokens) {
			return resp, err
		}
		next := req.Clone(ctx)
		if req.GetBody != nil {
			body, bodyErr := req.GetBody()
			if bodyErr != nil {
				return resp, err
			}
			next.Body = body
		}
		discard(resp)
		if err := wait(ctx, delay); err != nil {
			if next.Body != nil {
				next.Body.Close()
			}
			return nil, err
		}
		attempt = next
	}
}

// CloseIdleConnections is what http.Client.CloseIdleConnections looks for.
func (t *transport) CloseIdleConnections() {
	if rt, ok := t.rt.(interface{ CloseIdleConnections() }); ok {
		rt.CloseIdleConnections()
	}
}

// delay is the wait after an attempt; false means that it was the last.
func (b *Budget) delay(n int, resp *http.Response, err error) (time.Duration, bool) {
	if err != nil {
		if b.opts.IsRetryable == nil && isCertificateError(err) || !b.isRetryable(err) {
			return 0, false
		}
		return b.backoff(n), true
	}
	after, ok := retryAfter(resp.Header, time.Now())
	if ok && after > b.opts.MaxRetryAfter {
		return 0, false
	}
	return after + b.backoff(n), true
}

func discard(resp *http.Response) {
	if resp != nil && resp.Body != nil {
		io.CopyN(io.Discard, resp.Body, 64<<10)
		resp.Body.Close()
	}
}
