package sessiontest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead/fairlead/session"
)

// owned returns a record of a user, with a fence.
func owned(ctx context.Context, s session.Store) (session.Record, error) {
	r := named()
	r.User = true
	f, err := s.(session.UserIndex).Fence(ctx, r.Tag)
	if err == nil && f == "" {
		err = errors.New("Fence: empty")
	}
	r.Fence = f
	return r, err
}

// listed checks that the index has exactly these records.
func listed(ctx context.Context, s session.Store, tag string, want ...session.Record) error {
	all, err := s.(session.UserIndex).List(ctx, tag)
	if err != nil {
		return err
	}
	have := map[string]session.Record{}
	for _, r := range all {
		have[r.ID] = r
	}
	for _, w := range want {
		r, ok := have[w.ID]
		if !ok || r.Tag != w.Tag || !r.User || r.Version == 0 || string(r.Value) != string(w.Value) || r.Left <= 0 {
			return fmt.Errorf("List: %+v, want %+v", r, w)
		}
	}
	if len(all) != len(want) {
		return fmt.Errorf("List: %d records, want %d", len(all), len(want))
	}
	return nil
}

func revoke(ctx context.Context, s session.Store) error {
	index := s.(session.UserIndex)
	a, err := owned(ctx, s)
	if err != nil {
		return err
	}
	b, c, anonymous := sibling(a), sibling(a), sibling(a)
	anonymous.User, anonymous.Fence = false, ""
	other, err := owned(ctx, s)
	if err != nil {
		return err
	}
	for _, r := range []session.Record{a, b, c, anonymous, other} {
		now, err := made(ctx, s, r)
		if err == nil && now.User != r.User {
			err = errors.New("Create: User was lost")
		}
		if err != nil {
			return err
		}
	}
	if _, err := s.Delete(ctx, c.Tag, c.ID); err != nil {
		return err
	}
	return first(
		func() error { return listed(ctx, s, a.Tag, a, b) },
		func() error {
			n, err := index.Revoke(ctx, a.Tag, []string{b.ID, "unknown"})
			if err == nil && n != 1 {
				err = fmt.Errorf("Revoke of 2 but 1: %d", n)
			}
			return err
		},
		func() error { return loads(ctx, s, "after Revoke", a, 0, "", 0) },
		func() error { return loads(ctx, s, "of the spared", b, 1, "value", time.Minute) },
		func() error { return loads(ctx, s, "of one not in the index", anonymous, 1, "value", time.Minute) },
		func() error { return loads(ctx, s, "of another user's", other, 1, "value", time.Minute) },
		func() error { return listed(ctx, s, a.Tag, b) },
		func() error { return touched(ctx, s, a, time.Minute) },
		func() error { return loads(ctx, s, "after Revoke and Touch", a, 0, "", 0) },
		func() error {
			n, err := index.Revoke(ctx, a.Tag, nil)
			if err == nil && n != 1 {
				err = fmt.Errorf("Revoke of the rest: %d", n)
			}
			return err
		},
		func() error { return listed(ctx, s, a.Tag) },
		func() error { return listed(ctx, s, other.Tag, other) },
	)
}

func fence(ctx context.Context, s session.Store) error {
	index := s.(session.UserIndex)
	r, err := owned(ctx, s)
	if err != nil {
		return err
	}
	for range 3 { // each revocation counts, also when the first fence had none before it
		if _, err := index.Revoke(ctx, r.Tag, nil); err != nil {
			return err
		}
		if _, created, err := s.Create(ctx, r); created || !errors.Is(err, session.ErrRevoked) {
			return fmt.Errorf("Create with a fence from before Revoke: %v, %v; want ErrRevoked", created, err)
		}
		if err := loads(ctx, s, "of what was refused", r, 0, "", 0); err != nil {
			return err
		}
		if err := listed(ctx, s, r.Tag); err != nil {
			return err
		}
		next, err := index.Fence(ctx, r.Tag)
		if err != nil {
			return err
		}
		after := sibling(r)
		after.Fence = next
		if _, err := made(ctx, s, after); err != nil {
			return fmt.Errorf("with a fence from after Revoke: %w", err)
		}
		r.Fence = next
	}
	without := sibling(r)
	without.Fence = ""
	if _, err := made(ctx, s, without); err != nil {
		return fmt.Errorf("without a fence: %w", err)
	}
	forged := sibling(r)
	forged.Fence = "nonsense"
	if _, created, err := s.Create(ctx, forged); created || !errors.Is(err, session.ErrRevoked) {
		return fmt.Errorf("Create with a made-up fence: %v, %v; want ErrRevoked", created, err)
	}
	return nil
}

// createOrRevoke: of a login and a revocation at the same time none leaves a session, whichever came first.
func createOrRevoke(ctx context.Context, s session.Store) error {
	index := s.(session.UserIndex)
	for round := range 100 {
		r, err := owned(ctx, s)
		if err != nil {
			return err
		}
		errs := make([]error, 2)
		together(2, func(i int) {
			if i == round%2 { // each comes first once in a while
				_, _, errs[i] = s.Create(ctx, r)
				if errors.Is(errs[i], session.ErrRevoked) {
					errs[i] = nil
				}
				return
			}
			_, errs[i] = index.Revoke(ctx, r.Tag, nil)
		})
		if err := errors.Join(errs...); err != nil {
			return err
		}
		if err := loads(ctx, s, "after Create beside Revoke", r, 0, "", 0); err != nil {
			return err
		}
		if err := listed(ctx, s, r.Tag); err != nil {
			return err
		}
	}
	return nil
}

// rotateOrRevoke: a rotation creates the successor without a fence and then makes the predecessor a pointer to it. Either the
// revocation finds the successor, or the rotation does not find the predecessor.
func rotateOrRevoke(ctx context.Context, s session.Store) error {
	index := s.(session.UserIndex)
	for round := range 100 {
		r, err := owned(ctx, s)
		if err != nil {
			return err
		}
		for _, bystander := range []session.Record{sibling(r), sibling(r)} { // a revocation of several takes longer
			if _, err := made(ctx, s, bystander); err != nil {
				return err
			}
		}
		old, err := made(ctx, s, r)
		if err != nil {
			return err
		}
		next := sibling(r)
		next.Fence = ""
		swapped := false
		errs := make([]error, 2)
		together(2, func(i int) {
			if i == round%2 { // each comes first once in a while
				if _, errs[i] = made(ctx, s, next); errs[i] == nil {
					old.Pinned, old.Left = true, time.Minute
					_, swapped, errs[i] = s.CompareAndSwap(ctx, old)
				}
				return
			}
			_, errs[i] = index.Revoke(ctx, r.Tag, nil)
		})
		if err := errors.Join(errs...); err != nil {
			return err
		}
		if !swapped { // the rotation came too late, and cleans up
			if _, err := s.Delete(ctx, next.Tag, next.ID); err != nil {
				return err
			}
		}
		if err := loads(ctx, s, "of the successor after Rotate beside Revoke", next, 0, "", 0); err != nil {
			return err
		}
		if err := listed(ctx, s, r.Tag); err != nil {
			return err
		}
	}
	return nil
}

// indexOutlives: a record that lives on because it is used is still found when its first lifetime is over.
func indexOutlives(ctx context.Context, s session.Store) error {
	r, err := owned(ctx, s)
	if err != nil {
		return err
	}
	r.Left = 10 * time.Second
	if _, err := made(ctx, s, r); err != nil {
		return err
	}
	if err := touched(ctx, s, r, time.Minute); err != nil {
		return err
	}
	brief := sibling(r)
	brief.Left, brief.Life = 50*time.Millisecond, 50*time.Millisecond
	if _, err := made(ctx, s, brief); err != nil {
		return err
	}
	if err := gone(ctx, s, brief); err != nil {
		return err
	}
	if err := listed(ctx, s, r.Tag, r); err != nil {
		return err
	}
	if n, err := s.(session.UserIndex).Revoke(ctx, r.Tag, nil); err != nil || n != 1 {
		return fmt.Errorf("Revoke: %d, %v; want the 1 that lives", n, err)
	}
	return loads(ctx, s, "after Revoke", r, 0, "", 0)
}

func pinnedLeaves(ctx context.Context, s session.Store) error {
	r, err := owned(ctx, s)
	if err != nil {
		return err
	}
	now, err := made(ctx, s, r)
	if err != nil {
		return err
	}
	now.Pinned, now.Left = true, time.Minute
	if _, swapped, err := s.CompareAndSwap(ctx, now); err != nil || !swapped {
		return fmt.Errorf("CompareAndSwap: %v, %v", swapped, err)
	}
	return listed(ctx, s, r.Tag)
}
