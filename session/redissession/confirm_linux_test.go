package redissession

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/session"
)

// replicated starts a primary and a replica that follows it.
func replicated(t *testing.T) (primary, replica *testenv.Redis) {
	t.Helper()
	start := func(settings map[string]string) *testenv.Redis {
		settings["repl-diskless-sync-delay"] = "0"
		r, err := testenv.StartRedis(t.Context(), testenv.RedisOptions{Settings: settings})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return r
	}
	primary = start(map[string]string{})
	host, port, err := net.SplitHostPort(primary.Addr())
	if err != nil {
		t.Fatal(err)
	}
	replica = start(map[string]string{"replicaof": host + " " + port})
	rdb := open(t, primary.URL())
	eventually(t, "the replica follows", func() bool {
		p := rdb.Redis().Pipeline()
		p.Set(t.Context(), "probe", "x", time.Minute)
		n := p.Do(t.Context(), "wait", 1, 100)
		p.Exec(t.Context())
		acks, _ := n.Int64()
		return acks == 1
	})
	return primary, replica
}

func calls(t *testing.T, r *testenv.Redis, command string) int64 {
	t.Helper()
	n, err := r.Calls(t.Context(), command)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestConfirm: a change is done when a replica has it, and not before.
func TestConfirm(t *testing.T) {
	primary, replica := replicated(t)
	rdb := open(t, primary.URL())
	store := New(rdb, Options{Prefix: prefix(), Confirm: 1})
	hook := counted(rdb)
	m := newManager(t, store, session.Options{StoreTimeout: 20 * time.Second})
	client := newBrowser()
	want(t, client.do(m, update), 200)
	want(t, client.do(m, login("ann")), 200)
	by := m // whose revocation it is
	all := []struct {
		name string
		f    handler
	}{
		{"update", update},
		{"rotation", rotate},
		{"login", login("ann")},
		{"logout", logout},
		{"revocation", func(ctx context.Context, s *current) error { return by.RevokeUser(ctx, "ann", s) }},
	}
	// The revocation is last: what is not confirmed is done on the primary, and would end the others' sessions.
	for _, c := range all {
		if err := rdb.Redis().ScriptFlush(t.Context()).Err(); err != nil { // the script and its WAIT go once more, together
			t.Fatal(err)
		}
		waits := calls(t, primary, "wait")
		want(t, client.do(m, c.f), 200)
		if n := calls(t, primary, "wait") - waits; n == 0 {
			t.Errorf("%s: nothing was confirmed", c.name)
		}
	}
	want(t, client.do(m, login("ann")), 200)
	want(t, client.do(m, update), 200)
	hook.n.Store(0)
	want(t, client.do(m, update), 200)
	if n := hook.n.Load(); n != 2 {
		t.Errorf("a confirmed update: %d round trips, want 2", n)
	}

	// A replica that does not answer.
	var clients []*browser
	for range all {
		b := newBrowser()
		want(t, b.do(m, login("ann")), 200)
		want(t, b.do(m, update), 200)
		clients = append(clients, b)
	}
	if err := replica.Freeze(); err != nil {
		t.Fatal(err)
	}
	hasty := newManager(t, store, session.Options{StoreTimeout: 500 * time.Millisecond})
	by = hasty
	want(t, client.clone().do(m, read), 200) // reads need no replica
	for i, c := range all {
		client := clients[i]
		var got error
		w := client.clone().do(hasty, func(ctx context.Context, s *current) error { got = c.f(ctx, s); return got })
		if !errors.Is(got, session.ErrUnavailable) && !errors.Is(got, session.ErrOutcomeUnknown) || w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s without a replica: %d %v", c.name, w.Code, got)
		}
		if got != nil && !strings.Contains(got.Error(), "replicas have confirmed") && !errors.Is(got, context.DeadlineExceeded) {
			t.Errorf("%s without a replica: %v", c.name, got)
		}
		if c.name == "update" { // it was done on the primary, once, although it was tried twice
			if v := client.value(t, m); v.Visits != 2 {
				t.Errorf("an unconfirmed update: %+v, want 2 visits", v)
			}
		}
		if w.Header()["Set-Cookie"] != nil {
			t.Errorf("%s without a replica sets %v", c.name, w.Header()["Set-Cookie"])
		}
	}
	if err := replica.Thaw(); err != nil {
		t.Fatal(err)
	}
	fresh := newBrowser()
	want(t, fresh.do(m, login("bob")), 200)

	// What was confirmed survives the primary.
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	promoted := open(t, replica.URL())
	if err := promoted.Redis().SlaveOf(t.Context(), "no", "one").Err(); err != nil {
		t.Fatal(err)
	}
	after := newManager(t, New(promoted, Options{Prefix: store.prefix}), patient)
	if v := fresh.value(t, after); v.User != "bob" {
		t.Errorf("a confirmed login after the failover: %+v", v)
	}
}

// TestConfirmOnCluster: WAIT goes to the node that has the key, behind the script on its connection.
func TestConfirmOnCluster(t *testing.T) {
	nodes, err := cluster.Get()
	if err != nil {
		t.Fatal(err)
	}
	store := New(openCluster(t), Options{Prefix: prefix(), Confirm: 1})
	plain := New(store.rdb, Options{Prefix: prefix()})
	for _, tag := range []string{"a", "b", "c", "d"} { // slots on all three nodes
		if _, _, err := plain.Create(t.Context(), session.Record{Tag: tag, ID: "id", Left: time.Minute}); err != nil { // the node knows the script
			t.Fatal(err)
		}
		before := make([][2]int64, 3)
		for i, n := range nodes.Nodes {
			before[i] = [2]int64{calls(t, n, "wait"), calls(t, n, "set")}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, _, err := store.Create(ctx, session.Record{Tag: tag, ID: "id", Left: time.Minute, Value: []byte("x")})
		cancel()
		if !errors.Is(err, session.ErrUnavailable) || !strings.Contains(err.Error(), "0 of 1 replicas") {
			t.Errorf("without replicas: %v", err)
		}
		asked := 0
		for i, n := range nodes.Nodes {
			waits, sets := calls(t, n, "wait")-before[i][0], calls(t, n, "set")-before[i][1]
			if waits != sets || waits > 1 {
				t.Errorf("tag %s, node %d: %d WAITs for %d writes", tag, i, waits, sets)
			}
			asked += int(waits)
		}
		if asked != 1 {
			t.Errorf("tag %s: %d WAITs", tag, asked)
		}
		if r, err := store.Load(t.Context(), tag, "id"); err != nil || r.Version != 1 { // done, though not confirmed
			t.Errorf("%+v, %v", r, err)
		}
	}
	// The client's map of the slots is old: an empty one moves.
	c := store.rdb.Redis().(*redis.ClusterClient)
	var tag string
	var slot int64
	var owner *redis.Client
	eventually(t, "an empty slot", func() bool {
		tag = "moves" + prefix()
		var n int64
		if slot, err = c.ClusterKeySlot(t.Context(), store.key(tag, "id")).Result(); err == nil {
			if owner, err = c.MasterForKey(t.Context(), store.key(tag, "id")); err == nil {
				n, err = owner.ClusterCountKeysInSlot(t.Context(), int(slot)).Result()
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		return n == 0
	})
	id := func(n *redis.Client) string { return n.Do(t.Context(), "cluster", "myid").String() }
	var heir *redis.Client
	var clients []*redis.Client
	for _, n := range nodes.Nodes {
		direct := redis.NewClient(&redis.Options{Addr: n.Addr()})
		t.Cleanup(func() { direct.Close() })
		clients = append(clients, direct)
		if id(direct) != id(owner) {
			heir = direct
		}
	}
	name, err := heir.Do(t.Context(), "cluster", "myid").Text()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range clients {
		if err := n.Do(t.Context(), "cluster", "setslot", slot, "node", name).Err(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	eventually(t, "the script follows its slot", func() bool {
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, _, err := store.Create(short, session.Record{Tag: tag, ID: "id", Left: time.Minute, Value: []byte("x")})
		return err != nil && strings.Contains(err.Error(), "0 of 1 replicas")
	})
	if n, err := heir.Exists(t.Context(), store.key(tag, "id")).Result(); err != nil || n != 1 {
		t.Errorf("the slot's new owner has %d, %v", n, err)
	}
}

func TestBadConfirm(t *testing.T) {
	_, rdb := openSingle(t)
	if _, err := session.New[int](New(rdb, Options{Confirm: -1}), session.Options{}); err == nil || !strings.Contains(err.Error(), "redissession: Options.Confirm = -1") {
		t.Error(err)
	}
}

// TestEvictions fills a small Redis, on a server of its own.
func TestEvictions(t *testing.T) {
	r, err := testenv.StartRedis(t.Context(), testenv.RedisOptions{Settings: map[string]string{"maxmemory": "3mb", "maxmemory-policy": "volatile-ttl"}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	store := New(open(t, r.URL()), Options{})
	if n, err := store.Evictions(t.Context()); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	for i := range 300 {
		r := session.Record{Tag: "t", ID: string(rune('a' + i)), Left: time.Duration(i+1) * time.Minute, Value: make([]byte, 20_000)}
		if _, _, err := store.Create(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := store.Evictions(t.Context()); n == 0 || err != nil {
		t.Errorf("%d evictions, %v", n, err)
	}
	onCluster := New(openCluster(t), Options{})
	if n, err := onCluster.Evictions(t.Context()); n != 0 || err != nil {
		t.Errorf("on Cluster %d evictions, %v", n, err)
	}
}
