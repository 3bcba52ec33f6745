package pool_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/causal"
)

func BenchmarkQueryRow(b *testing.B) {
	pg := shared(b)
	name := database(b, pg)
	db := open(b, pg, name, pool.Options{MaxConns: 4})
	exec(b, db, "create table kv (id bigint primary key, v text)")
	exec(b, db, "insert into kv select i, 'value' from generate_series(1, 1000) i")
	onReplicas(b, db, 2)
	plain, err := pgxpool.New(b.Context(), pg.Primary.URL(name))
	if err != nil {
		b.Fatal(err)
	}
	defer plain.Close()
	scoped, _ := causal.Begin(b.Context())
	for _, c := range []struct {
		name string
		ctx  context.Context
		q    querier
	}{
		{"pgxpool", b.Context(), plain},
		{"pool", b.Context(), db},
		{"pool, scope", scoped, db},
		{"view", b.Context(), db.ReadOnly()},
		{"view, scope", scoped, db.ReadOnly()},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var v string
				if err := c.q.QueryRow(c.ctx, "select v from kv where id = $1", 7).Scan(&v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkWrite(b *testing.B) {
	pg := shared(b)
	name := database(b, pg)
	db := open(b, pg, name, pool.Options{MaxConns: 4})
	exec(b, db, "create table kv (id bigint primary key, n bigint)")
	exec(b, db, "insert into kv values (1, 0)")
	plain, err := pgxpool.New(b.Context(), pg.Primary.URL(name))
	if err != nil {
		b.Fatal(err)
	}
	defer plain.Close()
	const write = "update kv set n = n + 1 where id = $1"
	b.Run("pgxpool", func(b *testing.B) {
		for b.Loop() {
			if _, err := plain.Exec(b.Context(), write, 1); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("pool", func(b *testing.B) {
		for b.Loop() {
			if _, err := db.Exec(b.Context(), write, 1); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("pool, position known", func(b *testing.B) {
		for b.Loop() {
			ctx, scope := causal.Begin(b.Context())
			if _, err := db.Exec(ctx, write, 1); err != nil {
				b.Fatal(err)
			}
			scope.Written(ctx)
		}
	})
}
