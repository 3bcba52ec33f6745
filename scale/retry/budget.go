package retry

import (
	"iter"
	"math"
	"sync"
	"sync/atomic"

	"github.com/fairlead/fairlead/internal/telemetry"
)

// maxHosts bounds what a client that follows other people's links can make a Budget hold.
const maxHosts = 1024

// Budget says how calls to one target are retried, and how many retries there may be. Do's calls share one bucket of
// tokens; Transport's have one for each host (the 1025th and those after it share one). It is safe for concurrent use and
// needs no closing.
type Budget struct {
	name string
	opts Options

	calls bucket // Do's

	mu    sync.RWMutex
	hosts map[string]*bucket
	rest  bucket // of hosts beyond maxHosts

	requests, retries, recovered, exhausted atomic.Uint64
}

// NewBudget returns a full budget. The name appears in telemetry. The error names every bad field of the options.
func NewBudget(name string, o Options) (*Budget, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	b := &Budget{name: name, opts: o.withDefaults(), hosts: map[string]*bucket{}}
	b.fill(&b.calls)
	b.fill(&b.rest)
	return b, nil
}

func (b *Budget) forHost(host string) *bucket {
	b.mu.RLock()
	t := b.hosts[host]
	b.mu.RUnlock()
	if t != nil {
		return t
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.hosts[host]; t != nil {
		return t
	}
	if len(b.hosts) >= maxHosts {
		return &b.rest
	}
	t = new(bucket)
	b.fill(t)
	b.hosts[host] = t
	return t
}

// bucket holds tokens, in whole millionths so that no sum is rounded.
type bucket struct{ millionths atomic.Int64 }

const token = 1_000_000

func (b *Budget) fill(t *bucket) { t.millionths.Store(b.most()) }

func (b *Budget) most() int64 { return int64(max(0, b.opts.Burst)) * token }

// deposit is a request's share.
func (b *Budget) deposit(t *bucket) {
	b.requests.Add(1)
	share := int64(math.Round(max(0, b.opts.Ratio) * token))
	for {
		have := t.millionths.Load()
		// One token at least fits in, else a Burst of none would leave nothing to save up for.
		next := min(have+share, max(b.most(), token))
		if next <= have || t.millionths.CompareAndSwap(have, next) {
			return
		}
	}
}

// withdraw pays for a retry.
func (b *Budget) withdraw(t *bucket) bool {
	for {
		have := t.millionths.Load()
		if have < token {
			b.exhausted.Add(1)
			return false
		}
		if t.millionths.CompareAndSwap(have, have-token) {
			b.retries.Add(1)
			return true
		}
	}
}

// Stats is a snapshot of a budget. Attempts are Requests + Retries.
type Stats struct {
	Requests  uint64 `json:"requests" metric:"fairlead.retry.requests,counter"`
	Retries   uint64 `json:"retries" metric:"fairlead.retry.retries,counter"`     // paid for; a wait that the context ended is one, too
	Recovered uint64 `json:"recovered" metric:"fairlead.retry.recovered,counter"` // requests that succeeded by a retry
	Exhausted uint64 `json:"exhausted" metric:"fairlead.retry.exhausted,counter"` // requests given up since there was no token
}

// Stats returns a snapshot.
func (b *Budget) Stats() Stats {
	return Stats{
		Requests: b.requests.Load(), Retries: b.retries.Load(), Recovered: b.recovered.Load(), Exhausted: b.exhausted.Load(),
	}
}

// Samples returns the Stats as telemetry samples.
func (b *Budget) Samples() iter.Seq[telemetry.Sample] {
	return telemetry.Samples(b.Stats(), telemetry.Attr{Key: "budget", Value: b.name})
}
