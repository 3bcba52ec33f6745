package ratelimit

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
)

// Middleware returns middleware that takes one permit for each request, for the key that key returns: [ClientIP], or a function
// that finds the user, the tenant, the API token. A request whose key is "" is not limited; health probes should have none.
//
// Every limited response carries RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-11). A refusal is 429 with
// Retry-After, at least 1 and spread so that clients do not return together, and an application/problem+json body that names
// the policy. Where there is no decision, because the store fails under Deny or the request's time has run out, it is 503.
// Refusing takes no time and counts nothing against the client. Permits in flight are given back when the handler returns.
func Middleware(l *Limiter, key func(*http.Request) string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			k := key(r)
			if k == "" {
				next.ServeHTTP(w, r)
				return
			}
			d, rules, err := l.take(r.Context(), k, 1)
			if err != nil {
				refuse(w, http.StatusServiceUnavailable, retryAfter(d.RetryAfter), "temporary-reduced-capacity", "The rate limit cannot be checked at the moment", l.name)
				return
			}
			h := w.Header()
			h.Add("RateLimit-Policy", l.policyOf(rules))
			h.Add("RateLimit", limitField(l.name, d, rules))
			if !d.Allowed {
				refuse(w, http.StatusTooManyRequests, retryAfter(d.RetryAfter), "quota-exceeded", "Too many requests", policyName(l.name, d.Rule))
				return
			}
			if holds(rules) {
				defer func() {
					// Whatever became of the request, and although its context has ended.
					_ = l.Return(context.WithoutCancel(r.Context()), k, d)
				}()
			}
			next.ServeHTTP(w, r)
		})
	}
}

func (l *Limiter) policyOf(rules []Rule) string {
	if &rules[0] == &l.limit.rules[0] {
		return l.policy
	}
	return policyField(l.name, rules)
}

// problem is RFC 9457 with the extension member of the draft's problem types.
type problem struct {
	Type     string   `json:"type"`
	Title    string   `json:"title"`
	Status   int      `json:"status"`
	Violated []string `json:"violated-policies"`
}

func refuse(w http.ResponseWriter, status int, after int64, kind, title, policy string) {
	body, _ := json.Marshal(problem{
		Type:     "https://iana.org/assignments/http-problem-types#" + kind,
		Title:    title,
		Status:   status,
		Violated: []string{policy},
	})
	h := w.Header()
	h.Set("Retry-After", strconv.FormatInt(after, 10))
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
