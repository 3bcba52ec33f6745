package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/fairlead/fairlead/internal/process"
)

const (
	defaultReadyTimeout = time.Minute
	defaultMinHealthy   = time.Second
	defaultDrainTimeout = 20 * time.Second
	defaultIdleGrace    = 2 * time.Second
	defaultAdoptAfter   = 1500 * time.Millisecond
	defaultHangTimeout  = 10 * time.Second
	kubernetesPreStop   = 5 * time.Second
	killAfter           = 5 * time.Second // what a worker has beyond its drain before it is killed
)

// Options configure a cluster. The zero value runs the app in this process, without listeners.
type Options struct {
	// Workers is the number of worker processes. 0 runs the app in this process, as Windows always does; negative means
	// one a processor.
	Workers int

	// Listen names the sockets that workers get by [Worker.Listener].
	Listen []Listen

	// Admin serves probes and metrics. The zero value serves none.
	Admin Admin

	// Control is the path of the unix socket for clusterctl. It is created with mode 0600. "" means none.
	Control string

	// ReadyTimeout is how long a worker may take from its start to Ready. 0 means 1m; negative is an error.
	ReadyTimeout time.Duration

	// MinHealthy is how long a new worker must have been ready before the one it replaces is drained. 0 means 1s; negative
	// means no time at all.
	MinHealthy time.Duration

	// DrainTimeout is how long a worker that stops may take to finish what it has accepted. Five seconds later it is
	// killed. 0 means 20s; negative is an error.
	DrainTimeout time.Duration

	// IdleGrace is how long a keep-alive connection must have been silent for a draining worker to close it. It should
	// exceed the pauses of clients that do not retry. 0 means 2s; negative is an error.
	IdleGrace time.Duration

	// PreStop is how long workers keep serving after the whole service was told to stop, while /readyz already says no. 0
	// means 5s in Kubernetes and none elsewhere; negative means none.
	PreStop time.Duration

	// AdoptAfter is how long a ready worker may give no sign of life, of which it gives one every 500 ms, before another
	// accepts connections for it too. It ends with the next sign. 0 means 1.5s; negative is an error.
	AdoptAfter time.Duration

	// HangTimeout is how long a ready worker may give no sign of life before it is replaced. It is told to write down what
	// its goroutines do (SIGQUIT) and killed two seconds later. A worker that is busy does give signs of life. 0 means 10s;
	// negative is an error.
	HangTimeout time.Duration

	// Alive says whether the app works: it finds a deadlock in a process that otherwise lives. It is called in each worker
	// every 500 ms, once the one before has returned. While it returns an error, or has not returned for 2s, the worker
	// gives no sign of life. It should not look at what all workers share, such as a database. nil means no such check.
	Alive func(context.Context) error

	// SoftMemory is the resident memory in bytes above which a worker is replaced, gracefully and one slot at a time. 0
	// means no limit; negative is an error.
	SoftMemory int64

	// HardMemory is the resident memory in bytes above which a worker is killed. 0 means no limit; negative is an error.
	HardMemory int64

	// Lifetime is how long a worker may have been ready before it is replaced, gracefully, give or take a tenth. 0 means
	// without end; negative is an error.
	Lifetime time.Duration

	// OneByOne makes a reload drain a worker before its successor starts, so that there is never one more than Workers.
	// Without it that is done when the memory would not suffice for one more. In either case another worker must be ready.
	OneByOne bool

	// Logger takes the supervisor's and the workers' own messages. nil means slog.Default().
	Logger *slog.Logger
}

// Listen is a listening socket.
type Listen struct {
	// Name is what workers ask for. It must be unique and not empty.
	Name string

	// Addr is host:port for TCP, unix:/path, or udp:host:port for a packet socket ([Worker.PacketConn]). Port 0 is chosen
	// once. A socket of this Name that systemd passes to the service is taken instead, whatever its address.
	Addr string

	// ReusePort gives each worker slot a socket of its own (SO_REUSEPORT), between which the kernel spreads connections
	// evenly; good for more than four workers. The sockets belong to the supervisor all the same. It takes effect for TCP on
	// Linux with workers; otherwise there is one shared socket.
	ReusePort bool
}

// Admin is the supervisor's HTTP server: /livez, /startupz and /readyz (with ?verbose), /metrics (Prometheus text, merged
// over all workers) and /api/snapshot (JSON). It is up before the workers and closed after them.
type Admin struct {
	// Addr is host:port. "" means no admin server. An address that is not loopback needs Auth.
	Addr string

	// Auth guards everything but the three probes: an error refuses the request with 401. It runs in the supervisor. nil
	// means no check.
	Auth func(*http.Request) error
}

func (o Options) validate() error {
	var errs []error
	bad := func(field string, value any, rule string) {
		errs = append(errs, fmt.Errorf("cluster: Options.%s = %v: %s", field, value, rule))
	}
	seen := make(map[string]bool)
	for i, l := range o.Listen {
		if l.Name == "" || seen[l.Name] {
			bad(fmt.Sprintf("Listen[%d].Name", i), fmt.Sprintf("%q", l.Name), "must be unique and not empty")
		}
		seen[l.Name] = true
		if !validAddr(l.Addr) {
			bad(fmt.Sprintf("Listen[%d].Addr", i), fmt.Sprintf("%q", l.Addr), "must be host:port, udp:host:port or unix:/path")
		}
	}
	if a := o.Admin.Addr; a != "" {
		if host, _, err := net.SplitHostPort(a); err != nil {
			bad("Admin.Addr", fmt.Sprintf("%q", a), "must be host:port")
		} else if o.Admin.Auth == nil && !loopback(host) {
			bad("Admin.Addr", fmt.Sprintf("%q", a), "must be a loopback address, or Admin.Auth be set")
		}
	}
	for _, d := range []struct {
		field string
		value time.Duration
		def   time.Duration
	}{
		{"ReadyTimeout", o.ReadyTimeout, defaultReadyTimeout},
		{"DrainTimeout", o.DrainTimeout, defaultDrainTimeout},
		{"IdleGrace", o.IdleGrace, defaultIdleGrace},
		{"AdoptAfter", o.AdoptAfter, defaultAdoptAfter},
		{"HangTimeout", o.HangTimeout, defaultHangTimeout},
	} {
		if d.value < 0 {
			bad(d.field, d.value, fmt.Sprintf("must be >= 0 (0 means %v)", d.def))
		}
	}
	if o.Lifetime < 0 {
		bad("Lifetime", o.Lifetime, "must be >= 0 (0 means without end)")
	}
	for _, m := range []struct {
		field string
		value int64
	}{{"SoftMemory", o.SoftMemory}, {"HardMemory", o.HardMemory}} {
		if m.value < 0 {
			bad(m.field, m.value, "must be >= 0 (0 means no limit)")
		}
	}
	return errors.Join(errs...)
}

func validAddr(addr string) bool {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return path != ""
	}
	_, _, err := net.SplitHostPort(strings.TrimPrefix(addr, "udp:"))
	return err == nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func (o Options) withDefaults() Options {
	if o.Workers < 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	or := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
		*d = max(*d, 0)
	}
	or(&o.ReadyTimeout, defaultReadyTimeout)
	or(&o.MinHealthy, defaultMinHealthy)
	or(&o.DrainTimeout, defaultDrainTimeout)
	or(&o.IdleGrace, defaultIdleGrace)
	or(&o.AdoptAfter, defaultAdoptAfter)
	or(&o.HangTimeout, defaultHangTimeout)
	if process.InKubernetes() {
		or(&o.PreStop, kubernetesPreStop)
	}
	o.PreStop = max(o.PreStop, 0)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}
