package cache

import (
	"context"
	"errors"
	"slices"

	"github.com/fairlead/fairlead/pool/causal"
)

// Invalidate says that the values of keys have changed: call it after the change is committed, with the context of the
// write. When it has returned, no Get here returns a value whose load began before, and if it returned nil no Get anywhere
// that asks the shared tier does; see the package's documentation for what else holds.
//
// It does its work even where ctx has ended. An error says that the shared tier did not confirm; it will be told again until
// it does, and meanwhile this process does not use it for these keys. The write itself is done: an application will mostly
// log the error.
func (c *Cache[K, V]) Invalidate(ctx context.Context, keys ...K) error {
	if c.closed.Load() {
		return ErrClosed
	}
	c.counters.invalidations.Add(uint64(len(keys)))
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = bounded(c.options.Key(key))
	}
	return c.invalidate(ctx, what{keys: names}, func() {
		for _, key := range keys {
			c.memory.remove(key)
		}
	})
}

// InvalidateTag is Invalidate of every value with one of the tags, wherever it is: those that Options.Meta gave it when it was
// loaded. Its cost does not depend on how many there are. "Not found" has no tags.
func (c *Cache[K, V]) InvalidateTag(ctx context.Context, tags ...string) error {
	if c.closed.Load() {
		return ErrClosed
	}
	c.counters.tagInvalidations.Add(uint64(len(tags)))
	return c.invalidate(ctx, what{tags: boundedTags(tags)}, func() {})
}

// InvalidateAll is Invalidate of every value that the processes which share this cache's name have. Each is loaded anew when it
// is asked for next.
func (c *Cache[K, V]) InvalidateAll(ctx context.Context) error {
	if c.closed.Load() {
		return ErrClosed
	}
	c.counters.tagInvalidations.Add(1)
	return c.invalidate(ctx, what{all: true}, c.memory.clear)
}

// invalidate fences what is going on, tells the remote, and fences again: what began in between may have read what the remote
// had before. drop frees memory.
func (c *Cache[K, V]) invalidate(ctx context.Context, w what, drop func()) error {
	if w.empty() {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	scope := causal.From(ctx)
	token := without(written(ctx, scope), isClock)
	c.evict(w, token, "")
	drop()
	s := c.shared
	if s == nil {
		return nil
	}
	domain := s.domain(scope)
	var failed error
	for part := range w.chunks(maxBatch) {
		reading, err := s.invalidate(ctx, part, token)
		if err != nil {
			s.queue(part, token)
			domain.Wrote("") // unknown: the reader's next requests ask the origin
			failed = errors.Join(failed, err)
			continue
		}
		s.pending.took(s.clock.now(), part, token)
		c.evict(part, "", reading)
		s.remember(reading)
		domain.Wrote(reading)
	}
	if failed != nil {
		c.evict(w, token, "")
		drop()
		return queued(c.name, failed)
	}
	return nil
}

// evict makes useless every value of w whose load has begun, and the flights of its keys un-joinable; but not a load that knew of
// the invalidation, which had this reading, before it began. Flights that may bring a value with a tag are joined, and left again
// if they do.
func (c *Cache[K, V]) evict(w what, token, reading string) {
	now := c.clock.now()
	if len(w.tags) > 0 || w.all {
		c.tokens.addToEvery(token, now)
		c.stamps.move(w.tags, w.all)
	}
	for _, name := range w.keys {
		c.tokens.add(name, token, now)
		c.evictKey(name, now, token, reading)
	}
}

func (c *Cache[K, V]) evictKey(name string, now int64, token, reading string) {
	slot, hash := c.fences.of(name)
	sh := c.shardOf(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	slot.move()
	st := sh.keys[name]
	if st != nil && st.current != nil && st.current.knows(token, reading) {
		// The message is late. Without this the load would be refused, and begun again elsewhere. Had another invalidation of the
		// key come since it began, it would not be current.
		cl := st.current
		cl.gen.Store(slot.load())
		if b := cl.before.Load(); b != nil && b.rest().birth < reading {
			cl.before.Store(nil)
		}
		return
	}
	if st != nil {
		if st.current != nil && st.current.begun {
			sh.detach(name, st)
		}
		st.failed, st.err, st.until = 0, nil, 0
		sh.tidy(name, st, now)
	}
}

// knows says whether a call began after an invalidation, and reads nothing that is behind its token. The shard's lock is held.
func (cl *call[K, V]) knows(token, reading string) bool {
	if !cl.begun || reading == "" || cl.known < reading {
		return false
	}
	if token == "" || !cl.loads { // a load that begins later will find the token
		return true
	}
	return cl.asked != nil && merged(*cl.asked, token) == *cl.asked
}

// what is what an invalidation is about: keys, tags, or everything.
type what struct {
	keys, tags []string
	all        bool
}

func (w what) empty() bool { return w.len() == 0 }

func (w what) len() int {
	n := len(w.keys) + len(w.tags)
	if w.all {
		n++
	}
	return n
}

// chunks yields parts of at most size keys and tags.
func (w what) chunks(size int) func(yield func(what) bool) {
	return func(yield func(what) bool) {
		if w.all {
			yield(what{all: true})
			return
		}
		for keys := range slices.Chunk(w.keys, size) {
			if !yield(what{keys: keys}) {
				return
			}
		}
		for tags := range slices.Chunk(w.tags, size) {
			if !yield(what{tags: tags}) {
				return
			}
		}
	}
}
