package sessiontest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fairlead/fairlead/session"
)

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
