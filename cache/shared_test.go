package cache_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/pool/causal"
)

// origin is a database with one number a key.
type origin struct {
	values  [100]atomic.Int64
	loads   atomic.Int64
	failing atomic.Bool
}

var errOrigin = errors.New("origin is down")

func (o *origin) load(_ context.Context, key int) (int, error) {
	o.loads.Add(1)
	if o.failing.Load() {
		return 0, errOrigin
	}
	return int(o.values[key].Load()), nil
}

// connected waits until a cache hears invalidations.
func connected[K comparable, V any](t *testing.T, caches ...*cache.Cache[K, V]) {
	t.Helper()
	for _, c := range caches {
		eventually(t, "the cache hears invalidations", func() bool { return c.Stats().Connected })
	}
}

func TestSharedTier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), new(origin)
		options := func() cache.Options[int, int] {
			return cache.Options[int, int]{Remote: store.node(), StaleWhileRevalidate: time.Minute}
		}
		var slow atomic.Bool
		load := func(ctx context.Context, key int) (int, error) {
			if slow.Load() {
				time.Sleep(100 * time.Millisecond)
			}
			return o.load(ctx, key)
		}
		a, b := open(t, load, options()), open(t, load, options())
		synctest.Wait()
		o.values[1].Store(7)
		got, err := a.Get(t.Context(), 1)
		want(t, got, err, 7)
		slow.Store(true) // so that all see it stale before the load behind ends
		time.Sleep(10 * time.Second)
		r, err := b.Lookup(t.Context(), 1)
		if err != nil || r.Value != 7 || r.Tier != "remote" || r.Age != 10*time.Second || r.TTL <= 40*time.Second || r.TTL > 50*time.Second {
			t.Errorf("got %+v, %v", r, err)
		}
		if r, _ := b.Lookup(t.Context(), 1); r.Tier != "memory" {
			t.Errorf("got %+v, %v", r, err)
		}
		// Stale in both tiers: one load for both, behind.
		time.Sleep(55 * time.Second)
		for range 3 {
			for _, c := range []*cache.Cache[int, int]{a, b} {
				if r, err := c.Lookup(t.Context(), 1); err != nil || r.Value != 7 || !r.Stale {
					t.Errorf("got %+v, %v", r, err)
				}
			}
		}
		time.Sleep(time.Second)
		for _, c := range []*cache.Cache[int, int]{a, b} {
			if r, err := c.Lookup(t.Context(), 1); err != nil || r.Stale || r.Tier == "origin" {
				t.Errorf("got %+v, %v", r, err)
			}
		}
		if n := o.loads.Load(); n != 2 {
			t.Errorf("%d loads, want the first and one behind", n)
		}
		o.values[1].Store(8)
		if err := a.Invalidate(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // delivered
		got, err = b.Get(t.Context(), 1)
		want(t, got, err, 8)
		got, err = a.Get(t.Context(), 1)
		want(t, got, err, 8)
		if n := o.loads.Load(); n != 3 {
			t.Errorf("%d loads, want 3", n)
		}
		addsUp(t, a, 6)
		addsUp(t, b, 7)
	})
}

func TestOwnWrites(t *testing.T) {
	store, o := newFakeStore(), new(origin)
	na, nb := store.node(), store.node()
	a := open(t, o.load, cache.Options[int, int]{RemoteTimeout: patient, Remote: na})
	b := open(t, o.load, cache.Options[int, int]{RemoteTimeout: patient, Remote: nb})
	connected(t, a, b)
	release := nb.hold() // b hears nothing
	defer release()
	const pairs = 200
	stale := 0
	for i := range pairs {
		key := i % 10
		b.Get(t.Context(), key) // in b's memory
		version := int(o.values[key].Add(1))

		ctx, _ := causal.Begin(t.Context())
		if err := a.Invalidate(ctx, key); err != nil {
			t.Fatal(err)
		}
		token, err := causal.Token(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := b.Get(t.Context(), key); got != version { // somebody else
			stale++
		}
		next, err := causal.AtLeast(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		got, err := b.Get(next, key)
		want(t, got, err, version)
		loads := o.loads.Load()
		got, err = b.Get(next, key) // memory will do now
		want(t, got, err, version)
		if s := o.loads.Load(); s != loads {
			t.Fatal("loaded again")
		}
	}
	if stale < pairs/2 {
		t.Errorf("without the token %d of %d reads were stale: the bus is not delayed, and this test tests nothing", stale, pairs)
	}
	if s := b.Stats(); s.OwnWrites == 0 || s.OwnWrites > pairs {
		t.Errorf("%d reads passed memory by, want at most the writer's first ones, %d", s.OwnWrites, pairs)
	}
	release()
	eventually(t, "b has heard all", func() bool { return b.Stats().Heard == pairs })
	skips := b.Stats().OwnWrites
	ctx, _ := causal.Begin(t.Context())
	if err := a.Invalidate(ctx, 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b has heard it", func() bool { return b.Stats().Heard == pairs+1 })
	b.Get(ctx, 1)
	b.Get(ctx, 1)
	if n := b.Stats().OwnWrites; n != skips {
		t.Error("memory was passed by though all was heard")
	}
}

// A flight that began before the reader's write is not joined.
func TestOwnWritesDetachOlderFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		na, nb := store.node(), store.node()
		g := newGate()
		a := open(t, func(context.Context, int) (int, error) { return 0, nil }, cache.Options[int, int]{Remote: na})
		b := open(t, g.load, cache.Options[int, int]{Remote: nb})
		synctest.Wait()
		defer nb.hold()()
		go b.Get(t.Context(), 1)
		<-g.begun
		ctx, _ := causal.Begin(t.Context())
		if err := a.Invalidate(ctx, 1); err != nil {
			t.Fatal(err)
		}
		got := make(chan int)
		go func() {
			v, _ := b.Get(ctx, 1)
			got <- v
		}()
		<-g.begun
		g.open <- nil
		g.open <- nil
		if v := <-got; v != 1002 {
			t.Errorf("the writer got %d from a load that began before the write", v)
		}
		synctest.Wait()
		if s := b.Stats(); s.Refused != 1 {
			t.Errorf("the old load's fill was not refused: %+v", s)
		}
	})
}

func TestFreshSeesWhatIsNotHeard(t *testing.T) {
	store, o := newFakeStore(), new(origin)
	nb := store.node()
	a := open(t, o.load, cache.Options[int, int]{RemoteTimeout: patient, Remote: store.node()})
	b := open(t, o.load, cache.Options[int, int]{RemoteTimeout: patient, Remote: nb})
	connected(t, a, b)
	b.Get(t.Context(), 1)
	defer nb.hold()()
	o.values[1].Store(5)
	if err := a.Invalidate(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	got, err := b.Get(t.Context(), 1)
	want(t, got, err, 0)
	got, err = b.Get(cache.Fresh(t.Context()), 1)
	want(t, got, err, 5)
}

func TestRefusedFillIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, g := newFakeStore(), newGate()
		na, nb := store.node(), store.node()
		a := open(t, g.load, cache.Options[int, int]{Remote: na})
		b := open(t, g.load, cache.Options[int, int]{Remote: nb})
		synctest.Wait()
		go b.Get(t.Context(), 1)
		<-g.begun
		release := nb.hold()
		if err := a.Invalidate(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		g.open <- nil
		synctest.Wait()
		if s := b.Stats(); s.Refused != 1 || s.Entries != 0 {
			t.Errorf("stats: %+v", s)
		}
		release()
		go func() { <-g.begun; g.open <- nil }()
		got, err := a.Get(t.Context(), 1)
		want(t, got, err, 1002)
	})
}

// The token of the invalidation is what a load on another process starts with, and what a reader's scope is raised to.
func TestCausalTokens(t *testing.T) {
	const tag = "db1"
	store := newFakeStore()
	demanded := make(chan string, 10)
	reached := make(chan string, 10)
	load := func(ctx context.Context, key int) (int, error) {
		d := causal.From(ctx).Domain(tag)
		at, settled := d.Bound()
		if !settled {
			at = "primary"
		}
		demanded <- at
		d.Saw(<-reached)
		return key, nil
	}
	na, nb := store.node(), store.node()
	a := open(t, load, cache.Options[int, int]{RemoteTimeout: patient, Remote: na})
	b := open(t, load, cache.Options[int, int]{RemoteTimeout: patient, Remote: nb})
	connected(t, a, b)
	defer nb.hold()() // the token comes with the lease, not with the message

	write := func(position string) context.Context {
		ctx, scope := causal.Begin(t.Context())
		scope.Domain(tag).Wrote(position)
		if err := a.Invalidate(ctx, 1); err != nil {
			t.Fatal(err)
		}
		return ctx
	}
	read := func(c *cache.Cache[int, int], key int) string {
		t.Helper()
		ctx, scope := causal.Begin(t.Context())
		got, err := c.Get(ctx, key)
		want(t, got, err, key)
		at, settled := scope.Domain(tag).Bound()
		if !settled {
			t.Error("the reader's scope demands the primary")
		}
		return at
	}
	reached <- "0001"
	if at := read(b, 2); <-demanded != "" || at != "0001" {
		t.Errorf("a key never written: reader raised to %q", at)
	}
	write("0005")
	reached <- "0007"
	if at := read(b, 1); <-demanded != "0005" || at != "0007" {
		t.Errorf("reader of what was loaded at 0007 is raised to %q", at)
	}
	if at := read(a, 1); at != "0007" { // through the remote's record
		t.Errorf("reader of the record is raised to %q", at)
	}
	if at := read(a, 1); at != "0007" { // from memory
		t.Errorf("reader of memory is raised to %q", at)
	}
	// With the remote away, from what the process knows itself.
	na.set(func(n *fakeNode) { n.down = true })
	ctx, scope := causal.Begin(t.Context())
	scope.Domain(tag).Wrote("0009")
	if err := a.Invalidate(ctx, 1); err == nil {
		t.Error("Invalidate says that the shared tier confirmed, which is down")
	}
	reached <- "0009"
	read(a, 1)
	if at := <-demanded; at != "0009" {
		t.Errorf("load with the shared tier away demands %q", at)
	}
}

func TestRemoteDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), new(origin)
		na, nb := store.node(), store.node()
		options := cache.Options[int, int]{Remote: na, TTL: time.Hour, StaleIfError: time.Hour}
		a := open(t, o.load, options)
		options.Remote = nb
		b := open(t, o.load, options)
		synctest.Wait()
		read := func(c *cache.Cache[int, int], key, value int) (took time.Duration) {
			t.Helper()
			start := time.Now()
			got, err := c.Get(t.Context(), key)
			want(t, got, err, value)
			return time.Since(start)
		}
		read(a, 1, 0)
		read(b, 1, 0)
		read(b, 2, 0)

		// a hangs: misses cost the budget.
		na.set(func(n *fakeNode) { n.hang, n.down = true, true })
		if took := read(a, 1, 0); took != 0 {
			t.Errorf("a hit took %v", took)
		}
		if took := read(a, 2, 0); took > 250*time.Millisecond {
			t.Errorf("a miss took %v, beyond the budget", took)
		}
		// An invalidation that cannot be sent holds here at once.
		o.values[1].Store(5)
		scope, _ := causal.Begin(t.Context())
		if err := a.Invalidate(scope, 1); !errors.Is(err, context.DeadlineExceeded) && err == nil {
			t.Errorf("Invalidate = %v", err)
		}
		read(a, 1, 5)
		if s := a.Stats(); s.Pending != 1 {
			t.Errorf("stats: %+v", s)
		}
		// Who wrote it does not get the old value from a process that does reach the remote either.
		token, err := causal.Token(scope)
		if err != nil {
			t.Fatal(err)
		}
		next, err := causal.AtLeast(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		got, err := b.Get(next, 1)
		want(t, got, err, 5)

		// The bus is lost too: memory is trusted for 5 s, then the origin is asked.
		na.disconnect()
		synctest.Wait()
		o.values[2].Store(6)
		if err := b.Invalidate(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		read(a, 2, 0)
		time.Sleep(5*time.Second + time.Millisecond)
		read(a, 2, 6)
		o.values[2].Store(7)
		o.failing.Store(true)
		time.Sleep(6 * time.Second)
		r, err := a.Lookup(t.Context(), 2)
		if err != nil || r.Value != 6 || !r.Stale {
			t.Errorf("origin and remote down: %+v, %v", r, err)
		}
		o.failing.Store(false)
		if err := b.Invalidate(t.Context(), 2); err != nil {
			t.Fatal(err)
		}

		// Back: what was queued is sent, and memory is checked.
		na.set(func(n *fakeNode) { n.hang, n.down = false, false })
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s := a.Stats(); s.Pending != 0 || s.Replayed != 1 || !s.Connected || s.Losses != 1 {
			t.Errorf("stats: %+v", s)
		}
		read(b, 1, 5)
		read(a, 1, 5)
		read(a, 2, 7)
		loads := o.loads.Load()
		read(b, 2, 7)
		if n := o.loads.Load(); n != loads {
			t.Error("b loaded what a had put in the remote")
		}
	})
}

// What could not be stored in the shared tier is trusted for DisconnectedTTL, also while invalidations are heard.
func TestMemoryOnlyIsTrustedBriefly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), new(origin)
		n := store.node()
		c := open(t, o.load, cache.Options[int, int]{Remote: n, TTL: time.Hour})
		synctest.Wait()
		n.set(func(n *fakeNode) { n.down = true })
		for i := range 5 {
			o.values[1].Store(int64(i))
			got, err := c.Get(t.Context(), 1)
			want(t, got, err, i)
			time.Sleep(4 * time.Second)
			o.values[1].Store(99)
			got, err = c.Get(t.Context(), 1)
			want(t, got, err, i)
			time.Sleep(2 * time.Second)
		}
	})
}

// While an invalidation waits to be sent, the record it is about still stands, and is not read.
func TestPendingKeyPassesTheRemoteBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), new(origin)
		n := store.node()
		c := open(t, o.load, cache.Options[int, int]{Remote: n})
		synctest.Wait()
		c.Get(t.Context(), 1)
		n.set(func(n *fakeNode) { n.mute = true })
		o.values[1].Store(1)
		if err := c.Invalidate(t.Context(), 1); !errors.Is(err, errDown) {
			t.Errorf("Invalidate = %v", err)
		}
		got, err := c.Get(t.Context(), 1)
		want(t, got, err, 1)
		n.set(func(n *fakeNode) { n.mute = false })
		time.Sleep(5 * time.Second)
		if s := c.Stats(); s.Pending != 0 || s.Replayed != 1 {
			t.Errorf("stats: %+v", s)
		}
		got, err = open(t, o.load, cache.Options[int, int]{Remote: store.node()}).Get(t.Context(), 1)
		want(t, got, err, 1)
	})
}

// After a loss everything in memory is checked, and what is still the same is served without a load.
func TestReconnectDoesNotLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), new(origin)
		na := store.node()
		a := open(t, o.load, cache.Options[int, int]{Remote: na, TTL: time.Hour})
		b := open(t, o.load, cache.Options[int, int]{Remote: store.node(), TTL: time.Hour})
		synctest.Wait()
		for key := range 50 {
			a.Get(t.Context(), key)
		}
		// The one message that says so is lost on the way, and the connection too.
		na.set(func(n *fakeNode) { n.lose = func(cache.Event) bool { return true } })
		o.values[3].Store(9)
		if err := b.Invalidate(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		got, err := a.Get(t.Context(), 3)
		want(t, got, err, 0) // as it must be: it cannot know
		na.set(func(n *fakeNode) { n.lose = nil })
		na.disconnect()
		synctest.Wait()
		loads, gets := o.loads.Load(), na.called("Get")
		for range 2 {
			for key := range 50 {
				got, err := a.Get(t.Context(), key)
				want(t, got, err, int(o.values[key].Load()))
			}
		}
		if n := o.loads.Load() - loads; n != 1 {
			t.Errorf("%d loads after a reconnect, want that of the key that had changed", n)
		}
		if n := na.called("Get") - gets; n != 51 { // one with a lease
			t.Errorf("%d looks in the remote, want one a key", n)
		}
	})
}

// A gap in the clock is a lost message.
func TestGapIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), new(origin)
		na := store.node()
		a := open(t, o.load, cache.Options[int, int]{Remote: na})
		b := open(t, o.load, cache.Options[int, int]{Remote: store.node()})
		synctest.Wait()
		a.Get(t.Context(), 1)
		lost := false
		na.set(func(n *fakeNode) {
			n.lose = func(ev cache.Event) bool {
				first := !lost
				lost = true
				return first
			}
		})
		o.values[1].Store(1)
		b.Invalidate(t.Context(), 1)
		b.Invalidate(t.Context(), 2)
		synctest.Wait()
		if s := a.Stats(); s.Losses != 1 {
			t.Errorf("stats: %+v", s)
		}
		got, err := a.Get(t.Context(), 1)
		want(t, got, err, 1)
	})
}

// A store that comes back without what it had acknowledged is told again.
func TestRestartedStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), new(origin)
		na, nb := store.node(), store.node()
		a := open(t, o.load, cache.Options[int, int]{Remote: na})
		b := open(t, o.load, cache.Options[int, int]{Remote: nb})
		synctest.Wait()
		a.Get(t.Context(), 1)
		store.mu.Lock()
		snapshot := *store.spaces["test"].keys["1"]
		store.mu.Unlock()
		o.values[1].Store(1)
		if err := a.Invalidate(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		store.mu.Lock()
		sp := store.spaces["test"]
		sp.incarnation++
		sp.n = 0
		sp.keys["1"] = &snapshot
		store.mu.Unlock()
		na.disconnect()
		nb.disconnect()
		time.Sleep(time.Second)
		synctest.Wait()
		for _, c := range []*cache.Cache[int, int]{a, b} {
			got, err := c.Get(t.Context(), 1)
			want(t, got, err, 1)
		}
		if s := a.Stats(); s.Replayed != 1 {
			t.Errorf("stats: %+v", s)
		}
	})
}

// A process that dies in a load costs the others its lease, not for ever.
func TestDeadOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), new(origin)
		n := store.node()
		if r, err := n.Get(t.Context(), "test", []cache.Ask{{Key: "1", Lease: "0123456789abcdef", Hold: 3 * time.Second}}); err != nil || !r[0].Leased {
			t.Fatal(r, err)
		}
		c := open(t, o.load, cache.Options[int, int]{Remote: n})
		start := time.Now()
		got, err := c.Get(t.Context(), 1)
		want(t, got, err, 0)
		if took := time.Since(start); took < 2*time.Second || took > 4*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// A load longer than its lease keeps it.
func TestLeaseIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		var loads atomic.Int64
		load := func(context.Context, int) (int, error) {
			time.Sleep(20 * time.Second)
			return int(loads.Add(1)), nil
		}
		a := open(t, load, cache.Options[int, int]{Remote: store.node()})
		b := open(t, load, cache.Options[int, int]{Remote: store.node()})
		synctest.Wait()
		var wg sync.WaitGroup
		for _, c := range []*cache.Cache[int, int]{a, b} {
			wg.Go(func() {
				got, err := c.Get(t.Context(), 1)
				want(t, got, err, 1)
			})
		}
		wg.Wait()
	})
}

func TestFailedLoadGivesTheLeaseBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), new(origin)
		a := open(t, o.load, cache.Options[int, int]{Remote: store.node()})
		b := open(t, o.load, cache.Options[int, int]{Remote: store.node()})
		synctest.Wait()
		o.failing.Store(true)
		if _, err := a.Get(t.Context(), 1); !errors.Is(err, errOrigin) {
			t.Errorf("got %v", err)
		}
		o.failing.Store(false)
		start := time.Now()
		got, err := b.Get(t.Context(), 1)
		want(t, got, err, 0)
		if took := time.Since(start); took != 0 {
			t.Errorf("the next waited %v", took)
		}
	})
}

// What cannot be read is a miss and is replaced.
func TestBrokenRecords(t *testing.T) {
	type v1 struct{ Name string }
	type v2 struct{ Name, More string }
	store := newFakeStore()
	old := open(t, func(context.Context, int) (v1, error) { return v1{"old"}, nil }, cache.Options[int, v1]{RemoteTimeout: patient, Remote: store.node()})
	if _, err := old.Get(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	var loads atomic.Int64
	load := func(context.Context, int) (v2, error) { loads.Add(1); return v2{"new", "er"}, nil }
	for i, spoil := range []func(string) string{
		func(s string) string { return s },                     // another type
		func(s string) string { return s[:len(s)-5] },          // cut off
		func(s string) string { return s[:40] + "x" + s[41:] }, // flipped
		func(s string) string { return "" },                    // empty
		func(s string) string { return "something else's value" },
	} {
		store.mu.Lock()
		k := store.spaces["test"].keys["1"]
		k.data = spoil(k.data)
		store.mu.Unlock()
		n := open(t, load, cache.Options[int, v2]{RemoteTimeout: patient, Remote: store.node()})
		got, err := n.Get(t.Context(), 1)
		want(t, got, err, v2{"new", "er"})
		if s := n.Stats(); s.Undecodable == 0 || s.Miss != 1 || loads.Load() != int64(i+1) {
			t.Errorf("case %d: %+v", i, s)
		}
		n2 := open(t, load, cache.Options[int, v2]{RemoteTimeout: patient, Remote: store.node()})
		got, err = n2.Get(t.Context(), 1)
		want(t, got, err, v2{"new", "er"})
		if s := n2.Stats(); s.Remote != 1 {
			t.Errorf("case %d: the record was not replaced: %+v", i, s)
		}
	}
}

func TestGetManyShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		var loaded [100]atomic.Int64
		many := func(_ context.Context, keys []int) (map[int]int, error) {
			time.Sleep(100 * time.Millisecond)
			values := make(map[int]int)
			for _, k := range keys {
				loaded[k].Add(1)
				values[k] = k
			}
			return values, nil
		}
		one := func(ctx context.Context, key int) (int, error) {
			v, err := many(ctx, []int{key})
			return v[key], err
		}
		var wg sync.WaitGroup
		for i := range 4 {
			c := open(t, one, cache.Options[int, int]{Remote: store.node(), LoadMany: many})
			for j := range 4 {
				wg.Go(func() {
					var keys []int
					for k := range 40 {
						keys = append(keys, (10*i+5*j+k)%100)
					}
					got, err := c.GetMany(t.Context(), keys)
					if err != nil || len(got) != 40 {
						t.Errorf("%d values, %v", len(got), err)
					}
				})
				wg.Go(func() {
					got, err := c.Get(t.Context(), 7*j+i)
					want(t, got, err, 7*j+i)
				})
			}
		}
		wg.Wait()
		for k := range loaded {
			if n := loaded[k].Load(); n > 1 {
				t.Errorf("key %d was loaded %d times", k, n)
			}
		}
	})
}

// The message of an invalidation that a load knew of before it began, from its reader's scope, comes while it runs. The load is
// as good as if it had come before: it is stored, and nobody loads again. Not so if there was a later one.
func TestLateMessageSparesTheLoad(t *testing.T) {
	for name, behind := range map[string]bool{"spared": false, "a later one": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, g := newFakeStore(), newGate()
				nb := store.node()
				a := open(t, func(context.Context, int) (int, error) { return 1, nil }, cache.Options[int, int]{Remote: store.node()})
				b := open(t, g.load, cache.Options[int, int]{Remote: nb})
				synctest.Wait()
				go func() { <-g.begun; g.open <- nil }()
				got, err := b.Get(t.Context(), 1) // in b's memory, older
				want(t, got, err, 1001)
				release := nb.hold()
				ctx, _ := causal.Begin(t.Context())
				if err := a.Invalidate(ctx, 1); err != nil {
					t.Fatal(err)
				}
				if behind { // one which the reader's scope does not have
					other, written := causal.Begin(t.Context())
					written.Domain("db1").Wrote("0005")
					if err := a.Invalidate(other, 1); err != nil {
						t.Fatal(err)
					}
				}
				values := make(chan int, 1)
				go func() {
					v, _ := b.Get(ctx, 1)
					values <- v
				}()
				<-g.begun
				release()
				synctest.Wait()
				g.open <- nil
				if v := <-values; v != 1002 {
					t.Errorf("got %d", v)
				}
				synctest.Wait()
				refused := b.Stats().Refused
				if (refused > 0) != behind {
					t.Errorf("stats: %+v", b.Stats())
				}
				if !behind {
					got, err := b.Get(t.Context(), 1)
					want(t, got, err, 1002)
				}
			})
		})
	}
}

// The message arrives just as the writer's next request looks at memory: it finds the clock far enough only where the value is
// gone.
func TestOwnWritesAsTheMessageArrives(t *testing.T) {
	store, o := newFakeStore(), new(origin)
	a := open(t, o.load, cache.Options[int, int]{RemoteTimeout: patient, Remote: store.node()})
	b := open(t, o.load, cache.Options[int, int]{RemoteTimeout: patient, Remote: store.node()})
	connected(t, a, b)
	const rounds, readers = 3000, 3
	for round := 1; round <= rounds && !t.Failed(); round++ {
		b.Get(t.Context(), 1)
		o.values[1].Store(int64(round))
		ctx, _ := causal.Begin(t.Context())
		if err := a.Invalidate(ctx, 1); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range readers {
			wg.Go(func() {
				for range 5 {
					if got, err := b.Get(ctx, 1); err != nil || got != round {
						t.Errorf("round %d: the writer got %d, %v", round, got, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}
