package shard_test

import (
	"context"
	"fmt"
	"log"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/shard"
)

// Two systems, and a table of eight buckets that all processes share.
func ExampleNew() {
	ctx := context.Background()
	var shards []*pool.Pool
	for _, url := range exampleURLs() {
		p, err := pool.New(ctx, url, pool.Options{})
		if err != nil {
			log.Fatal(err)
		}
		defer p.Close()
		shards = append(shards, p)
	}
	db, err := shard.New[int64](shards, shard.Options{Buckets: []int{0, 0, 0, 0, 1, 1, 1, 1}})
	if err != nil {
		log.Fatal(err)
	}

	err = db.Each(ctx, 0, func(ctx context.Context, _ int, p *pool.Pool) error {
		_, err := p.Exec(ctx, "create table if not exists orders (customer bigint, item text)")
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	const customer = 42
	err = pgx.BeginFunc(ctx, db.For(customer), func(tx pgx.Tx) error { // everything of a customer is there
		_, err := tx.Exec(ctx, "insert into orders values ($1, 'ball'), ($1, 'bat')", customer)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	counts := make([]int, len(shards))
	err = db.Each(ctx, 2, func(ctx context.Context, i int, p *pool.Pool) error {
		return p.ReadOnly().QueryRow(ctx, "select count(*) from orders").Scan(&counts[i])
	})
	fmt.Println("bucket", db.Bucket(customer), "orders", counts[0]+counts[1], err)
	// Output: bucket 4 orders 2 <nil>
}

func exampleURLs() (urls []string) {
	for _, s := range []*testenv.Shared[*testenv.Postgres]{one, two} {
		pg, err := s.Get()
		if err != nil {
			log.Fatal(err)
		}
		urls = append(urls, pg.Primary.URL("postgres"))
	}
	return urls
}
