package testenv

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
)

type closer func() error

func (c closer) Close() error { return c() }

func TestSharedStartsOnce(t *testing.T) {
	starts, closes := 0, 0
	s := Share(func(context.Context) (closer, error) {
		starts++
		return func() error { closes++; return nil }, nil
	})
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if c, err := s.Get(); err != nil || c == nil {
				t.Error(c, err)
			}
		})
	}
	wg.Wait()
	must(t, s.Close())
	must(t, s.Close())
	if starts != 1 || closes != 1 {
		t.Errorf("%d starts and %d closes, want one of each", starts, closes)
	}
	if _, err := s.Get(); !errors.Is(err, ErrClosed) {
		t.Errorf("Get after Close: %v", err)
	}
}

func TestSharedUnusedAndFailed(t *testing.T) {
	failure := errors.New("no")
	starts := 0
	s := Share(func(context.Context) (io.Closer, error) { starts++; return nil, failure })
	must(t, Share(func(context.Context) (io.Closer, error) { starts++; return nil, failure }).Close())
	for range 2 {
		if _, err := s.Get(); !errors.Is(err, failure) {
			t.Errorf("Get: %v", err)
		}
	}
	must(t, s.Close())
	if starts != 1 {
		t.Errorf("%d starts, want 1", starts)
	}
}

func TestMainClosesInReverse(t *testing.T) {
	var order []string
	note := func(what string) closer { return func() error { order = append(order, what); return nil } }
	code := Main(func() int { order = append(order, "run"); return 3 }, note("first"), note("second"))
	if want := []string{"run", "second", "first"}; code != 3 || !slices.Equal(order, want) {
		t.Errorf("code %d, order %v, want 3 and %v", code, order, want)
	}
	if code := Main(func() int { return 0 }, closer(func() error { return errors.New("stays") })); code != 1 {
		t.Errorf("code %d when Close failed, want 1", code)
	}
}
