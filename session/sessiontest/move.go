package sessiontest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fairlead/fairlead/session"
)

// limit: a login that makes one session too many ends those with the nearest deadlines, in the same step.
func limit(ctx context.Context, s session.Store) error {
	index := s.(session.UserIndex)
	first, err := owned(ctx, s)
	if err != nil {
		return err
	}
	var all []session.Record
	add := func(life time.Duration, max int) error {
		r := sibling(first)
		r.Life, r.Limit = life, max
		all = append(all, r)
		_, err := made(ctx, s, r)
		return err
	}
	for _, life := range []time.Duration{3 * time.Hour, 2 * time.Hour, 5 * time.Hour, 4 * time.Hour} {
		if err := add(life, 0); err != nil {
			return err
		}
	}
	brief := sibling(first)
	brief.Left = 30 * time.Millisecond // one that has expired does not count
	if _, err := made(ctx, s, brief); err != nil {
		return err
	}
	if err := gone(ctx, s, brief); err != nil {
		return err
	}
	if err := add(6*time.Hour, 5); err != nil {
		return err
	}
	if err := listed(ctx, s, first.Tag, all...); err != nil {
		return fmt.Errorf("a limit that holds: %w", err)
	}
	if err := add(time.Hour, 3); err != nil { // the new one stays, however soon it ends
		return err
	}
	if err := listed(ctx, s, first.Tag, all[2], all[4], all[5]); err != nil {
		return fmt.Errorf("a limit of 3: %w", err)
	}
	for _, r := range []session.Record{all[0], all[1], all[3]} {
		if err := loads(ctx, s, "beyond the limit", r, 0, "", 0); err != nil {
			return err
		}
	}
	again := all[5] // a second try changes nothing
	again.Limit = 1
	if _, created, err := s.Create(ctx, again); err != nil || created {
		return fmt.Errorf("Create of what exists: %v, %v", created, err)
	}
	if err := listed(ctx, s, first.Tag, all[2], all[4], all[5]); err != nil {
		return fmt.Errorf("after Create of what exists: %w", err)
	}
	stale := sibling(first)
	stale.Limit = 1
	if _, err := index.Revoke(ctx, first.Tag, []string{all[2].ID, all[4].ID}); err != nil {
		return err
	}
	if _, _, err := s.Create(ctx, stale); !errors.Is(err, session.ErrRevoked) {
		return fmt.Errorf("Create with a limit and an old fence: %v, want ErrRevoked", err)
	}
	if err := listed(ctx, s, first.Tag, all[2], all[4]); err != nil {
		return fmt.Errorf("after a refused Create: %w", err)
	}
	anonymous := sibling(first)
	anonymous.User, anonymous.Fence, anonymous.Limit = false, "", 1
	if _, err := made(ctx, s, anonymous); err != nil {
		return err
	}
	return listed(ctx, s, first.Tag, all[2], all[4])
}

func limitTogether(ctx context.Context, s session.Store) error {
	for range 20 {
		r, err := owned(ctx, s)
		if err != nil {
			return err
		}
		errs := make([]error, 8)
		together(8, func(i int) {
			next := sibling(r)
			next.Limit = 3
			_, errs[i] = made(ctx, s, next)
		})
		if err := errors.Join(errs...); err != nil {
			return err
		}
		all, err := s.(session.UserIndex).List(ctx, r.Tag)
		if err != nil || len(all) != 3 {
			return fmt.Errorf("8 concurrent Creates with a limit of 3 left %d records, %w", len(all), err)
		}
	}
	return nil
}

// moving returns a user's record and what Move is given to move it.
func moving(ctx context.Context, s session.Store) (old, pointer, next session.Record, err error) {
	r, err := owned(ctx, s)
	if err != nil {
		return old, pointer, next, err
	}
	if old, err = made(ctx, s, r); err != nil {
		return old, pointer, next, err
	}
	pointer = old
	pointer.Pinned, pointer.Left, pointer.Value = true, 40*time.Second, []byte("pointer")
	next = sibling(r)
	next.Fence, next.Value = "", []byte("next")
	return old, pointer, next, nil
}

func move(ctx context.Context, s session.Store) error {
	index := s.(session.UserIndex)
	old, pointer, next, err := moving(ctx, s)
	if err != nil {
		return err
	}
	other := sibling(old)
	other.Fence, other.Life = "", 30*time.Minute
	if _, err := made(ctx, s, other); err != nil {
		return err
	}
	late := pointer
	late.Version = 7
	now, moved, err := index.Move(ctx, late, next)
	if err != nil || moved {
		return fmt.Errorf("Move of another version: %v, %v; want false and no error", moved, err)
	}
	if err := is("Move of another version", now, old, 1, "value", time.Minute); err != nil {
		return err
	}
	revoked := next
	revoked.Fence = "nonsense"
	if _, moved, err := index.Move(ctx, pointer, revoked); moved || !errors.Is(err, session.ErrRevoked) {
		return fmt.Errorf("Move with a made-up fence: %v, %v; want ErrRevoked", moved, err)
	}
	if err := first(
		func() error { return loads(ctx, s, "after refused Moves", old, 1, "value", time.Minute) },
		func() error { return loads(ctx, s, "of the successor after refused Moves", next, 0, "", 0) },
		func() error { return listed(ctx, s, old.Tag, old, other) },
	); err != nil {
		return err
	}
	next.Limit = 2 // which the old one does not count for
	if next.Fence, err = index.Fence(ctx, old.Tag); err != nil {
		return err
	}
	if now, moved, err = index.Move(ctx, pointer, next); err != nil || !moved {
		return fmt.Errorf("Move: %v, %v", moved, err)
	}
	return first(
		func() error { return is("Move", now, next, 1, "next", time.Minute) },
		func() error { return loads(ctx, s, "of the successor", next, 1, "next", time.Minute) },
		func() error { return loads(ctx, s, "of the predecessor", old, 2, "pointer", 40*time.Second) },
		func() error {
			now, err := s.Load(ctx, old.Tag, old.ID)
			if err == nil && (!now.Pinned || now.User) {
				err = fmt.Errorf("the predecessor is %+v, want it Pinned and no User's", now)
			}
			return err
		},
		func() error { return listed(ctx, s, old.Tag, next, other) },
		func() error { // a second try, whatever the fence says by now
			if _, err := index.Revoke(ctx, old.Tag, []string{next.ID, other.ID}); err != nil {
				return err
			}
			now, moved, err := index.Move(ctx, pointer, next)
			if err != nil || moved {
				return fmt.Errorf("the second Move: %v, %v; want false and no error", moved, err)
			}
			return is("the second Move", now, old, 2, "pointer", 40*time.Second)
		},
		func() error {
			pointer.Version = 1
			next.Limit = 1
			onlyOne, err := s.Load(ctx, next.Tag, next.ID)
			if err != nil {
				return err
			}
			onlyOne.Pinned, onlyOne.Left = true, time.Minute
			third := sibling(old)
			third.Limit = 1
			third.Fence = ""
			if _, moved, err := index.Move(ctx, onlyOne, third); err != nil || !moved {
				return fmt.Errorf("Move with a limit of 1: %v, %v", moved, err)
			}
			return listed(ctx, s, old.Tag, third)
		},
		func() error { // an anonymous record
			r := named()
			now, err := made(ctx, s, r)
			if err != nil {
				return err
			}
			now.Pinned, now.Left = true, time.Minute
			heir := sibling(r)
			if _, moved, err := index.Move(ctx, now, heir); err != nil || !moved {
				return fmt.Errorf("Move of an anonymous record: %v, %v", moved, err)
			}
			return first(
				func() error { return loads(ctx, s, "of its successor", heir, 1, "value", time.Minute) },
				func() error { return listed(ctx, s, r.Tag) },
			)
		},
		func() error {
			r := named()
			r.Version, r.Pinned = 1, true
			heir := sibling(r)
			now, moved, err := index.Move(ctx, r, heir)
			if err != nil || moved || now.Version != 0 {
				return fmt.Errorf("Move of nothing: %+v, %v, %v; want the zero Record, false and no error", now, moved, err)
			}
			return loads(ctx, s, "after Move of nothing", heir, 0, "", 0)
		},
	)
}

// moveOrRevoke: a revocation beside a Move leaves neither the old record nor the new one.
func moveOrRevoke(ctx context.Context, s session.Store) error {
	index := s.(session.UserIndex)
	for round := range 100 {
		old, pointer, next, err := moving(ctx, s)
		if err != nil {
			return err
		}
		errs := make([]error, 2)
		together(2, func(i int) {
			if i == round%2 { // each comes first once in a while
				_, _, errs[i] = index.Move(ctx, pointer, next)
				return
			}
			_, errs[i] = index.Revoke(ctx, old.Tag, nil)
		})
		if err := errors.Join(errs...); err != nil {
			return err
		}
		if err := loads(ctx, s, "of the successor after Move beside Revoke", next, 0, "", 0); err != nil {
			return err
		}
		if err := listed(ctx, s, old.Tag); err != nil {
			return err
		}
	}
	return nil
}

// moveOrSwap: of a Move and a change of the old record at the same version one is refused.
func moveOrSwap(ctx context.Context, s session.Store) error {
	index := s.(session.UserIndex)
	for range 50 {
		old, pointer, next, err := moving(ctx, s)
		if err != nil {
			return err
		}
		var mu sync.Mutex
		done, errs := 0, make([]error, 3)
		together(3, func(i int) {
			var ok bool
			if i == 0 {
				_, ok, errs[i] = index.Move(ctx, pointer, next)
			} else {
				change := old
				change.Value, change.Left = fmt.Append(nil, i), time.Minute
				_, ok, errs[i] = s.CompareAndSwap(ctx, change)
			}
			mu.Lock()
			defer mu.Unlock()
			if ok {
				done++
			}
		})
		if err := errors.Join(errs...); err != nil || done != 1 {
			return fmt.Errorf("Move and two CompareAndSwaps of one version: %d succeeded, %w", done, err)
		}
	}
	return nil
}
