package session

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/fairlead/fairlead/pool/causal"
)

// Options of a Manager. The zero value is ready for production behind TLS.
type Options struct {
	// Name tells several managers apart in telemetry. Default "session".
	Name string
	// Idle ends a session that nobody used for so long, give or take a tenth of it or a minute, whichever is less: uses are
	// noted that seldom. 0 means 30 minutes.
	Idle time.Duration
	// Absolute ends a session however busy it is. A login starts anew, a rotation does not. At least Idle. 0 means 12 hours,
	// or Idle if that is longer.
	Absolute time.Duration
	// MaxSessions is how many sessions a user may have at once: a login that makes one more ends those that would end first
	// by Absolute, in the same step. While Causal.Keys are replaced it counts for each key. It needs a store with a
	// UserIndex. 0 means any number.
	MaxSessions int
	// Codecs turn values into bytes: the first writes, all read. To change the format, put the new codec behind the old one
	// in all processes, then in front: a process that does not know a session's format treats its client as one without a
	// session, refuses changes, and leaves the record alone. Empty means JSON.
	Codecs []Codec
	// Cookie is the session cookie's name. Default "__Host-session", with Insecure "session".
	Cookie string
	// Insecure leaves out Secure and the __Host- prefix, for development over plain HTTP only.
	Insecure bool
	// Partitioned is for a service that runs in frames of other sites: browsers keep its cookies apart for each of these
	// (CHIPS), and send them to it there: SameSite=None. It rules out Insecure.
	Partitioned bool
	// Causal says how the positions of a client's writes travel to its next request. Its Keys also hide, in a client's
	// cookie, which user it is of: put a new key first in all processes' lists only after all of them have it as a later
	// one, and drop the old one when Absolute has passed since. Without Keys the store keeps a random one; then whoever can read the store can link a user's cookies, no more.
	Causal causal.Options
	// StoreTimeout is how long the store may take before it counts as unavailable. 0 means 250 ms.
	StoreTimeout time.Duration
	// WatchEvery is how often Session.Watch asks the store, give or take a tenth. 0 means 5 s.
	WatchEvery time.Duration
	// Logger; nil means slog.Default().
	Logger *slog.Logger
}

func (o Options) check(store Store) (Options, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("session: "+format, args...)) }
	if store == nil {
		bad("store is nil: must be one of NewMemory, redissession.New, pgsession.New or your own")
	}
	if v, ok := store.(interface{ Validate() error }); ok {
		if err := v.Validate(); err != nil {
			errs = append(errs, err)
		}
	}
	if o.Name == "" {
		o.Name = "session"
	}
	switch {
	case o.Idle == 0:
		o.Idle = 30 * time.Minute
	case o.Idle < time.Second:
		bad("Options.Idle = %v: must be >= 1s (0 means 30m)", o.Idle)
	}
	switch {
	case o.Absolute == 0:
		o.Absolute = max(12*time.Hour, o.Idle)
	case o.Absolute < o.Idle:
		bad("Options.Absolute = %v: must be >= Options.Idle, %v (0 means 12h, or Idle if that is longer)", o.Absolute, o.Idle)
	}
	if o.MaxSessions < 0 {
		bad("Options.MaxSessions = %d: must be >= 0 (0 means any number)", o.MaxSessions)
	} else if _, ok := store.(UserIndex); o.MaxSessions > 0 && store != nil && !ok {
		bad("Options.MaxSessions = %d: store %T has no UserIndex", o.MaxSessions, store)
	}
	if o.Codecs, errs = checkCodecs(o.Codecs, errs); o.Partitioned && o.Insecure {
		bad("Options.Partitioned: browsers take such a cookie only with Secure: must not be set with Options.Insecure")
	}
	if o.Cookie == "" {
		o.Cookie = "__Host-session"
		if o.Insecure {
			o.Cookie = "session"
		}
	}
	if (&http.Cookie{Name: o.Cookie, Value: "x"}).Valid() != nil {
		bad("Options.Cookie = %q: must be a cookie name", o.Cookie)
	}
	switch {
	case o.StoreTimeout == 0:
		o.StoreTimeout = 250 * time.Millisecond
	case o.StoreTimeout < time.Millisecond:
		bad("Options.StoreTimeout = %v: must be >= 1ms (0 means 250ms)", o.StoreTimeout)
	}
	switch {
	case o.WatchEvery == 0:
		o.WatchEvery = 5 * time.Second
	case o.WatchEvery < 10*time.Millisecond:
		bad("Options.WatchEvery = %v: must be >= 10ms (0 means 5s)", o.WatchEvery)
	}
	if err := o.Causal.Validate(); err != nil {
		bad("Options.Causal: %w", err)
	}
	o.Causal.Insecure = o.Causal.Insecure || o.Insecure
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o, errors.Join(errs...)
}
