package pool_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/causal"
)

// exampleDB is a pool on a primary and two replicas. In a program:
//
//	db, err := pool.New(ctx, os.Getenv("DATABASE_URL"), pool.Options{MaxConns: 8})
func exampleDB(ctx context.Context) *pool.Pool {
	pg, err := servers.Get()
	if err != nil {
		log.Fatal(err)
	}
	name, err := pg.CreateDatabase(ctx)
	if err != nil {
		log.Fatal(err)
	}
	db, err := pool.New(ctx, pg.Primary.URL(name), pool.Options{
		MaxConns: 8,
		Replicas: []string{pg.Replicas[0].URL(name), pg.Replicas[1].URL(name)},
		Logger:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	return db
}

func Example() {
	ctx, _ := causal.Begin(context.Background()) // the session's middleware does this for each request
	db := exampleDB(ctx)
	defer db.Close()

	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error { // on the primary
		if _, err := tx.Exec(ctx, `create table products (id bigint primary key, name text)`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `insert into products values (1, 'fairlead'), (2, 'cleat')`)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	rows, _ := db.ReadOnly().Query(ctx, `select id, name from products order by id`) // on a replica that has them, or the primary
	products, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		ID   int64
		Name string
	}])
	fmt.Println(products, err)
	// Output: [{1 fairlead} {2 cleat}] <nil>
}

func ExamplePool_RunTx() {
	ctx := context.Background()
	db := exampleDB(ctx)
	defer db.Close()
	if _, err := db.Exec(ctx, `create table stock (left_over int); insert into stock values (3)`); err != nil {
		log.Fatal(err)
	}

	var left int
	err := db.RunTx(ctx, func(ctx context.Context, tx pgx.Tx) error { // again, if another transaction got in its way
		return tx.QueryRow(ctx, `update stock set left_over = left_over - 1 returning left_over`).Scan(&left)
	}, pool.TxOptions{IsoLevel: pgx.Serializable})
	fmt.Println(left, err)
	// Output: 2 <nil>
}

// A position travels with a job, so that whoever runs it, wherever, sees what its sender wrote.
func ExampleView() {
	here, _ := causal.Begin(context.Background())
	db := exampleDB(here)
	defer db.Close()
	if _, err := db.Exec(here, `create table orders (id bigint); insert into orders values (42)`); err != nil {
		log.Fatal(err)
	}
	token, err := causal.Token(here)
	if err != nil {
		log.Fatal(err)
	}

	there, err := causal.AtLeast(context.Background(), token)
	if err != nil {
		log.Fatal(err)
	}
	var id int64
	err = db.ReadOnly().QueryRow(there, `select id from orders`).Scan(&id)
	fmt.Println(id, err)
	// Output: 42 <nil>
}
