package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead/fairlead/pool/causal"
)

// hooked lets a test stand before the calls of a store.
type hooked struct {
	Store
	before func(ctx context.Context, call string) error
}

func (h hooked) Load(ctx context.Context, tag, id string) (Record, error) {
	if err := h.before(ctx, "load"); err != nil {
		return Record{}, err
	}
	return h.Store.Load(ctx, tag, id)
}

func (h hooked) Create(ctx context.Context, r Record) (Record, bool, error) {
	if err := h.before(ctx, "create"); err != nil {
		return Record{}, false, err
	}
	return h.Store.Create(ctx, r)
}

func (h hooked) CompareAndSwap(ctx context.Context, r Record) (Record, bool, error) {
	if err := h.before(ctx, "swap"); err != nil {
		return Record{}, false, err
	}
	return h.Store.CompareAndSwap(ctx, r)
}

func (h hooked) Delete(ctx context.Context, tag, id string) (Record, error) {
	if err := h.before(ctx, "delete"); err != nil {
		return Record{}, err
	}
	return h.Store.Delete(ctx, tag, id)
}

func (h hooked) Touch(ctx context.Context, records []Record) error {
	if err := h.before(ctx, "touch"); err != nil {
		return err
	}
	return h.Store.Touch(ctx, records)
}

// request is a session like that of a request with the given cookie.
func request(m *Manager[visitor], cookie string) *Session[visitor] {
	_, scope := causal.Begin(context.Background())
	s := &Session[visitor]{m: m, scope: scope}
	if raw, ok := parseToken(cookie); ok {
		s.raws = [][rawLen]byte{raw}
	}
	return s
}

// begin makes a session and returns its cookie.
func begin(t *testing.T, m *Manager[visitor]) string {
	t.Helper()
	s := request(m, "")
	if _, err := s.Update(t.Context(), visit); err != nil {
		t.Fatal(err)
	}
	return s.token.text()
}

func manager(t *testing.T, store Store, o Options) *Manager[visitor] {
	t.Helper()
	m, err := New[visitor](store, o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func get(t *testing.T, m *Manager[visitor], cookie string) visitor {
	t.Helper()
	v, err := request(m, cookie).Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// holding holds the first swap until it is let go, so that a batch gathers behind it.
func holding(t *testing.T) (m *Manager[visitor], cookie string, arrived, release chan struct{}) {
	arrived, release = make(chan struct{}), make(chan struct{})
	var once sync.Once
	m = manager(t, hooked{NewMemory(0), func(_ context.Context, call string) error {
		if call == "swap" {
			once.Do(func() { close(arrived); <-release })
		}
		return nil
	}}, Options{StoreTimeout: time.Minute})
	return m, begin(t, m), arrived, release
}

func TestAFailingChangeHarmsOnlyItsOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, cookie, arrived, release := holding(t)
		broken := errors.New("broken")
		go request(m, cookie).Update(t.Context(), visit)
		<-arrived
		type result struct {
			v        visitor
			err      error
			panicked any
		}
		results := make([]result, 30)
		var wg sync.WaitGroup
		for i := range results {
			wg.Go(func() {
				defer func() { results[i].panicked = recover() }()
				results[i].v, results[i].err = request(m, cookie).Update(t.Context(), func(v *visitor) error {
					v.Visits++
					if v.Cart == nil {
						v.Cart = map[string]int{}
					}
					v.Cart[fmt.Sprint(i)]++
					switch i % 5 {
					case 1:
						return broken
					case 2:
						panic("at the change")
					case 3:
						runtime.Goexit()
					}
					return nil
				})
			})
		}
		synctest.Wait()
		close(release)
		wg.Wait()
		visits := map[int]bool{}
		for i, r := range results {
			switch i % 5 {
			case 1:
				if r.err != broken || r.panicked != nil {
					t.Errorf("%d: %+v", i, r)
				}
			case 2:
				if r.panicked != "at the change" {
					t.Errorf("%d: %+v", i, r)
				}
			case 3:
				if r.err == nil || r.panicked != nil {
					t.Errorf("%d: %+v", i, r)
				}
			default:
				if r.err != nil || r.panicked != nil || r.v.Cart[fmt.Sprint(i)] != 1 || visits[r.v.Visits] {
					t.Errorf("%d: %+v", i, r)
				}
				visits[r.v.Visits] = true
				r.v.Cart["mine"] = 1 // a value of its own: the race detector would tell
			}
		}
		v := get(t, m, cookie)
		if v.Visits != 2+12 || len(v.Cart) != 12 {
			t.Errorf("%+v: want 12 changes of 30, after 2", v)
		}
		for name := range v.Cart {
			var i int
			if fmt.Sscan(name, &i); i%5 != 0 && i%5 != 4 {
				t.Errorf("the failed change %d left a trace", i)
			}
		}
		m.Close()
	})
}

func TestLeavingTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, cookie, arrived, release := holding(t)
		first, leaveFirst := context.WithCancel(t.Context())
		second, leaveSecond := context.WithCancel(t.Context())
		errs := make(chan error, 2)
		s1, s2 := request(m, cookie), request(m, cookie)
		go func() { _, err := s1.Update(first, visit); errs <- err }()
		<-arrived
		go func() { _, err := s2.Update(second, visit); errs <- err }()
		synctest.Wait()

		leaveSecond() // still queued: it never runs
		if err := <-errs; !errors.Is(err, context.Canceled) || errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("left the queue: %v", err)
		}
		leaveFirst() // on its way: it may be stored, and is
		if err := <-errs; !errors.Is(err, context.Canceled) || !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("left on the way: %v", err)
		}
		close(release)
		synctest.Wait()
		if v := get(t, m, cookie); v.Visits != 2 {
			t.Errorf("%+v", v)
		}
		if n := m.Stats().Queued; n != 0 {
			t.Errorf("Queued %d", n)
		}
		m.Close()
	})
}

func TestAnUpdateThatChangesNothingSeesTheNewest(t *testing.T) {
	store := NewMemory(0)
	m, other := manager(t, store, Options{}), manager(t, store, Options{})
	cookie := begin(t, m)
	s := request(m, cookie)
	if _, err := s.Get(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := request(other, cookie).Update(t.Context(), visit); err != nil {
		t.Fatal(err)
	}
	writes := m.Stats().Writes
	v, err := s.Update(t.Context(), func(v *visitor) error {
		if v.Visits == 5 {
			v.Visits = 0
		}
		return nil
	})
	if err != nil || v.Visits != 2 {
		t.Errorf("%+v, %v: decided on an old value", v, err)
	}
	if m.Stats().Writes != writes {
		t.Error("it wrote")
	}
}

// TestTheBudget uses a store that never answers, in virtual time.
func TestTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := false
		m := manager(t, hooked{NewMemory(0), func(ctx context.Context, call string) error {
			if dead {
				<-ctx.Done()
				return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
			}
			return nil
		}}, Options{})
		cookie := begin(t, m)
		loaded := request(m, cookie)
		if _, err := loaded.Get(t.Context()); err != nil {
			t.Fatal(err)
		}
		dead = true
		took := func(what string, want error, f func() error) {
			t.Helper()
			start := time.Now()
			if err := f(); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
			if d := time.Since(start); d > 250*time.Millisecond {
				t.Errorf("%s took %v", what, d)
			}
		}
		s := request(m, cookie)
		took("Get, Get and Update", ErrUnavailable, func() error {
			s.Get(t.Context())
			s.Get(t.Context())
			_, err := s.Update(t.Context(), visit)
			return err
		})
		took("Update of a loaded session", ErrOutcomeUnknown, func() error {
			_, err := loaded.Update(t.Context(), visit)
			return err
		})
		took("a first Update", ErrUnavailable, func() error {
			_, err := request(m, "").Update(t.Context(), visit)
			return err
		})
		took("Logout", ErrUnavailable, func() error { return loaded.Logout(t.Context()) })
		dead = false
		time.Sleep(2 * time.Second)
		if v, err := s.Get(t.Context()); err != nil || v.Visits != 1 { // a long request may try again
			t.Errorf("%+v, %v", v, err)
		}
		m.Close()
	})
}

func TestUsesAreNotedSeldomAndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var touches atomic.Int64
		store := NewMemory(0)
		m := manager(t, hooked{store, func(_ context.Context, call string) error {
			if call == "touch" {
				touches.Add(1)
			}
			return nil
		}}, Options{Idle: 10 * time.Minute, Absolute: 25 * time.Minute})
		read := m.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if _, err := m.From(r.Context()).Get(r.Context()); err != nil {
				t.Error(err)
			}
		}))
		var cookies []string
		for range 3 {
			cookies = append(cookies, begin(t, m))
		}
		storm := func() {
			for range 20 {
				for _, c := range cookies {
					r := httptest.NewRequest("GET", "/", nil)
					r.AddCookie(&http.Cookie{Name: "__Host-session", Value: c})
					read.ServeHTTP(httptest.NewRecorder(), r)
				}
			}
		}
		storm()
		time.Sleep(59 * time.Second)
		storm()
		time.Sleep(5 * time.Second)
		if touches.Load() != 0 {
			t.Fatalf("%d touches within a minute", touches.Load())
		}
		for range 10 { // a tenth of Idle each
			storm()
			time.Sleep(time.Minute + 2*time.Second)
		}
		if touches.Load() != 10 || m.Stats().Touches != 30 {
			t.Errorf("%d touches of %d records in 10 minutes, want 10 of 30", touches.Load(), m.Stats().Touches)
		}
		if v := get(t, m, cookies[0]); v.Visits != 1 {
			t.Fatalf("%+v: ended although it was used", v)
		}
		// Close has what waits noted.
		time.Sleep(time.Minute + 2*time.Second)
		storm()
		m.Close()
		if touches.Load() != 11 {
			t.Errorf("%d touches after Close, want 11", touches.Load())
		}
		// The absolute end stands.
		m = manager(t, store, Options{Idle: 10 * time.Minute, Absolute: 25 * time.Minute})
		for range 14 {
			get(t, m, cookies[0])
			s := request(m, cookies[0])
			s.Get(t.Context())
			s.afterResponse(t.Context())
			time.Sleep(time.Minute)
		}
		if v := get(t, m, cookies[0]); v.Visits != 0 {
			t.Errorf("%+v: lives beyond its absolute end", v)
		}
		m.Close()
	})
}
