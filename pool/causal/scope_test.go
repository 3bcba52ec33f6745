package causal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestBoundIsTheGreaterOfWrittenAndSeen(t *testing.T) {
	_, s := Begin(t.Context())
	d := s.Domain("db")
	d.Wrote("01:05")
	d.Saw("01:09")
	d.Wrote("01:02") // lower: the scope only grows
	if got, settled := d.Bound(); got != "01:09" || !settled {
		t.Fatalf("Bound = %q, %v; want 01:09, settled", got, settled)
	}
	if got := s.Written(t.Context()); got != "db=01:05" {
		t.Fatalf("Written = %q", got)
	}
	if got := s.Seen(); got != "db=01:09" {
		t.Fatalf("Seen = %q", got)
	}
	if got, _ := s.Domain("other").Bound(); got != "" {
		t.Fatalf("another domain's Bound = %q, want none", got)
	}
}

func TestPendingUnsettlesItsOwnDomainUntilResolved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, s := Begin(t.Context())
		resolve := s.Domain("db").Pending()
		if _, settled := s.Domain("db").Bound(); settled {
			t.Fatal("a write in flight left its domain settled")
		}
		if _, settled := s.Domain("cache").Bound(); !settled {
			t.Fatal("a write in flight unsettled another domain")
		}
		go func() {
			time.Sleep(3 * time.Millisecond)
			resolve("7")
			resolve("9") // only the first counts
		}()
		token, err := Token(ctx)
		if err != nil || token != "db=7" {
			t.Fatalf("Token = %q, %v; want db=7 once the write is resolved", token, err)
		}
		if pos, settled := s.Domain("db").Bound(); pos != "7" || !settled {
			t.Fatalf("Bound = %q, %v", pos, settled)
		}
	})
}

func TestWhatCannotBeKnownDemandsTheAuthorityForAWhile(t *testing.T) {
	lose := map[string]func(Domain){
		"unresolved":         func(d Domain) { d.Pending()("") },
		"malformed position": func(d Domain) { d.Wrote("a,b") },
		"malformed read":     func(d Domain) { d.Saw("") },
		"too many tags": func(d Domain) {
			for i := range maxTags + 1 {
				d.scope.Domain(fmt.Sprintf("db%02d", i)).Wrote("1")
			}
		},
	}
	for name, lose := range lose {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, s := Begin(t.Context())
				lose(s.Domain("db"))
				if _, settled := s.Domain("db").Bound(); settled {
					t.Fatal("settled at once")
				}
				if _, settled := s.Domain("other").Bound(); settled {
					t.Fatal("another domain settled at once")
				}
				time.Sleep(distrust - time.Millisecond)
				if _, settled := s.Domain("db").Bound(); settled {
					t.Fatal("settled too early")
				}
				time.Sleep(2 * time.Second) // whole seconds, rounded up
				if _, settled := s.Domain("db").Bound(); !settled {
					t.Fatal("never settles")
				}
			})
		})
	}
}

func TestWrittenDoesNotWaitBeyondItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, s := Begin(t.Context())
		s.Domain("db").Wrote("1")
		resolve := s.Domain("db").Pending()
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		if got := s.Written(short); !strings.HasPrefix(got, "db=1,*=") {
			t.Fatalf("Written = %q, want the demand for the authority", got)
		}
		if _, err := Token(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Token: %v, want the context's error", err)
		}
		resolve("2")
		if got := s.Written(ctx); got != "db=2" {
			t.Fatalf("Written = %q after the write was resolved", got)
		}
	})
}

func TestAtLeast(t *testing.T) {
	ctx, err := AtLeast(t.Context(), "a=1,b=2")
	if err != nil {
		t.Fatal(err)
	}
	if pos, _ := From(ctx).Domain("b").Bound(); pos != "2" {
		t.Fatalf("Bound = %q", pos)
	}
	if got := From(ctx).Written(ctx); got != "" {
		t.Fatalf("what was demanded counts as written: %q", got)
	}
	same, err := AtLeast(ctx, "a=3")
	if err != nil || From(same) != From(ctx) {
		t.Fatalf("AtLeast replaced the scope (%v)", err)
	}
	if token, _ := Token(same); token != "a=3,b=2" {
		t.Fatalf("Token = %q", token)
	}
	if _, err := AtLeast(t.Context(), "nonsense"); !errors.Is(err, ErrMalformed) {
		t.Fatalf("AtLeast(nonsense): %v", err)
	}
}

func TestNoScope(t *testing.T) {
	ctx := t.Context()
	d := From(ctx).Domain("db")
	d.Wrote("1")
	d.Saw("1")
	d.Pending()("1")
	if pos, settled := d.Bound(); pos != "" || !settled || d.Active() {
		t.Fatalf("Bound = %q, %v without a scope", pos, settled)
	}
	if From(ctx).Written(ctx) != "" || From(ctx).Seen() != "" || From(ctx).Saw("a=1") != nil {
		t.Fatal("a missing scope kept something")
	}
	if _, err := Token(ctx); err == nil {
		t.Fatal("Token without a scope gave no error")
	}
}

func TestConcurrentUse(t *testing.T) {
	ctx, s := Begin(t.Context())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				d := s.Domain(fmt.Sprintf("db%d", i%4))
				resolve := d.Pending()
				d.Saw(fmt.Sprintf("%04d", j))
				d.Bound()
				resolve(fmt.Sprintf("%04d", j))
			}
		})
	}
	wg.Wait()
	if got := s.Written(ctx); got != "db0=0199,db1=0199,db2=0199,db3=0199" {
		t.Fatalf("Written = %q", got)
	}
}
