package cachetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/pool/causal"
)

func (s *suite) tokens() {
	token := func(key string) string {
		s.Helper()
		lease := id()
		r := s.get(s.b, cache.Ask{Key: key, Lease: lease})
		s.put(s.b, cache.Fill{Key: key, Lease: lease})
		return r.Token
	}
	merged := ""
	soon := time.Now().Unix()
	later, sooner := fmt.Sprintf("*=%d", soon+8), fmt.Sprintf("*=%d", soon+6)
	for _, next := range []string{"b=0A", "a=00000001", "b=09", "c=1,d=2", "", later, "a=0000000a,b=0B", sooner} {
		s.drop(s.a, next, "k")
		var err error
		if merged, err = causal.Merge(merged, next); err != nil {
			s.Fatal(err)
		}
		got := token("k")
		if read, err := causal.Merge(got); err != nil || read != merged { // in any order that causal reads
			s.Fatalf("token after %q = %q, want %q (%v)", next, got, merged, err)
		}
	}
	if got := token("other"); got != "" {
		s.Fatalf("token of a key never invalidated = %q", got)
	}
	s.store(s.a, "k", "v") // a fill does not end it
	s.drop(s.a, "", "k")
	if got := token("k"); got == "" {
		s.Fatal("the token went with the record")
	}
}

func (s *suite) clock() {
	const each = 25
	var mu sync.Mutex
	var numbers []uint64
	incarnations := map[string]bool{}
	var wg sync.WaitGroup
	for _, r := range []cache.Remote{s.a, s.b, s.a, s.b} {
		wg.Go(func() {
			for i := range each {
				ev, err := r.Invalidate(s.Context(), s.space, cache.Invalidation{Keys: []string{fmt.Sprint(i)}, From: "me"})
				if err != nil {
					s.Error(err)
					return
				}
				mu.Lock()
				numbers = append(numbers, ev.N)
				incarnations[ev.Incarnation] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(numbers)
	for i, n := range numbers {
		if n != uint64(i+1) {
			s.Fatalf("numbers %v, want 1 to %d", numbers, 4*each)
		}
	}
	if len(incarnations) != 1 {
		s.Fatalf("incarnations %v, want one", incarnations)
	}
	if ev := s.drop(s.a, "", "k"); ev.N != 4*each+1 || !ev.Connected || len(ev.Invalidation.Keys) != 1 {
		s.Fatalf("Invalidate = %+v, want the event it sent, number %d", ev, 4*each+1)
	}
}

// hear listens until the test ends.
func (s *suite) hear(r cache.Remote) <-chan cache.Event {
	events := make(chan cache.Event, 1000)
	ctx, cancel := context.WithCancelCause(s.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Listen(ctx, s.space, func(ev cache.Event) { events <- ev }) }()
	s.Cleanup(func() {
		over := errors.New("the test is over")
		cancel(over)
		select {
		case err := <-ended:
			if !errors.Is(err, over) && !errors.Is(err, context.Canceled) {
				s.Errorf("Listen = %v, want what ended its context", err)
			}
		case <-time.After(backstop):
			s.Error("Listen did not end with its context")
		}
	})
	return events
}

// reports says whether an event only reports the clock.
func reports(ev cache.Event) bool {
	return len(ev.Invalidation.Keys) == 0 && len(ev.Invalidation.Tags) == 0 && !ev.Invalidation.All
}

// next returns the next event that is an invalidation, and checks those that are not.
func (s *suite) next(events <-chan cache.Event, last *cache.Event) cache.Event {
	s.Helper()
	for end := time.After(backstop); ; {
		select {
		case ev := <-events:
			switch {
			case !ev.Connected:
				s.Fatal("the connection was lost; was the store restarted?")
			case last.Connected && (ev.Incarnation != last.Incarnation || ev.N < last.N):
				s.Fatalf("the clock went from %+v to %+v", *last, ev)
			case last.Connected && reports(ev) && ev.N != last.N:
				s.Fatalf("the clock is reported as %d before what made it so was handed over, after %d", ev.N, last.N)
			}
			*last = ev
			if !reports(ev) {
				return ev
			}
		case <-end:
			s.Fatal("no event")
		}
	}
}

func (s *suite) listen() {
	before := s.drop(s.a, "", "before")
	heard := []<-chan cache.Event{s.hear(s.a), s.hear(s.b)}
	last := make([]cache.Event, len(heard))
	for i, events := range heard {
		select {
		case last[i] = <-events:
		case <-time.After(backstop):
			s.Fatal("a listener that connects says nothing")
		}
		if ev := last[i]; !ev.Connected || ev.N != before.N || ev.Incarnation != before.Incarnation || len(ev.Invalidation.Keys) > 0 {
			s.Fatalf("first event = %+v, want a report of the clock %+v", ev, before)
		}
	}
	other := *s
	other.space += ".other"
	for i := range 50 {
		from := []cache.Remote{s.a, s.b}[i%2]
		keys := []string{fmt.Sprintf("k%d", i), "\x00\xff 7:\r\n{}"}
		sent := s.drop(from, "db=01", keys...)
		other.drop(from, "", "elsewhere")
		for j, events := range heard {
			got := s.next(events, &last[j])
			if got.N != sent.N || got.Incarnation != sent.Incarnation || !slices.Equal(got.Invalidation.Keys, keys) ||
				got.Invalidation.Token != "db=01" || got.Invalidation.From != "me" {
				s.Fatalf("heard %+v, want %+v", got, sent)
			}
		}
	}
}
