package scale

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/fairlead/fairlead/pool/causal"
)

// causalTransport carries the causal scope of a request to the other side and back.
type causalTransport struct {
	rt   http.RoundTripper
	opts causal.Options
}

// causalPatience is how long a request waits for the positions of its writes before it demands the primary instead.
const causalPatience = 50 * time.Millisecond

func (t causalTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	scope := causal.From(req.Context())
	if scope == nil {
		return t.rt.RoundTrip(req)
	}
	wait, cancel := context.WithTimeout(req.Context(), causalPatience)
	defer cancel()
	token, err := causal.Merge(scope.Written(wait), scope.Seen())
	if err != nil {
		closeBody(req)
		return nil, fmt.Errorf("scale: %s: %w", causal.Header, err)
	}
	// Sent although it may be empty: it asks for an answer.
	req = req.Clone(req.Context())
	req.Header.Set(causal.Header, t.opts.Seal(token))
	resp, err := t.rt.RoundTrip(req)
	if err != nil {
		return resp, err
	}
	if sealed := resp.Header.Get(causal.Header); sealed != "" {
		if token, err := t.opts.Open(sealed); err == nil {
			_ = scope.Wrote(token) // what is malformed was not sent by a service that shares the keys
		}
	}
	return resp, nil
}

func (t causalTransport) CloseIdleConnections() { closeIdle(t.rt) }
