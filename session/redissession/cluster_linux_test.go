package redissession

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
)

// TestCluster: users and anonymous clients live on different nodes, and a login moves from one to another.
func TestCluster(t *testing.T) {
	p := prefix()
	store := New(openCluster(t), Options{Prefix: p})
	a, b := newManager(t, store, patient), newManager(t, New(openCluster(t), Options{Prefix: p}), patient)
	var mu sync.Mutex
	for i := range 12 {
		user := fmt.Sprintf("user %d", i)
		var devices []*browser
		for range 3 {
			client := newBrowser()
			want(t, client.do(a, update), 200)
			old := client.clone()
			want(t, client.do(b, login(user)), 200)
			if v := client.value(t, a); v.User != user || v.Visits != 1 {
				t.Fatalf("after login: %+v", v)
			}
			if v := old.value(t, a); v.User != "" {
				t.Fatalf("the anonymous id: %+v", v)
			}
			want(t, client.do(a, rotate), 200)
			want(t, client.do(b, update), 200)
			devices = append(devices, client)
		}
		sessions := 0
		for info, err := range a.List(t.Context(), user) {
			if err != nil || info.ID == "" {
				t.Fatal(info, err)
			}
			sessions++
		}
		if sessions != 3 {
			t.Fatalf("%d sessions, want 3", sessions)
		}
		want(t, devices[0].do(a, func(ctx context.Context, s *current) error { return a.RevokeUser(ctx, user, s) }), 200)
		for n, d := range devices {
			wanted := user
			if n > 0 {
				wanted = ""
			}
			if v := d.value(t, b); v.User != wanted {
				t.Fatalf("device %d after the revocation: %+v", n, v)
			}
		}
		want(t, devices[0].do(b, logout), 200)
		if v := devices[0].value(t, a); v != (visitor{}) {
			t.Fatalf("after logout: %+v", v)
		}
	}
	// The records were spread.
	used := 0
	err := store.rdb.Redis().(*redis.ClusterClient).ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error {
		keys, err := node.Keys(ctx, p+"*").Result()
		mu.Lock()
		defer mu.Unlock()
		if len(keys) > 0 {
			used++
		}
		return err
	})
	if err != nil || used != 3 {
		t.Errorf("%d of 3 nodes were used, %v", used, err)
	}
}
