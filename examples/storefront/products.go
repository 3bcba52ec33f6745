package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/pool"
)

// Product is what the shop sells.
type Product struct {
	ID          int64  `json:"id"`
	Category    string `json:"category"`
	Name        string `json:"name"`
	Description string `json:"description"`
	PriceCents  int32  `json:"price_cents"`
	Stock       int32  `json:"stock"`
}

const productColumns = `id, category, name, description, price_cents, stock`

// newProducts reads products from a replica through a cache that all processes share.
func newProducts(db *pool.Pool, remote cache.Remote) (*cache.Cache[int64, Product], error) {
	load := func(ctx context.Context, id int64) (Product, error) {
		rows, _ := db.ReadOnly().Query(ctx, `select `+productColumns+` from products where id = $1`, id)
		return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Product])
	}
	loadMany := func(ctx context.Context, ids []int64) (map[int64]Product, error) {
		rows, _ := db.ReadOnly().Query(ctx, `select `+productColumns+` from products where id = any($1)`, ids)
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Product])
		products := make(map[int64]Product, len(found))
		for _, p := range found {
			products[p.ID] = p
		}
		return products, err
	}
	return cache.New("products", load, cache.Options[int64, Product]{
		TTL:                  time.Minute,
		StaleWhileRevalidate: 10 * time.Minute,
		StaleIfError:         time.Hour,
		MaxEntries:           50_000,
		LoadMany:             loadMany,
		NotFound:             pool.IsNotFound,
		Remote:               remote,
	})
}

func (s *shop) getProduct(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	found, err := s.products.Lookup(r.Context(), id)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Status", cacheStatus(found))
	w.Header().Set("Cache-Control", "no-cache") // browsers may keep it and must ask: the ETag makes that cheap
	return replyWithETag(w, r, found.Value)
}

// cacheStatus says, as RFC 9211 has it, whether the answer came from the cache, and from which tier.
func cacheStatus[V any](found cache.Result[V]) string {
	var status string
	switch {
	case found.Tier == "origin" && found.Coalesced:
		status = "products; fwd=miss; collapsed; stored"
	case found.Tier == "origin":
		status = "products; fwd=miss; stored"
	default:
		status = "products; hit"
	}
	return fmt.Sprintf("%s; ttl=%d; detail=%s", status, int(found.TTL.Seconds()), found.Tier)
}

// listProducts asks a replica for the ids of the page and the cache for the products, which loads what it lacks at once.
func (s *shop) listProducts(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	after, err1 := number(query.Get("after"), 0, 0, 1<<62)
	limit, err2 := number(query.Get("limit"), 20, 1, 100)
	if err1 != nil || err2 != nil {
		return badRequest("after must be a product's id and limit a number from 1 to 100")
	}
	sql, args := `select id from products where id > $1 order by id limit $2`, []any{after, limit}
	if category := query.Get("category"); category != "" {
		sql, args = `select id from products where id > $1 and category = $3 order by id limit $2`, append(args, category)
	}
	rows, _ := s.db.ReadOnly().Query(r.Context(), sql, args...)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return err
	}
	found, err := s.products.GetMany(r.Context(), ids)
	if err != nil {
		return err
	}
	page := struct {
		Products []Product `json:"products"`
		After    int64     `json:"after,omitempty"` // of the next page, if there may be one
	}{Products: make([]Product, 0, len(ids))}
	for _, id := range ids {
		if p, ok := found[id]; ok {
			page.Products = append(page.Products, p)
		}
	}
	if len(ids) == int(limit) {
		page.After = ids[len(ids)-1]
	}
	return reply(w, http.StatusOK, page)
}

// patchProduct changes the primary, then invalidates everywhere. Whoever sent the request never sees the old product again;
// everybody else stops seeing it as soon as the invalidation has reached their process.
func (s *shop) patchProduct(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	var change struct {
		PriceCents *int32 `json:"price_cents"`
		Stock      *int32 `json:"stock"`
	}
	if err := readJSON(w, r, &change); err != nil {
		return err
	}
	if change.PriceCents == nil && change.Stock == nil ||
		change.PriceCents != nil && *change.PriceCents < 0 || change.Stock != nil && *change.Stock < 0 {
		return badRequest("the body must have price_cents or stock, each at least 0")
	}
	rows, _ := s.db.Query(r.Context(), `update products set price_cents = coalesce($2, price_cents), stock = coalesce($3, stock)
		where id = $1 returning `+productColumns, id, change.PriceCents, change.Stock)
	changed, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Product])
	if err == nil || errors.Is(err, pool.ErrOutcomeUnknown) { // then it may be new
		s.invalidate(r.Context(), id)
	}
	if err != nil {
		return err
	}
	s.prices.publish(r.Context(), changed)
	return reply(w, http.StatusOK, changed)
}

// invalidate drops products from the cache everywhere. An error says that Redis was not told yet: the cache goes on telling
// it, and meanwhile answers this client from the origin. The change itself is committed, so it is no failure of the request.
func (s *shop) invalidate(ctx context.Context, ids ...int64) {
	if err := s.products.Invalidate(ctx, ids...); err != nil {
		slog.WarnContext(ctx, "invalidation is late", "error", err)
	}
}

func pathID(r *http.Request) (int64, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id < 1 || strings.HasPrefix(r.PathValue("id"), "+") {
		return 0, notFound("There is no such product.")
	}
	return id, nil
}

// number reads a number from the query.
func number(text string, otherwise, least, most int64) (int64, error) {
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && (n < least || n > most) {
		err = strconv.ErrRange
	}
	return n, err
}
