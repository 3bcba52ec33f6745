package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/session"
)

// Order is what a user has bought.
type Order struct {
	ID         int64       `json:"id"`
	CreatedAt  time.Time   `json:"created_at"`
	TotalCents int64       `json:"total_cents"`
	Items      []OrderItem `json:"items"`
}

// OrderItem is one product of an order, at the price of the day.
type OrderItem struct {
	ProductID  int64 `json:"product_id"`
	Qty        int   `json:"qty"`
	PriceCents int32 `json:"price_cents"`
}

// placeOrder turns the cart into an order. With an Idempotency-Key it does so once, however often the request is sent: a
// repetition, also one that runs at the same time, gets the order that the first one made.
func (s *shop) placeOrder(w http.ResponseWriter, r *http.Request) error {
	ctx, current := r.Context(), s.sessions.From(r.Context())
	user, err := s.user(r)
	if err != nil {
		return err
	}
	visitor, err := current.Get(ctx)
	if err != nil {
		return err
	}
	key := r.Header.Get("Idempotency-Key")
	if len(key) > 255 {
		return badRequest("Idempotency-Key must have at most 255 bytes")
	}
	if key == "" {
		key = rand.Text()
	}

	var order Order
	var repeated bool
	err = s.db.RunTx(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
		order, repeated, err = insertOrder(ctx, tx, user, key, visitor.Cart)
		return err
	}, pool.TxOptions{Idempotent: true}) // a COMMIT whose answer was lost is sent again: the key makes that safe
	if err != nil {
		return err
	}

	ids := make([]int64, 0, len(order.Items))
	for _, item := range order.Items {
		ids = append(ids, item.ProductID)
	}
	s.invalidate(ctx, ids...) // their stock has changed
	// What was ordered leaves the cart; what was added meanwhile stays.
	_, err = current.Update(ctx, func(v *Visitor) error {
		if order.ID <= v.LastOrder {
			return nil
		}
		v.LastOrder = order.ID
		for _, item := range order.Items {
			if left := v.Cart[item.ProductID] - item.Qty; left > 0 {
				v.Cart[item.ProductID] = left
			} else {
				delete(v.Cart, item.ProductID) // an empty cart, which another request may have left, is a nil map
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, session.ErrEnded) { // logged out meanwhile: the order stands, the cart is gone
		return err
	}
	if repeated {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	return reply(w, http.StatusCreated, order)
}

// insertOrder stores the order and takes its products out of stock, or finds the order that was stored under the key before.
func insertOrder(ctx context.Context, tx pgx.Tx, user, key string, cart map[int64]int) (Order, bool, error) {
	// The unique key decides: of two transactions with the same one the second waits here until the first has ended.
	var order Order
	err := tx.QueryRow(ctx, `insert into orders (customer, idempotency_key, total_cents) values ($1, $2, 0)
		on conflict do nothing returning id, created_at`, user, key).Scan(&order.ID, &order.CreatedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		rows, _ := tx.Query(ctx, selectOrders+` where customer = $1 and idempotency_key = $2`, user, key)
		order, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Order])
		return order, true, err
	}
	if err != nil {
		return Order{}, false, err
	}
	if len(cart) == 0 {
		return Order{}, false, conflict("The cart is empty.")
	}

	// Always in the order of the ids, so that two orders cannot wait for each other.
	ids := slices.Sorted(maps.Keys(cart))
	rows, _ := tx.Query(ctx, `select id, price_cents, stock from products where id = any($1) order by id for no key update`, ids)
	type line struct {
		ID         int64
		PriceCents int32
		Stock      int32
	}
	lines, err := pgx.CollectRows(rows, pgx.RowToStructByPos[line])
	if err != nil {
		return Order{}, false, err
	}
	if len(lines) < len(ids) {
		return Order{}, false, conflict("A product of the cart is not sold any more.")
	}
	qtys, prices := make([]int32, 0, len(lines)), make([]int32, 0, len(lines))
	for _, l := range lines {
		qty := cart[l.ID]
		if int(l.Stock) < qty {
			return Order{}, false, conflict(fmt.Sprintf("Of product %d there are %d left and the cart has %d.", l.ID, l.Stock, qty))
		}
		qtys, prices = append(qtys, int32(qty)), append(prices, l.PriceCents)
		order.Items = append(order.Items, OrderItem{l.ID, qty, l.PriceCents})
		order.TotalCents += int64(l.PriceCents) * int64(qty)
	}
	batch := &pgx.Batch{}
	batch.Queue(`update products p set stock = stock - i.qty from unnest($1::bigint[], $2::int[]) as i (id, qty) where p.id = i.id`, ids, qtys)
	batch.Queue(`insert into order_items select $1, * from unnest($2::bigint[], $3::int[], $4::int[])`, order.ID, ids, qtys, prices)
	batch.Queue(`update orders set total_cents = $2 where id = $1`, order.ID, order.TotalCents)
	return order, false, tx.SendBatch(ctx, batch).Close()
}

const selectOrders = `select id, created_at, total_cents, (
	select coalesce(json_agg(json_build_object('product_id', product_id, 'qty', qty, 'price_cents', price_cents) order by product_id), '[]')
	from order_items where order_id = orders.id) from orders`

// listOrders reads from a replica, and still has the order that this client has just placed.
func (s *shop) listOrders(w http.ResponseWriter, r *http.Request) error {
	user, err := s.user(r)
	if err != nil {
		return err
	}
	before, err1 := number(r.URL.Query().Get("before"), 1<<62, 1, 1<<62)
	limit, err2 := number(r.URL.Query().Get("limit"), 20, 1, 100)
	if err1 != nil || err2 != nil {
		return badRequest("before must be an order's id and limit a number from 1 to 100")
	}
	rows, _ := s.db.ReadOnly().Query(r.Context(), selectOrders+` where customer = $1 and id < $2 order by id desc limit $3`, user, before, limit)
	orders, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Order])
	if err != nil {
		return err
	}
	page := struct {
		Orders []Order `json:"orders"`
		Before int64   `json:"before,omitempty"` // of the next page, if there may be one
	}{Orders: append([]Order{}, orders...)}
	if len(orders) == int(limit) {
		page.Before = orders[len(orders)-1].ID
	}
	return reply(w, http.StatusOK, page)
}
