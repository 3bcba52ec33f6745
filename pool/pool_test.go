package pool_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/causal"
)

func TestSmoke(t *testing.T) {
	pg := shared(t)
	db := open(t, pg, database(t, pg), pool.Options{MaxConns: 4})
	exec(t, db, "create table kv (id bigint primary key, v text)")
	ctx, _ := causal.Begin(t.Context())
	if _, err := db.Exec(ctx, "insert into kv values ($1, $2)", 1, "a"); err != nil {
		t.Fatal(err)
	}
	type kv struct {
		ID int64
		V  string
	}
	rows, _ := db.ReadOnly().Query(ctx, "select id, v from kv")
	got, err := pgx.CollectRows(rows, pgx.RowToStructByName[kv])
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	token, err := causal.Token(ctx)
	t.Log(token, err)
	t.Logf("%+v", db.Stats())
}
