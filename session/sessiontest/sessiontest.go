// Package sessiontest proves that a session.Store keeps what package session builds on.
package sessiontest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/fairlead/fairlead/session"
)

// Run tests the store that newStore returns, each rule on one of its own. Records have random names, so the stores may share
// a server, also with others. A store with the ability session.UserIndex is tested for that too.
func Run(t *testing.T, newStore func(t *testing.T) session.Store) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			if _, ok := s.(session.UserIndex); r.index && !ok {
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := r.check(ctx, s); err != nil {
				t.Error(err)
			}
		})
	}
}

type rule struct {
	name  string
	index bool // needs session.UserIndex
	check func(context.Context, session.Store) error
}

var rules = []rule{
	{"Nothing", false, nothing},
	{"Create", false, create},
	{"CreateOnce", false, createOnce},
	{"Swap", false, swap},
	{"SwapLosesNothing", false, swapLosesNothing},
	{"SwapNeverCreates", false, swapNeverCreates},
	{"ReadsAreNew", false, readsAreNew},
	{"Delete", false, remove},
	{"Touch", false, touch},
	{"TouchNeverRevives", false, touchNeverRevives},
	{"Expiry", false, expiry},
	{"Deadline", false, deadline},
	{"Pinned", false, pinned},
	{"Values", false, values},
	{"Cancelled", false, cancelled},
	{"Revoke", true, revoke},
	{"Fence", true, fence},
	{"CreateOrRevoke", true, createOrRevoke},
	{"RotateOrRevoke", true, rotateOrRevoke},
	{"IndexOutlivesItsRecords", true, indexOutlives},
	{"PinnedLeavesTheIndex", true, pinnedLeaves},
	{"Limit", true, limit},
	{"LimitHoldsForConcurrentLogins", true, limitTogether},
	{"Move", true, move},
	{"MoveOrRevoke", true, moveOrRevoke},
	{"MoveOrSwap", true, moveOrSwap},
}

// named returns a record with a new name.
func named() session.Record {
	var b [48]byte
	rand.Read(b[:])
	return session.Record{
		Tag:   base64.RawURLEncoding.EncodeToString(b[:16]),
		ID:    base64.RawURLEncoding.EncodeToString(b[16:]),
		Value: []byte("value"), Left: time.Minute, Life: time.Hour,
	}
}

func sibling(r session.Record) session.Record {
	s := named()
	s.Tag, s.User, s.Fence = r.Tag, r.User, r.Fence
	return s
}

func made(ctx context.Context, s session.Store, r session.Record) (session.Record, error) {
	now, created, err := s.Create(ctx, r)
	if err == nil && !created {
		err = errors.New("Create: false for a new name")
	}
	return now, err
}

// is reports how got differs from what was asked for.
func is(what string, got session.Record, r session.Record, version int64, value string, left time.Duration) error {
	switch {
	case got.Version != version:
		return fmt.Errorf("%s: Version %d, want %d", what, got.Version, version)
	case version == 0:
		return nil
	case got.Tag != r.Tag || got.ID != r.ID:
		return fmt.Errorf("%s: is named %s %s, want %s %s", what, got.Tag, got.ID, r.Tag, r.ID)
	case string(got.Value) != value:
		return fmt.Errorf("%s: Value %q, want %q", what, got.Value, value)
	case got.Left <= 0 || got.Left > left || got.Left < left-30*time.Second:
		return fmt.Errorf("%s: Left %v, want a little under %v", what, got.Left, left)
	}
	return nil
}

// loads is is for what Load returns.
func loads(ctx context.Context, s session.Store, what string, r session.Record, version int64, value string, left time.Duration) error {
	got, err := s.Load(ctx, r.Tag, r.ID)
	if err != nil {
		return fmt.Errorf("Load %s: %w", what, err)
	}
	return is("Load "+what, got, r, version, value, left)
}

func first(checks ...func() error) error {
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() { <-start; f(i) })
	}
	close(start)
	wg.Wait()
}
