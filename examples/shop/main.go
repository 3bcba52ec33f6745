// Shop is the whole of Fairlead in one file: two worker processes, a PostgreSQL pool that reads from replicas, a cache and
// sessions and limits on Redis. It needs REDIS_URL and DATABASE_URL, and a table:
//
//	create table products (id bigint primary key, name text not null, price_cents int not null check (price_cents > 0));
package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/cache/rediscache"
	"github.com/fairlead/fairlead/cluster"
	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/ratelimit"
	"github.com/fairlead/fairlead/ratelimit/redislimit"
	"github.com/fairlead/fairlead/scale"
	"github.com/fairlead/fairlead/scale/redisconn"
	"github.com/fairlead/fairlead/session"
	"github.com/fairlead/fairlead/session/redissession"
)

// Product is a row of the table.
type Product struct {
	ID         int64  `json:"id"`
	Name       string `json:"name"`
	PriceCents int    `json:"price_cents"`
}

// Visitor is what a session holds.
type Visitor struct {
	Visits int `json:"visits"`
}

func main() {
	cluster.Main(shop, cluster.Options{
		Workers: 2,
		Listen:  []cluster.Listen{{Name: "http", Addr: ":8080", ReusePort: true}},
		Admin:   cluster.Admin{Addr: "127.0.0.1:9090"}, // probes and metrics
	})
}

func shop(ctx context.Context) error { // in each worker; ctx ends when the drain begins
	svc, err := scale.New("shop", scale.Options{})
	if err != nil {
		return err
	}
	rdb, err := redisconn.Open(os.Getenv("REDIS_URL"))
	if err != nil {
		return err
	}
	db, err := pool.New(ctx, os.Getenv("DATABASE_URL"), pool.Options{MaxConns: 8})
	if err != nil {
		return err
	}
	load := func(ctx context.Context, id int64) (Product, error) {
		rows, _ := db.ReadOnly().Query(ctx, `select id, name, price_cents from products where id = $1`, id)
		return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Product])
	}
	products, err := cache.New("products", load, cache.Options[int64, Product]{
		TTL: time.Minute, StaleWhileRevalidate: 10 * time.Minute, NotFound: pool.IsNotFound, Remote: rediscache.New(rdb),
	})
	if err != nil {
		return err
	}
	sessions, err := session.New[Visitor](redissession.New(rdb, redissession.Options{}), session.Options{Idle: 30 * time.Minute})
	if err != nil {
		return err
	}
	perClient, err := ratelimit.New("client", ratelimit.PerSecond(200).Burst(400), ratelimit.Options{Store: redislimit.New(rdb)})
	if err != nil {
		return err
	}
	svc.Use(rdb, db, products, sessions, perClient) // probed, shown, closed in reverse

	mux := http.NewServeMux()
	mux.HandleFunc("GET /products/{id}", func(w http.ResponseWriter, r *http.Request) {
		p, err := products.Get(r.Context(), id(r))
		reply(w, p, err)
	})
	mux.HandleFunc("PATCH /products/{id}", func(w http.ResponseWriter, r *http.Request) {
		_, err := db.Exec(r.Context(), `update products set price_cents = $2 where id = $1`, id(r), price(r))
		if err == nil {
			err = products.Invalidate(r.Context(), id(r))
		}
		reply(w, nil, err) // whoever sent this never sees the old price again: not here, not in another process, not from a lagging replica
	})
	mux.HandleFunc("GET /me", func(w http.ResponseWriter, r *http.Request) {
		v, err := sessions.From(r.Context()).Update(r.Context(), func(v *Visitor) error { v.Visits++; return nil })
		reply(w, v, err)
	})

	return svc.Serve(ctx, mux,
		ratelimit.Middleware(perClient, ratelimit.ClientIP()),
		sessions.Middleware,
	)
}

func id(r *http.Request) int64 {
	n, _ := strconv.ParseInt(r.PathValue("id"), 10, 64) // no product has id 0
	return n
}

func price(r *http.Request) int {
	n, _ := strconv.Atoi(r.FormValue("price_cents"))
	return n
}

func reply(w http.ResponseWriter, v any, err error) {
	switch {
	case pool.IsNotFound(err):
		http.Error(w, "no such product", http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v) // the client may have gone
	}
}
