package scale

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"

	"github.com/fairlead/fairlead/internal/process"
	"github.com/fairlead/fairlead/internal/telemetry"
	"github.com/fairlead/fairlead/scale/drain"
	"github.com/fairlead/fairlead/scale/overload"
)

// Sample is one number of a component for the admin page and /metrics; a component of the application's own that has a
// method Samples() iter.Seq[scale.Sample] shows up beside Fairlead's.
type Sample = telemetry.Sample

// Service is one HTTP service: its components, its guards, its life. It serves once.
type Service struct {
	name    string
	opts    Options
	traffic *traffic
	limiter *overload.Limiter

	mu         sync.Mutex
	components []component
	errs       []error
	served     bool
}

// New returns a service. The name, not empty, is an attribute of its metrics.
func New(name string, options Options) (*Service, error) {
	err := options.validate()
	if name == "" {
		err = errors.Join(errors.New("scale: name is empty: must name the service"), err)
	}
	o := options.withDefaults()
	limiter, limiterErr := overload.New(cmp.Or(name, "http"), o.Overload)
	if limiterErr != nil {
		err = errors.Join(err, fmt.Errorf("scale: Options.Overload: %w", limiterErr))
	}
	if err != nil {
		return nil, err
	}
	return &Service{name: name, opts: o, traffic: newTraffic(name), limiter: limiter}, nil
}

// Use gives components to the service: they are probed (Ping), shown (Samples) and closed in reverse order (Close), as far
// as they have these methods. Give them in the order they were made, before Serve, which reports one that has none. It is
// safe for concurrent use.
func (s *Service) Use(components ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range components {
		c, err := newComponent(v)
		if err != nil {
			s.errs = append(s.errs, err)
			continue
		}
		c.name = s.unusedName(c.name)
		s.components = append(s.components, c)
	}
}

// unusedName makes the second pool.Pool pool.Pool#2.
func (s *Service) unusedName(name string) string {
	taken := func(name string) bool {
		return slices.ContainsFunc(s.components, func(c component) bool { return c.name == name })
	}
	unused := name
	for n := 2; taken(unused); n++ {
		unused = fmt.Sprintf("%s#%d", name, n)
	}
	return unused
}

// Serve serves handler behind the guards and the middleware, outermost first, until ctx ends and the drain is over, or the
// server fails. Then, and also when it could not begin, it closes the components. It returns nil after a drain in which
// nothing failed.
func (s *Service) Serve(ctx context.Context, handler http.Handler, middleware ...func(http.Handler) http.Handler) error {
	s.mu.Lock()
	again := s.served
	s.served = true
	components, errs := slices.Clone(s.components), slices.Clone(s.errs)
	s.mu.Unlock()
	if again {
		return fmt.Errorf("scale: %s: Serve was called before: a service serves once", s.name)
	}

	if handler == nil {
		errs = append(errs, errors.New("scale: Serve: handler is nil"))
	}
	for i, m := range middleware {
		if m == nil {
			errs = append(errs, fmt.Errorf("scale: Serve: middleware %d is nil", i))
		}
	}
	err := errors.Join(errs...)
	if err == nil {
		err = s.serve(ctx, components, handler, middleware)
	}
	return errors.Join(err, s.closeAll(components))
}

func (s *Service) serve(ctx context.Context, components []component, handler http.Handler, middleware []func(http.Handler) http.Handler) error {
	w := process.WorkerFrom(ctx)
	ln, err := s.listen(ctx, w)
	if err != nil {
		return err
	}
	if w == nil {
		limitMemory()
	} else {
		w.AddSamples(s.traffic.samples)
		w.AddSamples(s.limiter.Samples)
		for _, c := range components {
			if c.ping != nil {
				w.AddCheck(c.name, newCheck(c.ping, s.opts.CheckTimeout).run)
			}
			if c.samples != nil {
				w.AddSamples(c.samples)
			}
		}
	}
	o := s.opts
	srv := &http.Server{
		Handler:           s.guard(handler, middleware),
		ReadHeaderTimeout: o.ReadHeaderTimeout,
		ReadTimeout:       o.ReadTimeout,
		IdleTimeout:       o.IdleTimeout,
		MaxHeaderBytes:    o.MaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
	}
	return drain.Serve(ctx, o.Drain, drain.HTTP(srv, ln))
}

func (s *Service) listen(ctx context.Context, w process.Worker) (net.Listener, error) {
	if w != nil {
		ln, err := w.Listener("http")
		if err != nil {
			return nil, fmt.Errorf("scale: %s serves the cluster's listener named http: %w", s.name, err)
		}
		return ln, nil
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", s.opts.Addr)
	if err != nil {
		return nil, fmt.Errorf("scale: Options.Addr = %q: %w", s.opts.Addr, err)
	}
	return ln, nil
}

func (s *Service) closeAll(components []component) error {
	var errs []error
	for _, c := range slices.Backward(components) {
		if c.close == nil {
			continue
		}
		if err := within(s.opts.CloseTimeout, c.close); err != nil {
			errs = append(errs, fmt.Errorf("scale: closing %s: %w", c.name, err))
		}
	}
	return errors.Join(errs...)
}
