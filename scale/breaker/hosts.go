package breaker

import (
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead/fairlead/internal/telemetry"
)

// maxHosts bounds what a client that follows other people's links can make a Hosts hold.
const maxHosts = 1024

// Hosts is a set of breakers, one for each host. It is safe for concurrent use.
type Hosts struct {
	name  string
	opts  Options
	epoch time.Time

	mu     sync.RWMutex
	byHost map[string]*hostBreaker
}

type hostBreaker struct {
	*Breaker
	used atomic.Int64 // since the epoch
}

// PerHost returns breakers with the same options, each made when its host is first asked for and named "name/host". At
// most 1024 are kept: the one not used for longest goes first, those that are closed before others.
func PerHost(name string, perHost Options) (*Hosts, error) {
	if err := perHost.validate(); err != nil {
		return nil, err
	}
	return &Hosts{name: name, opts: perHost.withDefaults(), epoch: time.Now(), byHost: map[string]*hostBreaker{}}, nil
}

// For returns the breaker of a host, in whatever form the caller always uses; Transport uses host:port.
func (h *Hosts) For(host string) *Breaker {
	h.mu.RLock()
	b := h.byHost[host]
	h.mu.RUnlock()
	if b == nil {
		b = h.add(host)
	}
	b.used.Store(int64(time.Since(h.epoch)))
	return b.Breaker
}

func (h *Hosts) add(host string) *hostBreaker {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.byHost[host]; b != nil {
		return b
	}
	if len(h.byHost) >= maxHosts {
		delete(h.byHost, h.dispensable())
	}
	b := &hostBreaker{Breaker: newBreaker(h.name+"/"+host, h.opts,
		telemetry.Attr{Key: "breaker", Value: h.name}, telemetry.Attr{Key: "host", Value: host})}
	b.used.Store(int64(time.Since(h.epoch)))
	h.byHost[host] = b
	return b
}

// dispensable is called with mu held.
func (h *Hosts) dispensable() (host string) {
	var oldest *hostBreaker
	for name, b := range h.byHost {
		if oldest == nil || b.before(oldest) {
			host, oldest = name, b
		}
	}
	return host
}

// before says whether b goes before other.
func (b *hostBreaker) before(other *hostBreaker) bool {
	keep, keepOther := b.worthKeeping(), other.worthKeeping()
	if keep != keepOther {
		return keepOther
	}
	return b.used.Load() < other.used.Load()
}

func (b *hostBreaker) worthKeeping() bool {
	m := b.machine.Load()
	return m.visible() != Closed || m.forced == Closed && !b.opts.Disabled
}

// Stats returns a snapshot for each host.
func (h *Hosts) Stats() map[string]Stats {
	stats := map[string]Stats{}
	for host, b := range h.all() {
		stats[host] = b.Stats()
	}
	return stats
}

// Samples returns the Stats as telemetry samples, with the host as an attribute.
func (h *Hosts) Samples() iter.Seq[telemetry.Sample] {
	return func(yield func(telemetry.Sample) bool) {
		for _, b := range h.all() {
			for s := range b.Samples() {
				if !yield(s) {
					return
				}
			}
		}
	}
}

// all is a copy, since Stats may tell listeners.
func (h *Hosts) all() map[string]*Breaker {
	h.mu.RLock()
	defer h.mu.RUnlock()
	all := make(map[string]*Breaker, len(h.byHost))
	for host, b := range h.byHost {
		all[host] = b.Breaker
	}
	return all
}
