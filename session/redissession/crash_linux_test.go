package redissession

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/fairlead/fairlead/session"
)

// mortal is the store of a process that dies right after, or right before, one of its calls.
type mortal struct {
	*Store
	after, before string
	dead          atomic.Bool
}

var errDead = errors.New("the process is gone") // which nobody takes for a reason to try again

func (s *mortal) try(call string, do func() error) error {
	if call == s.before {
		s.dead.Store(true)
	}
	if s.dead.Load() {
		return errDead
	}
	err := do()
	if call == s.after {
		s.dead.Store(true)
		return errDead
	}
	return err
}

func (s *mortal) Load(ctx context.Context, tag, id string) (r session.Record, err error) {
	err = s.try("load", func() (err error) { r, err = s.Store.Load(ctx, tag, id); return err })
	return r, err
}

func (s *mortal) Create(ctx context.Context, r session.Record) (now session.Record, ok bool, err error) {
	err = s.try("create", func() (err error) { now, ok, err = s.Store.Create(ctx, r); return err })
	return now, ok, err
}

func (s *mortal) CompareAndSwap(ctx context.Context, r session.Record) (now session.Record, ok bool, err error) {
	call := "activate"
	if r.Pinned {
		call = "supersede"
	}
	err = s.try(call, func() (err error) { now, ok, err = s.Store.CompareAndSwap(ctx, r); return err })
	return now, ok, err
}

func (s *mortal) Delete(ctx context.Context, tag, id string) (r session.Record, err error) {
	err = s.try("delete", func() (err error) { r, err = s.Store.Delete(ctx, tag, id); return err })
	return r, err
}

// TestALoginAcrossSlotsSurvivesACrash: on a Cluster, an anonymous session and its user's have slots of their own. The process
// dies after each of the three steps that a login then is.
func TestALoginAcrossSlotsSurvivesACrash(t *testing.T) {
	for i := range 3 { // users on several nodes
		for _, c := range []struct {
			after, before string
			answered      bool // the client has the cookie of the login
		}{
			{after: "create"}, {after: "supersede"}, {after: "activate"},
			{before: "activate", answered: true},
		} {
			user := fmt.Sprintf("user %d", i)
			store := New(openCluster(t), Options{Prefix: prefix()})
			other := newManager(t, store, patient)
			dying := &mortal{Store: store, after: c.after, before: c.before}
			m := newManager(t, &indexed{dying, store}, patient)
			client := newBrowser()
			want(t, client.do(other, update), 200)
			old := client.clone()
			client.do(m, func(ctx context.Context, s *current) error {
				l, err := s.BeginLogin(ctx, user)
				if err == nil {
					err = l.Commit(ctx)
				}
				if answered := c.answered || c.after == "activate"; answered != (err == nil) {
					t.Errorf("%+v: Commit: %v", c, err)
				}
				return err
			})
			if !dying.dead.Load() {
				t.Fatalf("%+v: it lives", c)
			}
			if c.answered || c.after == "activate" { // the next request completes what was begun
				if v := client.value(t, other); v.Visits != 1 || client.token() == old.token() {
					t.Errorf("%+v: the login led to %+v", c, v)
				}
				want(t, client.do(other, update), 200)
				if n := sessionsOf(t, other, user); n != 1 {
					t.Errorf("%+v: %d sessions of the user", c, n)
				}
				if v := old.value(t, other); v != (visitor{}) {
					t.Errorf("%+v: the old id shows %+v", c, v)
				}
				continue
			}
			if client.token() != old.token() {
				t.Errorf("%+v: the cookie changed", c)
			}
			wanted := visitor{Visits: 1}
			if c.after != "create" { // decided: the anonymous data are lost, no more
				wanted = visitor{}
				want(t, client.do(other, update), 409)
				if n := forget(t, store, client.token()); n != 1 { // as its 30 s do
					t.Fatalf("%+v: %d pointers", c, n)
				}
			}
			if v := client.value(t, other); v != wanted {
				t.Errorf("%+v: the old cookie shows %+v, want %+v", c, v, wanted)
			}
			want(t, client.do(other, login(user)), 200)
			wanted.User = user
			if v := client.value(t, other); v != wanted {
				t.Errorf("%+v: after the next login: %+v, want %+v", c, v, wanted)
			}
			if n := sessionsOf(t, other, user); n != 1 {
				t.Errorf("%+v: %d sessions of the user", c, n)
			}
			// What the dead process left is the user's all the same: a revocation takes it.
			if err := other.RevokeUser(t.Context(), user); err != nil {
				t.Fatal(err)
			}
			if n := onAllNodes(t, store, store.prefix+"*:s:*"); n > 2 { // the secret of the managers and a pointer
				t.Errorf("%+v: %d records after the revocation", c, n)
			}
		}
	}
}

// indexed gives a store the index of another.
type indexed struct {
	*mortal
	session.UserIndex
}

func sessionsOf(t *testing.T, m *manager, user string) (n int) {
	t.Helper()
	for _, err := range m.List(t.Context(), user) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// forget deletes the record of a cookie.
func forget(t *testing.T, s *Store, cookie string) (n int) {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(cookie)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	id := base64.RawURLEncoding.EncodeToString(sum[:])
	eachNode(t, s, func(ctx context.Context, node *redis.Client) error {
		keys, err := node.Keys(ctx, s.prefix+"*").Result()
		for _, k := range keys {
			if len(k) > len(id) && k[len(k)-len(id):] == id {
				n += int(node.Del(ctx, k).Val())
			}
		}
		return err
	})
	return n
}

func onAllNodes(t *testing.T, s *Store, pattern string) (n int) {
	t.Helper()
	eachNode(t, s, func(ctx context.Context, node *redis.Client) error {
		keys, err := node.Keys(ctx, pattern).Result()
		n += len(keys)
		return err
	})
	return n
}

func eachNode(t *testing.T, s *Store, f func(context.Context, *redis.Client) error) {
	t.Helper()
	var mu sync.Mutex
	err := s.rdb.Redis().(*redis.ClusterClient).ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		return f(ctx, node)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTheLimitOnCluster: logins of one user at the same time, in two processes.
func TestTheLimitOnCluster(t *testing.T) {
	p := prefix()
	o := patient
	o.MaxSessions = 2
	a, b := newManager(t, New(openCluster(t), Options{Prefix: p}), o), newManager(t, New(openCluster(t), Options{Prefix: p}), o)
	for i := range 5 {
		user := fmt.Sprintf("user %d", i)
		var wg sync.WaitGroup
		browsers := make([]*browser, 8)
		for n := range browsers {
			browsers[n] = newBrowser()
			wg.Go(func() {
				w := browsers[n].do([]*manager{a, b}[n%2], func(ctx context.Context, s *current) error {
					l, err := s.BeginLogin(ctx, user)
					if err == nil {
						err = l.Commit(ctx)
					}
					return err
				})
				if w.Code != 200 {
					t.Errorf("%d %s", w.Code, w.Body)
				}
			})
		}
		wg.Wait()
		if n := sessionsOf(t, a, user); n != 2 {
			t.Errorf("%d sessions of a user, want 2", n)
		}
	}
}

// TestAFenceAges: by the server's clock, a login may take 15 minutes.
func TestAFenceAges(t *testing.T) {
	_, rdb := openSingle(t)
	s := New(rdb, Options{Prefix: prefix()})
	for _, c := range []struct {
		age  int64
		want error
	}{{14 * 60_000, nil}, {16 * 60_000, session.ErrRevoked}} {
		f, err := s.Fence(t.Context(), "tag")
		if err != nil {
			t.Fatal(err)
		}
		var value, asked int64
		if _, err := fmt.Sscanf(f, "%d@%d", &value, &asked); err != nil {
			t.Fatal(err)
		}
		r := session.Record{Tag: "tag", ID: fmt.Sprint(c.age), User: true, Left: 1e9 * 60, Fence: fmt.Sprintf("%d@%d", value, asked-c.age)}
		if _, _, err := s.Create(t.Context(), r); !errors.Is(err, c.want) {
			t.Errorf("a fence of %d ms: %v, want %v", c.age, err, c.want)
		}
	}
}
