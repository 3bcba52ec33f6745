package causal

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/fairlead/fairlead/internal/respwriter"
)

// Header carries a sealed token between services: sent with a request, and answered by those that received one.
const Header = "Causal-Token"

const (
	minKey = 16
	macLen = 16 // HMAC-SHA-256, truncated to 128 bits as RFC 2104, section 5 allows

	// patience is how long a response waits for the positions of its writes before its headers go out.
	patience = 50 * time.Millisecond
)

// Options says how tokens travel with a client. The session package takes the same options.
type Options struct {
	// Keys seal tokens where clients can touch them, each at least 16 random bytes. The first seals, all open: put a new
	// key first and drop the old one after For. Middleware needs at least one, the same in every process.
	Keys [][]byte
	// For is how long after a write its client reads its own writes, 30 s by default; whole seconds. It has to be longer
	// than the lag of any replica that may serve a read (pool's MaxStaleness) and than a cut-off cache trusts its memory.
	For time.Duration
	// CarryReads makes reads monotonic over requests too: what was read travels like what was written.
	CarryReads bool
	// Insecure leaves out the cookie's Secure attribute and its __Host- prefix, for development over plain HTTP.
	Insecure bool
}

// Validate reports every field that is out of range.
func (o Options) Validate() error {
	var errs []error
	for i, k := range o.Keys {
		if len(k) < minKey {
			errs = append(errs, fmt.Errorf("causal: Options.Keys[%d] has %d bytes: must have at least %d", i, len(k), minKey))
		}
	}
	if o.For < 0 || o.For%time.Second != 0 {
		errs = append(errs, fmt.Errorf("causal: Options.For = %v: must be whole seconds >= 0 (0 means 30s)", o.For))
	}
	return errors.Join(errs...)
}

// Seal returns token, authenticated by the first key, in characters that a cookie or header can hold. Without keys it
// returns "".
func (o Options) Seal(token string) string {
	if len(o.Keys) == 0 {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(append(mac(o.Keys[0], token), token...))
}

// Open returns what Seal sealed. What no key has sealed is [ErrMalformed].
func (o Options) Open(sealed string) (token string, err error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(sealed)
	if err != nil || len(b) < macLen {
		return "", fmt.Errorf("%w: not sealed", ErrMalformed)
	}
	token = string(b[macLen:])
	for _, k := range o.Keys {
		if hmac.Equal(mac(k, token), b[:macLen]) {
			return token, nil
		}
	}
	return "", fmt.Errorf("%w: sealed with another key", ErrMalformed)
}

func mac(key []byte, token string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("fairlead causal token\x00"))
	h.Write([]byte(token))
	return h.Sum(nil)[:macLen]
}

// Cookie returns the cookie that marks a client which has written: for the next For it brings its token, or says that its
// session has one.
func (o Options) Cookie(value string) *http.Cookie {
	age := o.For
	if age == 0 {
		age = 30 * time.Second
	}
	c := &http.Cookie{
		Name: "__Host-wrote", Value: value, Path: "/", MaxAge: int(age / time.Second),
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	if o.Insecure {
		c.Name, c.Secure = "wrote", false
	}
	return c
}

// Middleware opens a scope for each request and carries what it wrote to the client's next one, in a sealed cookie that
// lives for Options.For and, for services, in [Header]. For applications with this module's sessions theirs does it instead.
//
// A cookie keeps the last of several concurrent responses, so with those it is best effort; a session's store is exact. A
// cookie that no key opens is ignored; such a header is answered 400. Writes after the headers have gone are not carried.
//
// A response with the cookie is one client's: if its Cache-Control says neither private nor no-store it becomes private, and
// public and s-maxage are taken out of it.
func Middleware(o Options) (func(http.Handler) http.Handler, error) {
	err := o.Validate()
	if len(o.Keys) == 0 {
		err = errors.Join(errors.New("causal: Options.Keys is empty: must hold the key that all processes share"), err)
	}
	if err != nil {
		return nil, err
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, scope := Begin(r.Context())
			brought := ""
			if c, err := r.Cookie(o.Cookie("").Name); err == nil {
				if token, err := o.Open(c.Value); err == nil && scope.Saw(token) == nil {
					brought = token
				}
			}
			sealed := r.Header.Get(Header)
			if sealed != "" {
				token, err := o.Open(sealed)
				if err == nil {
					err = scope.Saw(token)
				}
				if err != nil {
					http.Error(w, Header+": "+err.Error(), http.StatusBadRequest)
					return
				}
			}
			rw := respwriter.New(w, r, func(int) http.HandlerFunc {
				wait, cancel := context.WithTimeout(ctx, patience)
				defer cancel()
				written, seen := scope.Written(wait), scope.Seen()
				carry := written
				if o.CarryReads {
					carry, _ = Merge(written, seen)
				}
				if carry != "" && carry != brought {
					if all, err := Merge(brought, carry); err == nil {
						http.SetCookie(w, o.Cookie(o.Seal(all)))
						keepPrivate(w.Header())
					}
				}
				if sealed != "" {
					if all, err := Merge(written, seen); err == nil {
						w.Header().Set(Header, o.Seal(all))
					}
				}
				return nil
			})
			next.ServeHTTP(rw, r.WithContext(ctx))
			rw.Finish()
		})
	}, nil
}

// keepPrivate has the response kept by no shared cache.
func keepPrivate(h http.Header) {
	policy := []string{"private"}
	for _, line := range h.Values("Cache-Control") {
		for part := range strings.SplitSeq(line, ",") {
			part = strings.TrimSpace(part)
			name, _, _ := strings.Cut(part, "=")
			switch strings.ToLower(name) {
			case "private", "no-store":
				if part == name { // private="a field" is of that field only
					return
				}
			case "", "public", "s-maxage":
				continue
			}
			policy = append(policy, part)
		}
	}
	h.Set("Cache-Control", strings.Join(policy, ", "))
}
