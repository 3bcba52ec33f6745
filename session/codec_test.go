package session

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/fairlead/fairlead/pool/causal"
)

// moody has a codec of its own that does not always come back.
type moody struct{ N, Others int }

func (v moody) MarshalJSON() ([]byte, error) {
	switch v.N {
	case 13:
		panic("at 13")
	case 14:
		runtime.Goexit()
	}
	return json.Marshal([2]int{v.N, v.Others})
}

func (v *moody) UnmarshalJSON(b []byte) error {
	var n [2]int
	if err := json.Unmarshal(b, &n); err != nil {
		return err
	}
	if v.N, v.Others = n[0], n[1]; v.N == 15 {
		panic("at 15")
	}
	return nil
}

func moodySession(m *Manager[moody], raw [rawLen]byte) *Session[moody] {
	_, scope := causal.Begin(context.Background())
	s := &Session[moody]{m: m, scope: scope}
	if raw != [rawLen]byte{} {
		s.raws = [][rawLen]byte{raw}
	}
	return s
}

// TestAPanicOfTheCodecHarmsOnlyItsOwner: the changes run on a goroutine of the manager, where a panic ends the process.
func TestAPanicOfTheCodecHarmsOnlyItsOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arrived, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		m, err := New[moody](hooked{NewMemory(0), func(_ context.Context, call string) error {
			if call == "swap" {
				once.Do(func() { close(arrived); <-release })
			}
			return nil
		}}, Options{StoreTimeout: 1 << 40})
		if err != nil {
			t.Fatal(err)
		}
		set := func(n int) func(*moody) error {
			return func(v *moody) error {
				if n == 0 {
					v.Others++
				} else {
					v.N = n
				}
				return nil
			}
		}
		s := moodySession(m, [rawLen]byte{})
		if _, err := s.Update(t.Context(), set(0)); err != nil {
			t.Fatal(err)
		}
		raw := s.token.raw
		go moodySession(m, raw).Update(t.Context(), set(0))
		<-arrived
		errs := make([]error, 30)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				_, errs[i] = moodySession(m, raw).Update(t.Context(), set([]int{0, 13, 14}[i%3]))
			})
		}
		synctest.Wait()
		close(release)
		wg.Wait()
		for i, err := range errs {
			want := []string{"", "panicked: at 13", "runtime.Goexit"}[i%3]
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%d: %v, want %q", i, err, want)
			}
		}
		if v, err := moodySession(m, raw).Get(t.Context()); err != nil || v != (moody{0, 12}) {
			t.Errorf("%+v, %v: want the 12 changes that have no fault", v, err)
		}

		// A value that cannot be read back, as an older version of the application may meet it.
		if _, err := moodySession(m, raw).Update(t.Context(), set(15)); err != nil {
			t.Fatal(err)
		}
		if _, err := moodySession(m, raw).Get(t.Context()); err == nil || !strings.Contains(err.Error(), "panicked: at 15") {
			t.Errorf("Get: %v", err)
		}
		if _, err := moodySession(m, raw).Update(t.Context(), set(0)); err == nil || !strings.Contains(err.Error(), "panicked: at 15") {
			t.Errorf("Update: %v", err)
		}
		m.Close()
	})
}

// hopeless panics even for its zero value.
type hopeless struct{}

func (hopeless) MarshalJSON() ([]byte, error) { panic("always") }

func TestATypeThatCannotBeEncoded(t *testing.T) {
	if _, err := New[hopeless](NewMemory(0), Options{}); err == nil || !strings.Contains(err.Error(), "cannot be encoded") {
		t.Error(err)
	}
}

// TestTheStoreIsOutsideTheScope: whatever a store does with the context it is given is not what the request did.
func TestTheStoreIsOutsideTheScope(t *testing.T) {
	calls := 0
	m := manager(t, hooked{NewMemory(0), func(ctx context.Context, call string) error {
		calls++
		if causal.From(ctx) != nil {
			t.Errorf("%s has a scope", call)
		}
		return nil
	}}, Options{})
	defer m.Close()
	type key struct{}
	w := httptest.NewRecorder()
	m.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ctx := context.WithValue(r.Context(), key{}, "kept")
		s := m.From(ctx)
		logIn(t, m, s, "ann")
		err := errors.Join(s.Rotate(ctx), s.Logout(ctx))
		if err != nil {
			t.Error(err)
		}
		if causal.From(ctx) == nil {
			t.Error("the handler has no scope")
		}
		if err := m.call(ctx, func(ctx context.Context) error {
			if ctx.Value(key{}) != "kept" || causal.From(ctx) != nil {
				t.Error("a call of the store has lost the context's values, or kept its scope")
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if calls == 0 {
		t.Error("the store was not asked")
	}
}
