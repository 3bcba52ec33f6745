package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead/fairlead/pool/causal"
)

// namesake returns a key with the same number as k.
func namesake(k tokenKey) tokenKey {
	for i := uint64(0); ; i++ {
		other := append(bytes.Repeat([]byte("n"), 24), binary.BigEndian.AppendUint64(nil, i)...)
		if tokenKey(other).number() == k.number() && !bytes.Equal(other, k) {
			return other
		}
	}
}

func TestKeysMayHaveTheSameNumber(t *testing.T) {
	old := tokenKey(bytes.Repeat([]byte("1"), 32))
	fresh := namesake(old)
	store := NewMemory(0)
	before := manager(t, store, Options{Causal: causal.Options{Keys: [][]byte{old}}})
	during := manager(t, store, Options{Causal: causal.Options{Keys: [][]byte{fresh, old}}})
	if v := get(t, during, begin(t, before)); v.Visits != 1 {
		t.Errorf("%+v: lost by the old key", v)
	}
	if v := get(t, during, begin(t, during)); v.Visits != 1 {
		t.Errorf("%+v: lost by the new key", v)
	}
	// The pointer at a rotated id leads to a token that the old key made.
	s := request(before, "")
	logIn(t, before, s, "ann")
	was := s.token.text()
	if err := s.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := get(t, during, was); v.User != "ann" {
		t.Errorf("%+v: lost on the way to the successor", v)
	}
}

// TestTheStoresNewKeyMayHaveTheSameNumber: the store lost its data, and another process gave it a new key.
func TestTheStoresNewKeyMayHaveTheSameNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := NewMemory(0)
		m := manager(t, store, Options{})
		dead := begin(t, m)
		old, err := store.Load(t.Context(), keyTag, keyID)
		if err != nil {
			t.Fatal(err)
		}
		tok, _ := parseToken(dead)
		if _, err := store.Delete(t.Context(), tokenKey(old.Value).open(tok).tag, tokenKey(old.Value).open(tok).id()); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Delete(t.Context(), keyTag, keyID); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := store.Create(t.Context(), Record{Tag: keyTag, ID: keyID, Value: namesake(old.Value)}); !ok || err != nil {
			t.Fatal(ok, err)
		}
		other := manager(t, store, Options{})
		cookie := begin(t, other)
		time.Sleep(keyPause)
		if v := get(t, m, cookie); v.Visits != 1 {
			t.Errorf("%+v: made by another process", v)
		}
		if v := get(t, m, dead); v.Visits != 0 {
			t.Errorf("%+v: was lost", v)
		}
		m.Close()
		other.Close()
	})
}

// TestNobodyQueuesForTheKey uses a store that never answers, in virtual time.
func TestNobodyQueuesForTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dead atomic.Bool
		var asked atomic.Int64
		store := NewMemory(0)
		cookie := begin(t, manager(t, store, Options{}))
		m := manager(t, hooked{store, func(ctx context.Context, _ string) error {
			asked.Add(1)
			if dead.Load() {
				<-ctx.Done()
				return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
			}
			return nil
		}}, Options{})
		dead.Store(true)
		look := func(ctx context.Context) (time.Duration, error) {
			began := time.Now()
			_, err := request(m, cookie).Get(ctx)
			return time.Since(began), err
		}
		timeout := m.o.StoreTimeout
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if took, err := look(t.Context()); took != timeout || !errors.Is(err, ErrUnavailable) {
					t.Errorf("a Get took %v: %v; want StoreTimeout, %v, and ErrUnavailable", took, err, timeout)
				}
			})
		}
		wg.Go(func() { // one that has less time
			ctx, cancel := context.WithTimeout(t.Context(), timeout/10)
			defer cancel()
			if took, err := look(ctx); took != timeout/10 || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnavailable) {
				t.Errorf("a Get with %v of time took %v: %v", timeout/10, took, err)
			}
		})
		wg.Go(func() { // one that comes late does not wait longer for it
			time.Sleep(timeout / 2)
			if took, err := look(t.Context()); took > timeout || !errors.Is(err, ErrUnavailable) {
				t.Errorf("a late Get took %v: %v", took, err)
			}
		})
		wg.Wait()
		if n := asked.Load(); n != 1 {
			t.Errorf("the store was asked %d times, want 1", n)
		}
		if took, err := look(t.Context()); took != 0 || !errors.Is(err, ErrUnavailable) {
			t.Errorf("right after the failure a Get took %v: %v; want that failure at once", took, err)
		}
		dead.Store(false)
		time.Sleep(timeout)
		for range 3 {
			if v := get(t, m, cookie); v.Visits != 1 {
				t.Errorf("%+v: the store is back", v)
			}
		}
		if n := asked.Load(); n != 1+1+3 {
			t.Errorf("the store was asked %d times, want 5: twice for the key, and once a Get", n)
		}
		m.Close()
		if _, err := m.fetchKey(t.Context()); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}
