package scale

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/fairlead/fairlead/scale/drain"
	"github.com/fairlead/fairlead/scale/overload"
)

// Options are the settings of a Service. The zero value is good for production.
type Options struct {
	// Addr is where Serve listens (host:port) when the context carries no cluster worker. Empty means ":8080". A worker's
	// listener named "http" comes before it.
	Addr string

	// Logger receives panics, failing closes and the HTTP server's own errors. Nil means slog.Default().
	Logger *slog.Logger

	// MaxTimeout bounds every request's context; a client's own time-out header can only shorten it. 0 means 30 s, negative
	// means no bound.
	MaxTimeout time.Duration

	// Overload tunes the guard that finds out how many requests may run at a time and refuses the rest early (package
	// scale/overload); Off in it lets everything through. Its fair shares are by the peer's address: behind a proxy set
	// Overload.Key. The zero value is good for production; a nil Logger in it is this one, and MaxPatience 0 is 10 s or nine
	// tenths of MaxTimeout, whichever is less, so that MaxTimeout is not taken for the clients' patience.
	Overload overload.Options

	// CheckTimeout bounds one readiness check (a component's Ping). 0 means 1 s; negative is an error.
	CheckTimeout time.Duration

	// CloseTimeout bounds the Close of each component; one that takes longer is left behind and named in Serve's error. 0
	// means 2 s; negative is an error.
	CloseTimeout time.Duration

	// ReadHeaderTimeout bounds the reading of a request's headers. 0 means 10 s, negative means none.
	ReadHeaderTimeout time.Duration

	// ReadTimeout bounds the reading of a whole request, body included, and ends a request that takes longer altogether;
	// a handler changes its own with http.ResponseController. 0 means 60 s, negative means none.
	ReadTimeout time.Duration

	// IdleTimeout closes a keep-alive connection that stays without a request. 0 means 2 min, negative means none.
	IdleTimeout time.Duration

	// MaxHeaderBytes bounds a request's headers. 0 means 64 KiB; negative is an error.
	MaxHeaderBytes int

	// Header is set on every response before the handler runs, those of the guards included.
	Header http.Header

	// Drain is how serving ends. The zero value takes the cluster's settings and this Logger.
	Drain drain.Options
}

func (o Options) withDefaults() Options {
	if o.Addr == "" {
		o.Addr = ":8080"
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.MaxTimeout == 0 {
		o.MaxTimeout = 30 * time.Second
	}
	if o.CheckTimeout == 0 {
		o.CheckTimeout = time.Second
	}
	if o.CloseTimeout == 0 {
		o.CloseTimeout = 2 * time.Second
	}
	if o.ReadHeaderTimeout == 0 {
		o.ReadHeaderTimeout = 10 * time.Second
	}
	if o.ReadTimeout == 0 {
		o.ReadTimeout = time.Minute
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = 2 * time.Minute
	}
	if o.MaxHeaderBytes == 0 {
		o.MaxHeaderBytes = 64 << 10
	}
	if o.Overload.Logger == nil {
		o.Overload.Logger = o.Logger
	}
	if o.Overload.MaxPatience == 0 && o.MaxTimeout > 0 {
		o.Overload.MaxPatience = min(10*time.Second, o.MaxTimeout/10*9)
	}
	o.Header = o.Header.Clone()
	if o.Drain.Logger == nil {
		o.Drain.Logger = o.Logger
	}
	return o
}

func (o Options) validate() error {
	var errs []error
	if o.CheckTimeout < 0 {
		errs = append(errs, fmt.Errorf("scale: Options.CheckTimeout = %v: must be >= 0 (0 means 1s)", o.CheckTimeout))
	}
	if o.CloseTimeout < 0 {
		errs = append(errs, fmt.Errorf("scale: Options.CloseTimeout = %v: must be >= 0 (0 means 2s)", o.CloseTimeout))
	}
	if o.MaxHeaderBytes < 0 {
		errs = append(errs, fmt.Errorf("scale: Options.MaxHeaderBytes = %d: must be >= 0 (0 means 65536)", o.MaxHeaderBytes))
	}
	if d := o.Drain.DrainTimeout; d < 0 {
		errs = append(errs, fmt.Errorf("scale: Options.Drain.DrainTimeout = %v: must be >= 0 (0 means the cluster's, or 20s)", d))
	}
	if d := o.Drain.IdleGrace; d < 0 {
		errs = append(errs, fmt.Errorf("scale: Options.Drain.IdleGrace = %v: must be >= 0 (0 means the cluster's, or 2s)", d))
	}
	return errors.Join(errs...)
}
