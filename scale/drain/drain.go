package drain

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead/fairlead/internal/process"
	"github.com/fairlead/fairlead/internal/telemetry"
)

const (
	defaultDrainTimeout = 20 * time.Second
	defaultIdleGrace    = 2 * time.Second
	kubernetesPreStop   = 5 * time.Second // until the endpoints have forgotten the pod

	lookEvery = 5 * time.Millisecond // how often the drain looks whether the connections have gone quiet
	lastWord  = time.Second          // unless a test says otherwise: for handlers whose context has just ended, to write an answer
)

// Options say how long a drain may take. The zero value is ready to use. In a worker of package cluster, a zero field is
// the cluster's, and another value can only shorten that.
type Options struct {
	// PreStop is how long serving goes on unchanged after the context has ended, for load balancers to notice that the
	// process is no longer ready. 0 means 5s in Kubernetes and none elsewhere; negative means none. A worker that is
	// replaced while others go on takes none.
	PreStop time.Duration

	// DrainTimeout is how long requests may take after accepting has stopped; then their contexts end and, a second
	// later, their connections are closed. 0 means 20s; negative is an error.
	DrainTimeout time.Duration

	// IdleGrace is how long a connection must have been silent, without a request under way, to be closed. It should
	// exceed the time that keep-alive clients pause between requests. 0 means 2s; negative is an error.
	IdleGrace time.Duration

	// Spread bounds how long telling long streams to end ([Closing]) is spread over, so that their clients do not come back
	// all at once: 200 a second, or as many as Spread asks for. 0 means half of DrainTimeout and at most 10s; negative means
	// all at once.
	Spread time.Duration

	// Logger takes what a person may want to know. nil means slog.Default().
	Logger *slog.Logger
}

// Server is one server and the listener it serves, made by [HTTP] or [Custom].
type Server struct {
	http  *http.Server
	ln    net.Listener
	serve func(net.Listener) error
	stop  func(context.Context) error
}

// HTTP is srv on ln. For TLS give the plain listener and set srv.TLSConfig with its certificates; HTTP/2 then works as
// usual. Serve takes srv over: it wraps Handler, ConnState and BaseContext, and shuts srv down. One srv may serve several
// listeners.
func HTTP(srv *http.Server, ln net.Listener) Server { return Server{http: srv, ln: ln} }

// Custom is any server of connections, such as a gRPC or fasthttp one, on ln. serve accepts from the listener that it is
// given and returns when that is closed. When the drain begins, after accepting has stopped, stop is called: it lets what
// is under way finish and returns, at the latest when its context ends. Connections that are left then are closed.
func Custom(ln net.Listener, serve func(net.Listener) error, stop func(context.Context) error) Server {
	return Server{ln: ln, serve: serve, stop: stop}
}

// Serve runs the servers until ctx ends, or one of them fails, and then drains all of them as the package comment
// describes. It returns nil after a drain in which everything ended by itself; otherwise the errors of the servers, and one
// that says how many connections were cut.
func Serve(ctx context.Context, o Options, servers ...Server) error {
	if err := validate(o, servers); err != nil {
		return err
	}
	d := newDrainer(ctx, o)
	defer d.endRequests()
	return d.run(ctx, servers)
}

func newDrainer(ctx context.Context, o Options) *drainer {
	d := &drainer{
		worker:   process.WorkerFrom(ctx),
		opts:     o,
		log:      o.Logger,
		lastWord: lastWord,
		closing:  make(chan struct{}),
		conns:    make(map[*track]struct{}),
	}
	if d.log == nil {
		d.log = slog.Default()
	}
	base := context.WithValue(context.WithoutCancel(ctx), drainKey{}, d)
	d.base, d.endRequests = context.WithCancel(base)
	return d
}

func validate(o Options, servers []Server) error {
	var errs []error
	if o.DrainTimeout < 0 {
		errs = append(errs, fmt.Errorf("drain: Options.DrainTimeout = %v: must be >= 0 (0 means %v)", o.DrainTimeout, defaultDrainTimeout))
	}
	if o.IdleGrace < 0 {
		errs = append(errs, fmt.Errorf("drain: Options.IdleGrace = %v: must be >= 0 (0 means %v)", o.IdleGrace, defaultIdleGrace))
	}
	if len(servers) == 0 {
		errs = append(errs, errors.New("drain: Serve needs at least one server"))
	}
	for i, s := range servers {
		switch {
		case s.ln == nil:
			errs = append(errs, fmt.Errorf("drain: server %d has no listener", i))
		case s.http == nil && (s.serve == nil || s.stop == nil):
			errs = append(errs, fmt.Errorf("drain: server %d has nothing to serve or to stop with", i))
		}
	}
	return errors.Join(errs...)
}

// drainer is one call of Serve.
type drainer struct {
	worker      process.Worker // nil outside of a cluster
	opts        Options
	log         *slog.Logger
	lastWord    time.Duration
	base        context.Context // of the requests
	endRequests context.CancelFunc

	draining atomic.Bool   // accepting has stopped
	closing  chan struct{} // closed when draining becomes true
	started  time.Time     // when it did; written before draining
	farewell time.Duration // from when a stream is told to its deadline; as started
	accepted atomic.Uint64
	open     atomic.Int64

	mu    sync.Mutex
	conns map[*track]struct{}
}

// stats is what the page and /metrics show of a drainer.
type stats struct {
	Accepted    uint64 `json:"accepted" metric:"fairlead.drain.accepted,counter"`
	Connections int64  `json:"connections" metric:"fairlead.drain.connections,gauge"`
}

func (d *drainer) samples() iter.Seq[telemetry.Sample] {
	return telemetry.Samples(stats{Accepted: d.accepted.Load(), Connections: d.open.Load()})
}

type served struct {
	index int
	err   error
}

func (d *drainer) run(ctx context.Context, servers []Server) error {
	lns := make([]*listener, len(servers))
	var accepting sync.WaitGroup
	for i, s := range servers {
		accepting.Add(1)
		lns[i] = &listener{Listener: s.ln, d: d, http: s.http != nil, accepting: sync.OnceFunc(accepting.Done)}
	}
	d.adopt(servers)
	if d.worker != nil {
		d.worker.AddSamples(d.samples)
	}

	done := make(chan served, len(servers))
	// Before any of them runs: serving sets the TLSConfig of an http.Server, and one may serve several listeners.
	secure := make([]bool, len(servers))
	for i, s := range servers {
		secure[i] = s.http != nil && hasCertificates(s.http.TLSConfig)
	}
	for i, s := range servers {
		go func() {
			err := s.run(lns[i], secure[i])
			if lns[i].stopped.Load() || errors.Is(err, http.ErrServerClosed) {
				err = nil
			}
			lns[i].accepting() // a server that failed before its first Accept must not hold back the end
			done <- served{i, err}
		}()
	}
	failed := make(chan struct{})
	ready := make(chan struct{})
	go func() {
		accepting.Wait()
		select {
		case <-failed:
		case <-ctx.Done():
		default:
			if d.worker != nil {
				d.worker.Ready()
			}
		}
		close(ready)
	}()

	var errs []error
	left := len(servers)
	select {
	case <-ctx.Done():
	case s := <-done:
		left--
		close(failed)
		if s.err != nil {
			errs = append(errs, fmt.Errorf("drain: serving %v: %w", servers[s.index].ln.Addr(), s.err))
		}
	}
	<-ready

	if wait := d.preStop(); wait > 0 && len(errs) == 0 {
		d.log.Info("drain: not ready any more, still serving", "pre_stop", wait)
		time.Sleep(wait)
	}
	timeout := d.shortest(d.opts.DrainTimeout, process.Worker.DrainTimeout, defaultDrainTimeout)
	grace := min(timeout, d.shortest(d.opts.IdleGrace, process.Worker.IdleGrace, defaultIdleGrace))
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()

	// The listeners first: from here on another process, or nobody, takes new connections. Whatever Accept has returned
	// is counted, and Serve hands it to a goroutine before it asks for the next.
	for _, ln := range lns {
		ln.stop()
	}
	d.beginClosing(deadline, timeout)
	// A custom server may return only when its connections have ended: it is not waited for beyond the deadline.
	for expired := false; left > 0 && !expired; {
		select {
		case s := <-done:
			left--
			if s.err != nil {
				errs = append(errs, fmt.Errorf("drain: serving %v: %w", servers[s.index].ln.Addr(), s.err))
			}
		case <-deadline.Done():
			expired = true
			errs = append(errs, fmt.Errorf("drain: %d servers had not returned at the DrainTimeout of %v", left, timeout))
		}
	}

	var custom sync.WaitGroup
	stopErrs := make([]error, len(servers))
	for i, s := range servers {
		if s.stop != nil {
			custom.Go(func() {
				if err := s.stop(deadline); err != nil {
					stopErrs[i] = fmt.Errorf("drain: stopping %v: %w", s.ln.Addr(), err)
				}
			})
		}
	}
	quiet := d.awaitQuiet(deadline, grace)
	if !quiet {
		d.endRequests()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.lastWord)
		d.awaitQuiet(last, 0)
		cancel()
	}
	cut := d.shutdown(servers)
	custom.Wait()
	d.closeAll(func(*track) bool { return true })
	errs = append(errs, stopErrs...)
	if cut > 0 {
		errs = append(errs, fmt.Errorf("drain: %d connections were cut at the DrainTimeout of %v", cut, timeout))
	}
	return errors.Join(errs...)
}

func (s Server) run(ln net.Listener, secure bool) error {
	switch {
	case s.http == nil:
		return s.serve(ln)
	case secure:
		return s.http.ServeTLS(ln, "", "")
	}
	return s.http.Serve(ln)
}

func hasCertificates(c *tls.Config) bool {
	return c != nil && (len(c.Certificates) > 0 || c.GetCertificate != nil || c.GetConfigForClient != nil)
}

func (d *drainer) preStop() time.Duration {
	if d.worker != nil {
		w := d.worker.PreStop()
		if d.opts.PreStop != 0 {
			w = min(w, d.opts.PreStop)
		}
		return w
	}
	if d.opts.PreStop == 0 && process.InKubernetes() {
		return kubernetesPreStop
	}
	return d.opts.PreStop
}

// shortest is own or, where the worker has a shorter one or own is zero, the worker's.
func (d *drainer) shortest(own time.Duration, of func(process.Worker) time.Duration, def time.Duration) time.Duration {
	if d.worker != nil {
		def = of(d.worker)
	} else if own > 0 {
		return own
	}
	if own > 0 {
		return min(own, def)
	}
	return def
}
