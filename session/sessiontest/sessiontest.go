// Package sessiontest proves that a session.Store keeps what package session builds on.
package sessiontest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
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

func nothing(ctx context.Context, s session.Store) error {
	r := named()
	if err := loads(ctx, s, "of what never was", r, 0, "", 0); err != nil {
		return err
	}
	found, err := s.Delete(ctx, r.Tag, r.ID)
	if err != nil || found.Version != 0 {
		return fmt.Errorf("Delete of what never was: %+v, %v", found, err)
	}
	return s.Touch(ctx, nil)
}

func create(ctx context.Context, s session.Store) error {
	r := named()
	before := time.Now()
	now, err := made(ctx, s, r)
	if err != nil {
		return err
	}
	return first(
		func() error { return is("Create", now, r, 1, "value", time.Minute) },
		func() error { return loads(ctx, s, "after Create", r, 1, "value", time.Minute) },
		func() error {
			// The store's clock may differ from this one, though not in a test.
			if d := now.Deadline.Sub(before); d < time.Hour-time.Minute || d > time.Hour+time.Minute {
				return fmt.Errorf("Create: Deadline in %v, want in about 1h", d)
			}
			if now.User || now.Pinned || now.Final {
				return fmt.Errorf("Create: %+v, want neither User, Pinned nor Final", now)
			}
			return nil
		},
		func() error {
			again := r
			again.Value = []byte("other")
			got, created, err := s.Create(ctx, again)
			if err != nil || created {
				return fmt.Errorf("Create of what exists: %v, %v; want false and no error", created, err)
			}
			return is("Create of what exists", got, r, 1, "value", time.Minute)
		},
		func() error { return loads(ctx, s, "after the second Create", r, 1, "value", time.Minute) },
		func() error {
			forever := named()
			forever.Left, forever.Life = 0, 0
			got, err := made(ctx, s, forever)
			if err == nil {
				got, err = s.Load(ctx, forever.Tag, forever.ID)
			}
			if err != nil || got.Version != 1 || got.Left != 0 || !got.Deadline.IsZero() {
				return fmt.Errorf("a record with neither Left nor Life: %+v, %v", got, err)
			}
			return nil
		},
	)
}

func createOnce(ctx context.Context, s session.Store) error {
	for range 20 {
		r := named()
		var mu sync.Mutex
		winners, errs := 0, []error(nil)
		together(8, func(int) {
			_, created, err := s.Create(ctx, r)
			mu.Lock()
			defer mu.Unlock()
			if errs = append(errs, err); created {
				winners++
			}
		})
		if err := errors.Join(errs...); err != nil || winners != 1 {
			return fmt.Errorf("8 concurrent Creates of one name: %d created, %w", winners, err)
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

func swap(ctx context.Context, s session.Store) error {
	r := named()
	if _, err := made(ctx, s, r); err != nil {
		return err
	}
	next := r
	next.Version, next.Value, next.Left = 1, []byte("second"), 2*time.Minute
	now, swapped, err := s.CompareAndSwap(ctx, next)
	if err != nil || !swapped {
		return fmt.Errorf("CompareAndSwap at the right version: %v, %v", swapped, err)
	}
	if err := is("CompareAndSwap", now, r, 2, "second", 2*time.Minute); err != nil {
		return err
	}
	next.Value, next.Left = []byte("late"), time.Hour
	now, swapped, err = s.CompareAndSwap(ctx, next)
	if err != nil || swapped {
		return fmt.Errorf("CompareAndSwap at an old version: %v, %v; want false and no error", swapped, err)
	}
	if err := is("CompareAndSwap at an old version", now, r, 2, "second", 2*time.Minute); err != nil {
		return err
	}
	next.Version, next.Value, next.Left = 2, []byte("third"), time.Second
	if now, swapped, err = s.CompareAndSwap(ctx, next); err != nil || !swapped {
		return fmt.Errorf("CompareAndSwap with a short life: %v, %v", swapped, err)
	}
	return first( // it may not shorten
		func() error { return is("CompareAndSwap with a short life", now, r, 3, "third", 2*time.Minute) },
		func() error { return loads(ctx, s, "after CompareAndSwap", r, 3, "third", 2*time.Minute) },
	)
}

func swapLosesNothing(ctx context.Context, s session.Store) error {
	const workers, each = 6, 20
	r := named()
	r.Value = make([]byte, 8)
	if _, err := made(ctx, s, r); err != nil {
		return err
	}
	errs := make([]error, workers)
	together(workers, func(i int) {
		for range each {
			now, err := s.Load(ctx, r.Tag, r.ID)
			for swapped := false; !swapped; {
				if err == nil && len(now.Value) != 8 {
					err = fmt.Errorf("a record came back as %+v", now)
				}
				if err != nil {
					errs[i] = err
					return
				}
				next := now
				next.Value = binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(now.Value)+1)
				next.Left = time.Minute
				now, swapped, err = s.CompareAndSwap(ctx, next)
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		return err
	}
	now, err := s.Load(ctx, r.Tag, r.ID)
	if err != nil {
		return err
	}
	if n := binary.BigEndian.Uint64(now.Value); n != workers*each || now.Version != workers*each+1 {
		return fmt.Errorf("%d increments by CompareAndSwap came to %d at version %d", workers*each, n, now.Version)
	}
	return nil
}

func swapNeverCreates(ctx context.Context, s session.Store) error {
	r := named()
	for _, version := range []int64{0, 1} {
		r.Version = version
		now, swapped, err := s.CompareAndSwap(ctx, r)
		if err != nil || swapped || now.Version != 0 {
			return fmt.Errorf("CompareAndSwap of nothing: %+v, %v, %v; want the zero Record, false and no error", now, swapped, err)
		}
	}
	if err := loads(ctx, s, "after CompareAndSwap of nothing", r, 0, "", 0); err != nil {
		return err
	}
	r = named()
	now, err := made(ctx, s, r)
	if err != nil {
		return err
	}
	if _, err := s.Delete(ctx, r.Tag, r.ID); err != nil {
		return err
	}
	now.Left = time.Minute
	if got, swapped, err := s.CompareAndSwap(ctx, now); err != nil || swapped || got.Version != 0 {
		return fmt.Errorf("CompareAndSwap after Delete: %+v, %v, %v; want the zero Record, false and no error", got, swapped, err)
	}
	return loads(ctx, s, "after CompareAndSwap after Delete", r, 0, "", 0)
}

func readsAreNew(ctx context.Context, s session.Store) error {
	r := named()
	now, err := made(ctx, s, r)
	if err != nil {
		return err
	}
	for i := range 50 {
		if err := loads(ctx, s, "right after a change", r, now.Version, string(now.Value), time.Minute); err != nil {
			return err
		}
		next := now
		next.Value, next.Left = fmt.Append(nil, i), time.Minute
		var swapped bool
		if now, swapped, err = s.CompareAndSwap(ctx, next); err != nil || !swapped {
			return fmt.Errorf("CompareAndSwap: %v, %v", swapped, err)
		}
	}
	if _, err := s.Delete(ctx, r.Tag, r.ID); err != nil {
		return err
	}
	return loads(ctx, s, "right after Delete", r, 0, "", 0)
}

func remove(ctx context.Context, s session.Store) error {
	r, other := named(), named()
	other.Tag = r.Tag
	for _, x := range []session.Record{r, other} {
		if _, err := made(ctx, s, x); err != nil {
			return err
		}
	}
	found, err := s.Delete(ctx, r.Tag, r.ID)
	if err != nil {
		return err
	}
	return first(
		func() error { return is("Delete", found, r, 1, "value", time.Minute) },
		func() error { return loads(ctx, s, "after Delete", r, 0, "", 0) },
		func() error { return loads(ctx, s, "of the other", other, 1, "value", time.Minute) },
		func() error { return touched(ctx, s, r, time.Minute) },
		func() error { return loads(ctx, s, "after Delete and Touch", r, 0, "", 0) },
		func() error { _, err := made(ctx, s, r); return err },
	)
}

func touched(ctx context.Context, s session.Store, r session.Record, left time.Duration) error {
	return s.Touch(ctx, []session.Record{{Tag: r.Tag, ID: r.ID, Left: left}})
}

func touch(ctx context.Context, s session.Store) error {
	r, other := named(), named()
	for _, x := range []session.Record{r, other} {
		if _, err := made(ctx, s, x); err != nil {
			return err
		}
	}
	return first(
		func() error {
			return s.Touch(ctx, []session.Record{{Tag: r.Tag, ID: r.ID, Left: 5 * time.Minute}, {Tag: other.Tag, ID: other.ID, Left: 7 * time.Minute}})
		},
		func() error { return loads(ctx, s, "after Touch", r, 1, "value", 5*time.Minute) },
		func() error { return loads(ctx, s, "after Touch", other, 1, "value", 7*time.Minute) },
		func() error { return touched(ctx, s, r, time.Second) },
		func() error { return loads(ctx, s, "after a short Touch", r, 1, "value", 5*time.Minute) },
		func() error { return touched(ctx, s, r, 24*time.Hour) },
		func() error { return loads(ctx, s, "after Touch beyond the Deadline", r, 1, "value", time.Hour) },
		func() error {
			now, err := s.Load(ctx, r.Tag, r.ID)
			if err == nil && !now.Final {
				err = errors.New("a record that expires at its Deadline is not Final")
			}
			return err
		},
	)
}

func touchNeverRevives(ctx context.Context, s session.Store) error {
	r := named()
	if err := touched(ctx, s, r, time.Minute); err != nil {
		return fmt.Errorf("Touch of what never was: %w", err)
	}
	if err := loads(ctx, s, "after Touch of what never was", r, 0, "", 0); err != nil {
		return err
	}
	r.Left = 50 * time.Millisecond
	if _, err := made(ctx, s, r); err != nil {
		return err
	}
	if err := gone(ctx, s, r); err != nil {
		return err
	}
	if err := touched(ctx, s, r, time.Minute); err != nil {
		return fmt.Errorf("Touch of what has expired: %w", err)
	}
	return loads(ctx, s, "after Touch of what has expired", r, 0, "", 0)
}

// gone waits until the record has expired.
func gone(ctx context.Context, s session.Store, r session.Record) error {
	for {
		now, err := s.Load(ctx, r.Tag, r.ID)
		if err != nil {
			return fmt.Errorf("waiting for a record to expire: %w", err)
		}
		if now.Version == 0 {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func expiry(ctx context.Context, s session.Store) error {
	r := named()
	r.Left = 50 * time.Millisecond
	now, err := made(ctx, s, r)
	if err != nil {
		return err
	}
	if err := gone(ctx, s, r); err != nil {
		return err
	}
	now.Left = time.Minute
	if got, swapped, err := s.CompareAndSwap(ctx, now); err != nil || swapped || got.Version != 0 {
		return fmt.Errorf("CompareAndSwap of what has expired: %+v, %v, %v; want the zero Record, false and no error", got, swapped, err)
	}
	if found, err := s.Delete(ctx, r.Tag, r.ID); err != nil || found.Version != 0 {
		return fmt.Errorf("Delete of what has expired: %+v, %v", found, err)
	}
	r.Left = time.Minute
	now, err = made(ctx, s, r)
	if err != nil {
		return err
	}
	return is("Create in place of what has expired", now, r, 1, "value", time.Minute)
}

func deadline(ctx context.Context, s session.Store) error {
	r := named()
	now, err := made(ctx, s, r)
	if err != nil {
		return err
	}
	want := now.Deadline
	keeps := func(what string, now session.Record, err error) error {
		if err == nil && !now.Deadline.Equal(want) {
			err = fmt.Errorf("%s: Deadline moved by %v", what, now.Deadline.Sub(want))
		}
		return err
	}
	now, err = s.Load(ctx, r.Tag, r.ID)
	if err := keeps("Load", now, err); err != nil {
		return err
	}
	now.Left = 24 * time.Hour
	now, _, err = s.CompareAndSwap(ctx, now)
	if err := keeps("CompareAndSwap", now, err); err != nil {
		return err
	}
	if err := is("CompareAndSwap beyond the Deadline", now, r, 2, "value", time.Hour); err != nil {
		return err
	}
	heir := sibling(r)
	heir.Life, heir.Deadline = 0, want
	now, err = made(ctx, s, heir)
	if err := keeps("Create with a Deadline", now, err); err != nil {
		return err
	}
	brief := named()
	brief.Life = 50 * time.Millisecond
	if _, err := made(ctx, s, brief); err != nil {
		return err
	}
	if err := touched(ctx, s, brief, time.Minute); err != nil {
		return err
	}
	return gone(ctx, s, brief)
}

func pinned(ctx context.Context, s session.Store) error {
	r := named()
	now, err := made(ctx, s, r)
	if err != nil {
		return err
	}
	now.Pinned, now.Left, now.Value = true, 40*time.Second, []byte("pointer")
	now, swapped, err := s.CompareAndSwap(ctx, now)
	if err != nil || !swapped || !now.Pinned {
		return fmt.Errorf("CompareAndSwap to Pinned: %+v, %v, %v", now, swapped, err)
	}
	stays := func(what string) error {
		got, err := s.Load(ctx, r.Tag, r.ID)
		if err == nil && !got.Pinned {
			err = errors.New("it is not Pinned")
		}
		if err != nil {
			return fmt.Errorf("Load %s: %w", what, err)
		}
		return is("Load "+what, got, r, 2, "pointer", 40*time.Second)
	}
	if err := stays("of a pinned record"); err != nil {
		return err
	}
	if err := touched(ctx, s, r, time.Hour); err != nil {
		return err
	}
	if err := stays("of a pinned record after Touch"); err != nil {
		return err
	}
	again := now
	again.Pinned, again.Value, again.Left = false, []byte("back"), time.Minute
	if got, swapped, err := s.CompareAndSwap(ctx, again); err != nil || swapped || got.Version != 2 {
		return fmt.Errorf("CompareAndSwap of a pinned record: %+v, %v, %v; want it as it is, false and no error", got, swapped, err)
	}
	found, err := s.Delete(ctx, r.Tag, r.ID)
	if err != nil || found.Version != 2 || !found.Pinned {
		return fmt.Errorf("Delete of a pinned record: %+v, %v; want it as it is", found, err)
	}
	return stays("of a pinned record after Delete")
}

func values(ctx context.Context, s session.Store) error {
	r := named()
	all := make([]byte, 0, 70000)
	for i := range 70000 {
		all = append(all, byte(i), byte(i>>8))
	}
	r.Value = bytes.Clone(all)
	if _, err := made(ctx, s, r); err != nil {
		return err
	}
	clear(r.Value)
	got, err := s.Load(ctx, r.Tag, r.ID)
	if err != nil || !bytes.Equal(got.Value, all) {
		return fmt.Errorf("a value of %d bytes came back changed (%d bytes), %v", len(all), len(got.Value), err)
	}
	clear(got.Value)
	if got, err = s.Load(ctx, r.Tag, r.ID); err != nil || !bytes.Equal(got.Value, all) {
		return fmt.Errorf("a value changed with the slice that Load returned, %v", err)
	}
	got.Value, got.Left = nil, time.Minute
	if _, swapped, err := s.CompareAndSwap(ctx, got); err != nil || !swapped {
		return fmt.Errorf("CompareAndSwap to an empty value: %v, %v", swapped, err)
	}
	return loads(ctx, s, "of an empty value", r, 2, "", time.Minute)
}

func cancelled(ctx context.Context, s session.Store) error {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	r := named()
	_, err1 := s.Load(ctx, r.Tag, r.ID)
	_, _, err2 := s.Create(ctx, r)
	_, _, err3 := s.CompareAndSwap(ctx, r)
	_, err4 := s.Delete(ctx, r.Tag, r.ID)
	err5 := s.Touch(ctx, []session.Record{r})
	for i, err := range []error{err1, err2, err3, err4, err5} {
		if !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s with an ended context: %v", []string{"Load", "Create", "CompareAndSwap", "Delete", "Touch"}[i], err)
		}
	}
	return nil
}
