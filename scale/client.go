package scale

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/fairlead/fairlead/pool/causal"
	"github.com/fairlead/fairlead/scale/breaker"
	"github.com/fairlead/fairlead/scale/retry"
)

// ClientOptions are the settings of NewClient. The zero value is good for calls to services in the same data centre.
type ClientOptions struct {
	// Name tells clients apart in errors, logs and telemetry. Empty means "client".
	Name string

	// Transport sends the requests. Nil means a transport of the client's own: http.DefaultTransport's settings with 100 idle
	// connections a host instead of 2.
	Transport http.RoundTripper

	// Timeout bounds a request with all its attempts and waits, its body included; a context's own deadline can only shorten
	// it. 0 means 30 s, negative means no bound.
	Timeout time.Duration

	// AttemptTimeout bounds one attempt, its body included, so that there is time for another. 0 means no bound; negative is
	// an error.
	AttemptTimeout time.Duration

	// Limiter, a *ratelimit.Limiter for example, is waited for before each attempt, by the host's name in lower case, without
	// the port. Its error ends the request. Nil means no limit.
	Limiter interface {
		Wait(ctx context.Context, key string) error
	}

	// Breaker are the settings of the breakers, one for each host. Breaker.Disabled turns them off.
	Breaker breaker.Options

	// Retry are the settings of the retries, paid for from one budget for each host. A negative Retry.Ratio and
	// Retry.Burst turn them off.
	Retry retry.Options

	// Causal, if it has Keys, sends what the request's causal scope has written and read in the header Causal-Token, and adds
	// what the answer brings to the scope. For services that share the keys, never for anybody else's.
	Causal causal.Options
}

// NewClient returns a client for calling other services. From outside in, a request passes
//
//   - retries within a budget (package retry);
//   - the limiter: its wait is not counted as the service's slowness;
//   - the throttle and the breaker of the host (package breaker);
//   - the deadline: the attempt's remaining time goes along as Fairlead-Timeout-Ms, which a scale.Service and others honour,
//     and an attempt with less than a millisecond left is not sent.
//
// What this process refused itself is not retried: the limiter's refusal, an open breaker, a deadline that has passed. The
// error names every bad field. The client's Transport has Samples and Close: give it to [Service.Use] to show the breakers
// and the budget on the page.
func NewClient(o ClientOptions) (*http.Client, error) {
	var errs []error
	if o.AttemptTimeout < 0 {
		errs = append(errs, fmt.Errorf("scale: ClientOptions.AttemptTimeout = %v: must be >= 0 (0 means no bound)", o.AttemptTimeout))
	}
	if o.Name == "" {
		o.Name = "client"
	}
	ignored := o.Breaker.IsIgnored
	o.Breaker.IsIgnored = func(err error) bool {
		return errors.Is(err, errNoTime) || ignored != nil && ignored(err)
	}
	hosts, err := breaker.PerHost(o.Name, o.Breaker)
	if err != nil {
		errs = append(errs, fmt.Errorf("scale: ClientOptions.Breaker: %w", err))
	}
	budget, err := retry.NewBudget(o.Name, o.Retry)
	if err != nil {
		errs = append(errs, fmt.Errorf("scale: ClientOptions.Retry: %w", err))
	}
	if err := o.Causal.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("scale: ClientOptions.Causal: %w", err))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}

	rt := o.Transport
	if rt == nil {
		t := http.DefaultTransport
		if d, ok := t.(*http.Transport); ok {
			own := d.Clone()
			own.MaxIdleConns, own.MaxIdleConnsPerHost = 0, 100
			t = own
		}
		rt = t
	}
	rt = breaker.Transport(&deadlineTransport{rt, o.AttemptTimeout}, hosts.For)
	if o.Limiter != nil {
		rt = limitTransport{rt, o.Limiter.Wait}
	}
	rt = retry.Transport(rt, budget)
	if len(o.Causal.Keys) > 0 {
		rt = causalTransport{rt, o.Causal}
	}
	timeout := 30 * time.Second
	if o.Timeout != 0 {
		timeout = max(o.Timeout, 0)
	}
	return &http.Client{Transport: &clientTransport{rt, hosts, budget}, Timeout: timeout}, nil
}

// clientTransport is the outermost, the one that a Service shows and closes.
type clientTransport struct {
	rt     http.RoundTripper
	hosts  *breaker.Hosts
	budget *retry.Budget
}

func (t *clientTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.rt.RoundTrip(req)
}

// Samples returns the numbers of the breakers and of the budget.
func (t *clientTransport) Samples() iter.Seq[Sample] {
	return func(yield func(Sample) bool) {
		for _, all := range []iter.Seq[Sample]{t.hosts.Samples(), t.budget.Samples()} {
			for s := range all {
				if !yield(s) {
					return
				}
			}
		}
	}
}

// Close closes idle connections.
func (t *clientTransport) Close() { t.CloseIdleConnections() }

// CloseIdleConnections is what http.Client.CloseIdleConnections looks for.
func (t *clientTransport) CloseIdleConnections() { closeIdle(t.rt) }

func closeIdle(rt http.RoundTripper) {
	if c, ok := rt.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// limitTransport waits for a limiter.
type limitTransport struct {
	rt   http.RoundTripper
	wait func(context.Context, string) error
}

func (t limitTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.wait(req.Context(), strings.ToLower(req.URL.Hostname())); err != nil {
		closeBody(req)
		if req.Context().Err() == nil {
			err = localError{err}
		}
		return nil, err
	}
	return t.rt.RoundTrip(req)
}

// localError is one that another attempt would meet again.
type localError struct{ error }

func (e localError) Unwrap() error { return e.error }
func (localError) Retryable() bool { return false }

func (t limitTransport) CloseIdleConnections() { closeIdle(t.rt) }

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}
