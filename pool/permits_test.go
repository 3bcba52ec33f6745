package pool

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Who waits longest is served first, whoever comes meanwhile; who gives up is passed over, and loses nothing.
func TestPermitsAreFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &permits{most: 1}
		take := func() int {
			slot, ok, err := q.try(false)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				return -1
			}
			return slot
		}
		a := take()
		if a < 0 || take() != -1 {
			t.Fatalf("slot %d", a)
		}
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range 100 {
			ctx, d := t.Context(), time.Duration(0)
			switch i % 10 {
			case 3:
				d = time.Second
			case 7:
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, time.Second)
				defer cancel()
			}
			wg.Go(func() {
				slot, _, err := q.wait(ctx, d, false)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					if i%10 == 3 && err != errNoPermit || i%10 == 7 && !errors.Is(err, context.DeadlineExceeded) || i%10 != 3 && i%10 != 7 {
						t.Errorf("%d: %v", i, err)
					}
					return
				}
				order = append(order, i)
				go func() {
					time.Sleep(time.Millisecond)
					if i < 90 && take() != -1 {
						t.Error("one that comes now goes first")
					}
					q.give(slot)
				}()
			})
			synctest.Wait()
		}
		time.Sleep(2 * time.Second)
		q.give(a)
		wg.Wait()
		time.Sleep(time.Second)
		if len(order) != 80 || !slices.IsSorted(order) {
			t.Errorf("served: %v", order)
		}
		if q.inUse() != 0 || q.queue.Len() != 0 {
			t.Errorf("%d in use, %d in the queue", q.inUse(), q.queue.Len())
		}
		if take() < 0 || take() != -1 {
			t.Error("a slot was lost, or doubled")
		}
		// Closing ends the wait.
		done := make(chan error)
		go func() { _, _, err := q.wait(t.Context(), 0, false); done <- err }()
		synctest.Wait()
		q.close()
		if err := <-done; !unsent(err) {
			t.Errorf("after close: %v", err)
		}
		if _, _, err := q.try(false); !unsent(err) {
			t.Errorf("after close: %v", err)
		}
	})
}

// A slot that is handed over in the moment in which its waiter gives up goes to the next.
func TestPermitAtTheLastMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &permits{most: 1}
		for range 200 {
			slot, ok, _ := q.try(false)
			if !ok {
				t.Fatal("the slot was lost")
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			var wg sync.WaitGroup
			wg.Go(func() {
				if slot, _, err := q.wait(ctx, 0, false); err == nil {
					q.give(slot)
				}
			})
			wg.Go(func() {
				if slot, _, err := q.wait(t.Context(), time.Second, false); err == nil {
					q.give(slot)
				}
			})
			synctest.Wait()
			time.Sleep(time.Second)
			q.give(slot)
			wg.Wait()
			cancel()
		}
		if q.inUse() != 0 {
			t.Errorf("%d in use", q.inUse())
		}
	})
}
