package shard_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/causal"
	"github.com/fairlead/fairlead/pool/shard"
)

func primary(ctx context.Context) (*testenv.Postgres, error) {
	return testenv.StartPostgres(ctx, testenv.PostgresOptions{NewSystem: true})
}

var one, two = testenv.Share(primary), testenv.Share(primary)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m.Run, one, two)) }

// shards returns pools on new databases of two systems.
func shards(t testing.TB) []*pool.Pool {
	t.Helper()
	var out []*pool.Pool
	for i, s := range []*testenv.Shared[*testenv.Postgres]{one, two} {
		pg, err := s.Get()
		if err != nil {
			t.Fatal(err)
		}
		name, err := pg.CreateDatabase(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		db, err := pool.New(t.Context(), pg.Primary.URL(name), pool.Options{Name: fmt.Sprintf("shard%d", i), MaxConns: 4})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(db.Close)
		if _, err := db.Exec(t.Context(), "create table orders (customer bigint, item text)"); err != nil {
			t.Fatal(err)
		}
		out = append(out, db)
	}
	return out
}

type (
	customer int64
	email    string
	uuid     [16]byte
)

// The hash is published: it must never change, and PostgreSQL computes the same.
func TestBucketsArePublished(t *testing.T) {
	all := shards(t)
	ints, err := shard.New[customer](all, shard.Options{})
	if err != nil {
		t.Fatal(err)
	}
	texts, _ := shard.New[email](all, shard.Options{})
	uuids, _ := shard.New[uuid](all, shard.Options{})
	plain, _ := shard.New[int64](all, shard.Options{})
	plainText, _ := shard.New[string](all, shard.Options{})
	plainUUID, _ := shard.New[[16]byte](all, shard.Options{})
	for key, want := range map[int64]int{0: 245, 1: 533, -1: 3652, 1 << 40: 587} {
		if got := ints.Bucket(customer(key)); got != want {
			t.Errorf("%d is in bucket %d, was published as %d", key, got, want)
		}
	}
	const sql = `select ('x' || left(encode(sha256(%s), 'hex'), 8))::bit(32)::bigint %% 4096`
	for i := range 200 {
		key := int64(i-100) * 7_919_000_003
		text := fmt.Sprintf("öl-%d", key)
		var id [16]byte
		binary.BigEndian.PutUint64(id[3:], uint64(key))
		var n, s, u int
		b := &pgx.Batch{}
		b.Queue(fmt.Sprintf(sql, "int8send($1)"), key).QueryRow(func(r pgx.Row) error { return r.Scan(&n) })
		b.Queue(fmt.Sprintf(sql, "convert_to($1, 'UTF8')"), text).QueryRow(func(r pgx.Row) error { return r.Scan(&s) })
		b.Queue(fmt.Sprintf(sql, "uuid_send($1)"), id).QueryRow(func(r pgx.Row) error { return r.Scan(&u) })
		if err := all[0].SendBatch(t.Context(), b).Close(); err != nil {
			t.Fatal(err)
		}
		if got := []int{ints.Bucket(customer(key)), texts.Bucket(email(text)), uuids.Bucket(id)}; !slices.Equal(got, []int{n, s, u}) {
			t.Errorf("%d: %v here, %v in PostgreSQL", key, got, []int{n, s, u})
		}
		if got := []int{plain.Bucket(key), plainText.Bucket(text), plainUUID.Bucket(id)}; !slices.Equal(got, []int{n, s, u}) {
			t.Errorf("%d: %v without a named type, %v in PostgreSQL", key, got, []int{n, s, u})
		}
	}
}

func TestForSpreadsKeysAndStays(t *testing.T) {
	all := shards(t)
	db, err := shard.New[customer](all, shard.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, _ := causal.Begin(t.Context()) // one scope over both
	for c := range customer(200) {
		if _, err := db.For(c).Exec(ctx, "insert into orders values ($1, 'ball')", c); err != nil {
			t.Fatal(err)
		}
	}
	for c := range customer(200) {
		var n int
		if err := db.For(c).ReadOnly().QueryRow(ctx, "select count(*) from orders where customer = $1", c).Scan(&n); err != nil || n != 1 {
			t.Errorf("customer %d has %d orders, %v", c, n, err)
		}
	}
	counts := make([]int, 2)
	err = db.Each(ctx, 0, func(ctx context.Context, i int, p *pool.Pool) error {
		return p.QueryRow(ctx, "select count(*) from orders").Scan(&counts[i])
	})
	if err != nil || counts[0]+counts[1] != 200 || min(counts[0], counts[1]) < 60 {
		t.Errorf("%v, %v", counts, err)
	}
	token, err := causal.Token(ctx)
	if err != nil || strings.Count(token, "=") != 2 {
		t.Errorf("the token %q does not name both systems, %v", token, err)
	}
}

func TestTheTableDecides(t *testing.T) {
	all := shards(t)
	db, err := shard.New[string](all, shard.Options{Buckets: []int{1, 1, 0}})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		if want := all[[]int{1, 1, 0}[db.Bucket(k)]]; db.For(k) != want {
			t.Errorf("%s is not on the shard of its bucket", k)
		}
	}
}

func TestTogether(t *testing.T) {
	all := shards(t)
	db, err := shard.New[int64](all, shard.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var on [2][]int64
	for k := int64(0); len(on[0]) < 2 || len(on[1]) < 2; k++ {
		i := slices.Index(all, db.For(k))
		on[i] = append(on[i], k)
	}
	for i := range on {
		p, err := db.Together(on[i]...)
		if err != nil || p != all[i] {
			t.Errorf("%v", err)
		}
		err = p.RunTx(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "insert into orders select unnest($1::bigint[]), 'x'", on[i])
			return err
		}, pool.TxOptions{})
		if err != nil {
			t.Error(err)
		}
	}
	_, err = db.Together(on[0][0], on[0][1], on[1][0])
	if !errors.Is(err, shard.ErrAcrossShards) || !strings.Contains(err.Error(), "key 0 is on shard 0 and key 2 on shard 1") {
		t.Error(err)
	}
	if _, err = db.Together(); err == nil {
		t.Error("no key, no error")
	}
}

func TestEachReturnsWhatItHas(t *testing.T) {
	all := shards(t)
	db, err := shard.New[int64](all, shard.Options{})
	if err != nil {
		t.Fatal(err)
	}
	all[1].Close()
	got := make([]int, 2)
	err = db.Each(t.Context(), 0, func(ctx context.Context, i int, p *pool.Pool) error {
		return p.QueryRow(ctx, "select 7").Scan(&got[i])
	})
	var partial *shard.PartialError
	if !errors.As(err, &partial) || len(partial.Failed) != 1 || !errors.Is(partial.Failed[1], pool.ErrClosed) || !errors.Is(err, pool.ErrClosed) {
		t.Errorf("%v", err)
	}
	if !slices.Equal(got, []int{7, 0}) {
		t.Errorf("%v", got)
	}
	if want := "shard: 1 of 2 have failed; 1: pool: closed"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}

	var now, most atomic.Int32
	err = db.Each(t.Context(), 1, func(context.Context, int, *pool.Pool) error {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		panic("the user's")
	})
	if !errors.As(err, &partial) || len(partial.Failed) != 2 || most.Load() != 1 {
		t.Errorf("%v, at most %d at once", err, most.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = db.Each(ctx, 1, func(context.Context, int, *pool.Pool) error { cancel(); return nil })
	if !errors.As(err, &partial) || partial.Failed[0] != nil || !errors.Is(partial.Failed[1], context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := db.Each(t.Context(), -1, nil); err == nil || !strings.Contains(err.Error(), "limit = -1") {
		t.Error(err)
	}
}

func TestBadTables(t *testing.T) {
	all := shards(t)
	for _, c := range []struct {
		shards []*pool.Pool
		o      shard.Options
		want   []string
	}{
		{nil, shard.Options{}, []string{"there are no shards"}},
		{[]*pool.Pool{all[0], nil, all[0]}, shard.Options{}, []string{"shards[1] is nil", "shards[2] is shards[0] again"}},
		{all, shard.Options{Buckets: []int{}}, []string{"has 0 buckets"}},
		{all, shard.Options{Buckets: make([]int, 1<<16+1)}, []string{"has 65537 buckets"}},
		{all, shard.Options{Buckets: []int{0, 2, -1}}, []string{"Buckets[1] = 2", "Buckets[2] = -1", "shard 1 no bucket"}},
	} {
		_, err := shard.New[int64](c.shards, c.o)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
		}
	}
	table := []int{0, 1}
	db, err := shard.New[int64](all, shard.Options{Buckets: table})
	if err != nil {
		t.Fatal(err)
	}
	before := db.For(5)
	table[0], table[1] = 1, 0 // a copy was taken
	if db.For(5) != before {
		t.Error("the table has changed")
	}
}

func BenchmarkFor(b *testing.B) {
	db, err := shard.New[int64](shards(b), shard.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for k := int64(0); b.Loop(); k++ {
		db.For(k)
	}
}
