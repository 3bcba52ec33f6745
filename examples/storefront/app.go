package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/cache/rediscache"
	"github.com/fairlead/fairlead/cluster"
	"github.com/fairlead/fairlead/examples/storefront/settings"
	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/ratelimit"
	"github.com/fairlead/fairlead/ratelimit/redislimit"
	"github.com/fairlead/fairlead/scale"
	"github.com/fairlead/fairlead/scale/redisconn"
	"github.com/fairlead/fairlead/session"
	"github.com/fairlead/fairlead/session/redissession"
)

// shop is the application in one worker.
type shop struct {
	db       *pool.Pool
	products *cache.Cache[int64, Product]
	sessions *session.Manager[Visitor]
	prices   *prices
	page     asset
	assets   map[string]asset // of the page
}

type app struct{ settings.Settings }

// run is the life of a worker: it makes the parts, gives them to the service and serves until ctx ends.
func (c app) run(ctx context.Context) error {
	worker := cluster.From(ctx)
	svc, err := scale.New("storefront", scale.Options{
		Header: http.Header{"Worker": {fmt.Sprintf("%d/%d/%d", worker.Slot(), worker.Generation(), os.Getpid())}},
	})
	if err != nil {
		return err
	}
	rdb, err := redisconn.Open(c.RedisURL)
	if err != nil {
		return err
	}
	svc.Use(rdb)
	db, err := pool.New(ctx, c.DatabaseURL, pool.Options{Replicas: c.ReplicaURLs, MaxConns: 8})
	if err != nil {
		return err
	}
	svc.Use(db)
	products, err := newProducts(db, rediscache.New(rdb))
	if err != nil {
		return err
	}
	svc.Use(products)
	sessions, err := session.New[Visitor](redissession.New(rdb, redissession.Options{}), session.Options{
		Idle:     30 * time.Minute,
		Insecure: true, // the demo speaks plain HTTP; behind TLS leave this out
	})
	if err != nil {
		return err
	}
	svc.Use(sessions)

	sameSite := http.NewCrossOriginProtection()
	sameSite.SetDenyHandler(handler(func(http.ResponseWriter, *http.Request) error {
		return &problem{http.StatusForbidden, "Another site's page sent this."}
	}))
	// The limit comes first, so that a flood costs as little as possible. Then requests that another site's page makes a
	// browser send are refused, then the session is found.
	middleware := []func(http.Handler) http.Handler{sameSite.Handler, sessions.Middleware}
	if c.Rate.On {
		perClient, err := ratelimit.New("client", c.Rate.Limit, ratelimit.Options{Store: redislimit.New(rdb), Processes: max(c.Workers, 1)})
		if err != nil {
			return err
		}
		svc.Use(perClient)
		middleware = append([]func(http.Handler) http.Handler{ratelimit.Middleware(perClient, ratelimit.ClientIP())}, middleware...)
	}

	prices := newPrices(rdb.Redis())
	svc.Use(prices)
	assets, page, err := newPage()
	if err != nil {
		return err
	}

	s := &shop{db, products, sessions, prices, page, assets}
	if worker.Slot() == 0 && worker.Generation() <= 1 {
		slog.Info("storefront", "url", "http://"+c.Addr, "admin", "http://"+c.AdminAddr, "control", c.Control)
	}
	return svc.Serve(ctx, s.routes(), middleware...)
}

func (s *shop) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]handler{
		"GET /products":           s.listProducts,
		"GET /products/{id}":      s.getProduct,
		"PATCH /products/{id}":    s.patchProduct,
		"POST /login":             s.login,
		"GET /me":                 s.me,
		"POST /logout":            s.logout,
		"POST /logout/everywhere": s.logoutEverywhere,
		"GET /cart":               s.getCart,
		"POST /cart/items":        s.addToCart,
		"DELETE /cart":            s.emptyCart,
		"GET /orders":             s.listOrders,
		"POST /orders":            s.placeOrder,
		"GET /events":             s.events,
		"GET /{$}":                s.getPage,
		"GET /assets/{name}":      s.getAsset,
	} {
		mux.Handle(pattern, h)
	}
	return withProblems(mux)
}
