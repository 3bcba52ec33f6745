package cache

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/fairlead/fairlead/pool/causal"
)

const (
	// tokenTTL is how long a key's causal token is kept, here and in the remote: far longer than any replica that may serve
	// a read lags behind.
	tokenTTL = 10 * time.Minute

	maxTokens = 8192 // of one generation
)

// tokens are the causal tokens of keys that were invalidated, here or elsewhere: a load of such a key may not read from a
// replica that is behind it. They are kept in two generations; one that has to go early raises the floor of all keys, so
// that nothing is forgotten, only demanded of more loads.
type tokens struct {
	mu           sync.Mutex
	young, old   map[string]string
	youngM, oldM string    // the generations' tokens merged
	every        [2]string // of all keys, since they may have a tag that was invalidated: young and old
	floor        string
	turned       int64
}

func (t *tokens) add(name, token string, now int64) {
	if token == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn(now)
	if t.young == nil {
		t.young = make(map[string]string)
	}
	t.young[name] = merged(t.young[name], token)
	t.youngM = merged(t.youngM, token)
}

func (t *tokens) addToEvery(token string, now int64) {
	if token == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn(now)
	t.every[0] = merged(t.every[0], token)
}

// turn begins a generation if it is time. t.mu is held.
func (t *tokens) turn(now int64) {
	aged := now-t.turned > int64(tokenTTL)
	if !aged && len(t.young) < maxTokens {
		return
	}
	if !aged {
		t.floor = merged(t.floor, t.oldM, t.every[1])
	}
	t.old, t.oldM, t.every[1] = t.young, t.youngM, t.every[0]
	t.young, t.youngM, t.every[0], t.turned = nil, "", "", now
}

func (t *tokens) of(name string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.young == nil && t.old == nil && t.floor == "" && t.every == [2]string{} {
		return ""
	}
	return merged(t.floor, t.every[1], t.every[0], t.old[name], t.young[name])
}

// merged is the token that demands what each of the given does. One that cannot be read becomes text that no scope accepts,
// which makes a load ask the primary.
func merged(tokens ...string) string {
	token, filled := "", 0
	for _, t := range tokens {
		if t != "" {
			token = t
			filled++
		}
	}
	if filled <= 1 {
		return token
	}
	token, err := causal.Merge(tokens...)
	if err != nil {
		return unreadable
	}
	return token
}

const unreadable = "?"

// maxSettle is how long a database that does not tell the position of a write holds up who needs it.
const maxSettle = time.Second

// ended is a context that nobody waits with.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// written is the token of what a scope wrote. A position that is not known in time is one that nobody knows: only the
// authority will do.
func written(ctx context.Context, scope *causal.Scope) string {
	token := scope.Written(ended)
	if token == "" || without(token, isDistrust) == token { // all positions are known
		return token
	}
	ctx, cancel := context.WithTimeout(ctx, maxSettle)
	defer cancel()
	return scope.Written(ctx)
}

// isClock says whether a tag of a token is a cache's clock. Those tell the writer's own reads what they must have heard of;
// what a value was read from they do not tell.
func isClock(tag string) bool { return strings.HasPrefix(tag, clockTag) }

// isDistrust says whether a tag demands the authority of every system.
func isDistrust(tag string) bool { return tag == "*" }
