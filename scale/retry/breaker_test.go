package retry_test

import (
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/fairlead/fairlead/scale/breaker"
	"github.com/fairlead/fairlead/scale/retry"
)

type failing struct{ received int }

func (f *failing) RoundTrip(*http.Request) (*http.Response, error) {
	f.received++
	return nil, errors.New("connection refused")
}

// Each attempt is a call of the breaker's; once it is open, there are no more attempts and no tokens are spent.
func TestAnOpenBreakerIsNotRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reviews, err := breaker.New("reviews", breaker.Options{MinCalls: 5, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		budget, err := retry.NewBudget("reviews", retry.Options{})
		if err != nil {
			t.Fatal(err)
		}
		upstream := &failing{}
		rt := retry.Transport(breaker.Transport(upstream, func(string) *breaker.Breaker { return reviews }), budget)
		var open *breaker.OpenError
		for range 10 {
			req, _ := http.NewRequest("GET", "http://reviews/", nil)
			if resp, err := rt.RoundTrip(req); err == nil {
				t.Fatal(resp)
			} else {
				errors.As(err, &open)
			}
		}
		if open == nil || open.Failures != 5 || upstream.received != 5 {
			t.Errorf("%+v, %d received", open, upstream.received)
		}
		// The first request's two retries, and those of the second, whose last met the breaker open.
		if s := budget.Stats(); s.Requests != 10 || s.Retries != 4 {
			t.Errorf("%+v", s)
		}
		if s := reviews.Stats(); s.Rejected != 9 {
			t.Errorf("%+v", s)
		}
	})
}
