package retry

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Options are the settings of a Budget. The zero value is good for calls within a data centre.
type Options struct {
	// MaxAttempts bounds the attempts of one request, the first included. 0 means 3, 1 means no retries; negative is an
	// error.
	MaxAttempts int

	// BaseDelay is the longest wait before the first retry; it doubles with each. 0 means 100 ms; negative is an error.
	BaseDelay time.Duration

	// MaxDelay bounds that doubling. 0 means 5 s, or BaseDelay if that is longer; below BaseDelay is an error.
	MaxDelay time.Duration

	// MaxRetryAfter is the longest Retry-After that is waited for; a response that asks for more is returned. 0 means 10 s;
	// negative means that none is waited for.
	MaxRetryAfter time.Duration

	// Ratio is how many retries a request earns, 0 to 1. 0 means 0.1; negative means none.
	Ratio float64

	// Burst is how many retries the budget holds at most and at first. 0 means 10; negative means none, which with a
	// negative Ratio turns retries off.
	Burst int

	// IsRetryable says whether an error is worth another attempt. Permanent and Retryable() come before it. Nil means every
	// error is; with Transport, all but a certificate that does not verify.
	IsRetryable func(error) bool

	// RetryStatus says which HTTP statuses are worth another attempt. Nil means 429, 502, 503 and 504.
	RetryStatus func(status int) bool

	// IsSafe says which requests may be sent twice. Nil means those with an idempotent method (GET, HEAD, OPTIONS, TRACE,
	// PUT, DELETE) or an Idempotency-Key or X-Idempotency-Key field, which is what net/http goes by. A request with a Body
	// needs GetBody, too, which http.NewRequest sets for buffers and readers of strings.
	IsSafe func(*http.Request) bool
}

func (o Options) withDefaults() Options {
	if o.MaxAttempts == 0 {
		o.MaxAttempts = 3
	}
	if o.BaseDelay == 0 {
		o.BaseDelay = 100 * time.Millisecond
	}
	if o.MaxDelay == 0 {
		o.MaxDelay = max(5*time.Second, o.BaseDelay)
	}
	if o.MaxRetryAfter == 0 {
		o.MaxRetryAfter = 10 * time.Second
	}
	if o.Ratio == 0 {
		o.Ratio = 0.1
	}
	if o.Burst == 0 {
		o.Burst = 10
	}
	if o.RetryStatus == nil {
		o.RetryStatus = func(status int) bool {
			return status == http.StatusTooManyRequests || status == http.StatusBadGateway ||
				status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
		}
	}
	if o.IsSafe == nil {
		o.IsSafe = isIdempotent
	}
	return o
}

func (o Options) validate() error {
	var errs []error
	bad := func(field string, value any, must string) {
		errs = append(errs, fmt.Errorf("retry: Options.%s = %v: must be %s", field, value, must))
	}
	if o.MaxAttempts < 0 {
		bad("MaxAttempts", o.MaxAttempts, ">= 0 (0 means 3)")
	}
	if o.BaseDelay < 0 {
		bad("BaseDelay", o.BaseDelay, ">= 0 (0 means 100ms)")
	}
	if full := (Options{BaseDelay: max(0, o.BaseDelay)}).withDefaults(); o.MaxDelay != 0 && o.MaxDelay < full.BaseDelay {
		bad("MaxDelay", o.MaxDelay, fmt.Sprintf(">= BaseDelay, %v (0 means 5s)", full.BaseDelay))
	}
	if !(o.Ratio <= 1) { // NaN too
		bad("Ratio", o.Ratio, "<= 1 (0 means 0.1, negative means none)")
	}
	if o.Burst > 1_000_000 {
		bad("Burst", o.Burst, "<= 1000000 (0 means 10, negative means none)")
	}
	return errors.Join(errs...)
}

func isIdempotent(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	_, key := req.Header["Idempotency-Key"]
	_, xkey := req.Header["X-Idempotency-Key"]
	return key || xkey
}

func isCertificateError(err error) bool {
	var e *tls.CertificateVerificationError
	return errors.As(err, &e)
}
