package session

import (
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"time"
)

// A keyring holds the manager's secrets, newest first.
type keyring struct {
	given [][]byte

	mu     sync.Mutex // never held while the store is asked
	loaded []tokenKey
	last   *keyFetch // nil: the store was never asked
}

// A keyFetch is one question to the store for its key, on behalf of all who want it.
type keyFetch struct {
	done  chan struct{}
	err   error     // valid when done is closed
	until time.Time // as is this: whoever asks before it gets the same answer
}

// Where the store keeps the random key of managers that were given none.
const (
	keyTag = "fairlead"
	keyID  = "key"
)

// keyPause is how long an answer about the key stands: after it the store is asked again if there is reason to.
const keyPause = time.Second

// secrets returns the keys; the first call may ask the store.
func (m *Manager[T]) secrets(ctx context.Context) ([]tokenKey, error) {
	k := &m.keys
	k.mu.Lock()
	if k.loaded == nil {
		for _, key := range k.given {
			k.loaded = append(k.loaded, key)
		}
	}
	keys := k.loaded
	k.mu.Unlock()
	if keys != nil {
		return keys, nil
	}
	return m.fetchKey(ctx)
}

// fetchKey has the store asked for its key, unless that is under way or was done a moment ago, and returns all keys. Callers
// wait together, each no longer than its context and StoreTimeout allow, and share the outcome.
func (m *Manager[T]) fetchKey(ctx context.Context) ([]tokenKey, error) {
	k := &m.keys
	k.mu.Lock()
	f := k.last
	if f == nil || f.over(time.Now()) {
		f = &keyFetch{done: make(chan struct{})}
		m.mu.Lock()
		if m.closed.Load() {
			m.mu.Unlock()
			k.mu.Unlock()
			return nil, m.fail(ErrClosed)
		}
		m.work.Add(1)
		m.mu.Unlock()
		k.last = f
		go m.askForKey(f)
	}
	k.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, m.o.StoreTimeout)
	defer cancel()
	select {
	case <-f.done:
	case <-limited.Done():
		if ctx.Err() != nil {
			return nil, m.fail(context.Cause(ctx))
		}
		return nil, m.unavailable(limited.Err())
	}
	if f.err != nil {
		return nil, f.err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.loaded, nil
}

func (f *keyFetch) over(now time.Time) bool {
	select {
	case <-f.done:
		return !now.Before(f.until)
	default:
		return false
	}
}

// askForKey asks the store for its key, and gives it one if it has none.
func (m *Manager[T]) askForKey(f *keyFetch) {
	defer m.work.Done()
	fresh := make([]byte, 32)
	rand.Read(fresh)
	var key tokenKey
	f.err = m.call(context.Background(), func(ctx context.Context) error {
		r, err := m.store.Load(ctx, keyTag, keyID)
		if err == nil && r.Version == 0 {
			r = Record{Tag: keyTag, ID: keyID, Value: fresh}
			var current Record
			if current, _, err = m.store.Create(ctx, r); err == nil {
				r = current
			}
		}
		key = slices.Clone(r.Value)
		return err
	})
	k := &m.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	pause := keyPause
	if f.err != nil {
		pause = min(pause, m.o.StoreTimeout) // so that the queue is shed, and the store's return is noticed soon
	} else if !slices.ContainsFunc(k.loaded, func(have tokenKey) bool { return string(have) == string(key) }) {
		k.loaded = slices.Concat([]tokenKey{key}, k.loaded) // a new slice: callers hold the old one
	}
	f.until = time.Now().Add(pause)
	close(f.done)
}

// find loads the record that the cookie's token stands for, and returns it with the token as its key opens it, or nil. The
// number in a token does not tell for certain which key made it: two keys may have the same one.
func (m *Manager[T]) find(ctx context.Context, raw [rawLen]byte) (token, *snapshot, error) {
	keys, err := m.secrets(ctx)
	if err != nil {
		return token{}, nil, err
	}
	t, snap, err := m.findWith(ctx, keys, raw)
	if err != nil || snap != nil || len(m.keys.given) > 0 {
		return t, snap, err
	}
	// The store may have lost its data, and with it the key, and have a new one from another process.
	now, err := m.fetchKey(ctx)
	if err != nil {
		return token{}, nil, err
	}
	return m.findWith(ctx, now[:len(now)-len(keys)], raw) // new ones come first
}

func (m *Manager[T]) findWith(ctx context.Context, keys []tokenKey, raw [rawLen]byte) (token, *snapshot, error) {
	for _, k := range keys {
		if k.number() != raw[0] {
			continue
		}
		t := k.open(raw)
		if snap, err := m.read(ctx, t.tag, t.id()); err != nil || snap != nil {
			return t, snap, err
		}
	}
	return token{}, nil, nil
}
