package sessiontest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead/fairlead/session"
)

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
