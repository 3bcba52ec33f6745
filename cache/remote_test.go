package cache_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/cache/cachetest"
	"github.com/fairlead/fairlead/pool/causal"
)

// fakeStore is a Remote in memory, for tests that need fake time or exact faults. Its nodes are processes.
type fakeStore struct {
	mu     sync.Mutex
	spaces map[string]*fakeSpace
}

type fakeSpace struct {
	keys        map[string]*fakeKey
	incarnation int
	n           uint64
	listeners   map[*fakeListener]bool
	stamps      map[string]fakeStamp // of tags
	all, token  string
}

type fakeStamp struct {
	at  string
	end time.Time
}

func (sp *fakeSpace) stamp(tag string) (at string, ok bool) {
	s, ok := sp.stamps[tag]
	return s.at, ok && time.Now().Before(s.end)
}

type fakeKey struct {
	id, data string
	tags     []string
	dataEnd  time.Time
	lease    string
	leaseEnd time.Time
	token    string
}

type fakeListener struct{ events chan cache.Event }

// fakeNode is one process's way to the store. The zero faults are none.
type fakeNode struct {
	store *fakeStore

	mu    sync.Mutex
	down  bool                             // calls fail
	hang  bool                             // calls take as long as their context
	mute  bool                             // Invalidate fails, and nothing else
	held  chan struct{}                    // events wait until it is closed
	calls map[string]int                   // by method
	onPut func(fills []cache.Fill) error   // before a Put
	onGet func(asks []cache.Ask, n int)    // before the nth Get
	lose  func(cache.Event) (dropped bool) // events on their way
	cut   chan struct{}                    // closed to cut the connection
}

func newFakeStore() *fakeStore { return &fakeStore{spaces: make(map[string]*fakeSpace)} }

func (s *fakeStore) node() *fakeNode {
	return &fakeNode{store: s, calls: make(map[string]int), cut: make(chan struct{})}
}

var errDown = errors.New("fake: down")

func (n *fakeNode) set(change func(*fakeNode)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(n)
}

// hold keeps events back until the returned function is called.
func (n *fakeNode) hold() (release func()) {
	held := make(chan struct{})
	n.set(func(n *fakeNode) { n.held = held })
	return sync.OnceFunc(func() {
		n.set(func(n *fakeNode) { n.held = nil })
		close(held)
	})
}

func (n *fakeNode) disconnect() {
	n.set(func(n *fakeNode) {
		close(n.cut)
		n.cut = make(chan struct{})
	})
}

func (n *fakeNode) called(method string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.calls[method]
}

func (n *fakeNode) call(ctx context.Context, method string) error {
	n.mu.Lock()
	n.calls[method]++
	down, hang := n.down || n.mute && method == "Invalidate", n.hang
	n.mu.Unlock()
	if hang {
		<-ctx.Done()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if down {
		return errDown
	}
	return nil
}

func (s *fakeStore) space(name string) *fakeSpace {
	sp := s.spaces[name]
	if sp == nil {
		sp = &fakeSpace{keys: make(map[string]*fakeKey), incarnation: 1, listeners: make(map[*fakeListener]bool), stamps: make(map[string]fakeStamp)}
		s.spaces[name] = sp
	}
	return sp
}

func (sp *fakeSpace) key(name string) *fakeKey {
	k := sp.keys[name]
	if k == nil {
		k = new(fakeKey)
		sp.keys[name] = k
	}
	now := time.Now()
	if k.id != "" && !now.Before(k.dataEnd) {
		k.id, k.data = "", ""
	}
	if k.lease != "" && !now.Before(k.leaseEnd) {
		k.lease = ""
	}
	return k
}

func (n *fakeNode) Get(ctx context.Context, space string, asks []cache.Ask) ([]cache.Record, error) {
	if err := n.call(ctx, "Get"); err != nil {
		return nil, err
	}
	n.mu.Lock()
	onGet, times := n.onGet, n.calls["Get"]
	n.mu.Unlock()
	if onGet != nil {
		onGet(asks, times)
	}
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	records := make([]cache.Record, len(asks))
	for i, a := range asks {
		sp := n.store.space(space)
		k := sp.key(a.Key)
		if k.id != "" {
			records[i] = cache.Record{ID: k.id, Data: []byte(k.data), Left: time.Until(k.dataEnd), Tags: k.tags}
			records[i].Stamp = sp.all
			for _, tag := range k.tags {
				stamp, ok := sp.stamp(tag)
				if !ok {
					stamp = "~"
				}
				records[i].Stamp = max(records[i].Stamp, stamp)
			}
		}
		if a.Lease == "" || k.id != "" && (a.Instead == "" || a.Instead != k.id) {
			continue
		}
		if k.lease == a.Lease || k.lease == "" && !a.Renew {
			k.lease, k.leaseEnd = a.Lease, time.Now().Add(a.Hold)
			records[i].Leased, records[i].Token = true, k.token
		}
	}
	return records, nil
}

func (n *fakeNode) Put(ctx context.Context, space string, fills []cache.Fill) ([]bool, error) {
	if err := n.call(ctx, "Put"); err != nil {
		return nil, err
	}
	n.mu.Lock()
	onPut := n.onPut
	n.mu.Unlock()
	if onPut != nil {
		if err := onPut(fills); err != nil {
			return nil, err
		}
	}
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	stored := make([]bool, len(fills))
	for i, f := range fills {
		sp := n.store.space(space)
		k := sp.key(f.Key)
		if f.Data != nil {
			for _, tag := range f.Tags {
				if _, ok := sp.stamp(tag); !ok {
					sp.stamps[tag] = fakeStamp{f.Heard, time.Now().Add(f.TTL + time.Minute)}
				}
			}
		}
		switch {
		case k.lease == f.Lease && f.Lease != "":
			k.lease = ""
			if f.Data != nil {
				k.id, k.data, k.tags, k.dataEnd = f.Lease, string(f.Data), f.Tags, time.Now().Add(f.TTL)
				stored[i] = true
			}
		case f.Data != nil && k.id == f.Lease:
			stored[i] = true
		}
	}
	return stored, nil
}

func (n *fakeNode) Invalidate(ctx context.Context, space string, inv cache.Invalidation) (cache.Event, error) {
	if err := n.call(ctx, "Invalidate"); err != nil {
		return cache.Event{}, err
	}
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	sp := n.store.space(space)
	for _, name := range inv.Keys {
		k := sp.key(name)
		token, err := causal.Merge(k.token, inv.Token)
		if err != nil {
			token = "?"
		}
		*k = fakeKey{token: token}
	}
	sp.n++
	ev := sp.report()
	ev.Invalidation = inv
	for _, tag := range inv.Tags {
		sp.stamps[tag] = fakeStamp{ev.Reading(), time.Now().Add(inv.StampTTL)}
	}
	if inv.All {
		sp.all = ev.Reading()
	}
	if inv.All || len(inv.Tags) > 0 {
		sp.token, _ = causal.Merge(sp.token, inv.Token)
	}
	for l := range sp.listeners {
		l.events <- ev
	}
	return ev, nil
}

func (sp *fakeSpace) report() cache.Event {
	return cache.Event{Connected: true, Incarnation: fmt.Sprintf("%08d", sp.incarnation), N: sp.n}
}

func (n *fakeNode) Listen(ctx context.Context, space string, handle func(cache.Event)) error {
	for ctx.Err() == nil {
		l := &fakeListener{events: make(chan cache.Event, 100_000)}
		n.store.mu.Lock()
		sp := n.store.space(space)
		sp.listeners[l] = true
		start := sp.report()
		start.Invalidation.Token = sp.token
		n.store.mu.Unlock()
		n.mu.Lock()
		cut := n.cut
		n.mu.Unlock()

		handle(start)
		for connected := true; connected; {
			select {
			case ev := <-l.events:
				n.mu.Lock()
				held, lose := n.held, n.lose
				n.mu.Unlock()
				if held != nil {
					select {
					case <-held:
					case <-ctx.Done():
					}
				}
				if lose == nil || !lose(ev) {
					handle(ev)
				}
			case <-cut:
				connected = false
			case <-ctx.Done():
				connected = false
			}
		}
		n.store.mu.Lock()
		delete(sp.listeners, l)
		n.store.mu.Unlock()
		if ctx.Err() == nil {
			handle(cache.Event{})
		}
		n.mu.Lock()
		for n.down && ctx.Err() == nil {
			n.mu.Unlock()
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
			n.mu.Lock()
		}
		n.mu.Unlock()
	}
	return cmp.Or(context.Cause(ctx), ctx.Err())
}

func TestFakeConformance(t *testing.T) {
	store := newFakeStore()
	cachetest.Run(t, func(*testing.T) cache.Remote { return store.node() })
}
