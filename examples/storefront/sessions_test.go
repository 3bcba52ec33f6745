package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
)

func testCart(t *testing.T, s *storefront) {
	for round := range 10 {
		c := s.login(t, fmt.Sprintf("busy-%d", round))
		var wg sync.WaitGroup
		var added, unknown atomic.Int64
		var workers set
		for range 100 {
			d := c.copy()
			wg.Go(func() {
				a, err := d.try("POST", "/cart/items", `{"product_id":7,"qty":1}`)
				switch {
				case err == nil && a.status == http.StatusOK:
					added.Add(1)
					workers.add(a.worker())
				case err == nil && a.status == http.StatusServiceUnavailable:
					unknown.Add(1)
				default:
					t.Errorf("POST /cart/items: %d %s, %v", a.status, a.body, err)
				}
			})
		}
		wg.Wait()
		var cart struct{ Items []cartLine }
		c.do(http.StatusOK, "GET", "/cart", "").decode(t, &cart)
		if len(cart.Items) != 1 || int64(cart.Items[0].Qty) < added.Load() || int64(cart.Items[0].Qty) > added.Load()+unknown.Load() {
			t.Errorf("the cart has %+v; %d were added, and of %d it is not known", cart.Items, added.Load(), unknown.Load())
		}
		if unknown.Load() == 0 && workers.count() == 2 {
			return // 100 requests, exactly 100 in the cart
		}
		t.Logf("%d requests were answered 503, %d workers took part; once more", unknown.Load(), workers.count())
	}
	t.Log("the machine was too busy for 100 at once over two workers in any of 10 rounds")
}

// Orders are in flight, each past the reading of its session and held by a lock in the database, when their user logs out.
func testLogout(t *testing.T, s *storefront) {
	ctx := t.Context()
	connect := func() *pgx.Conn {
		conn, err := pgx.Connect(ctx, s.pg.Primary.URL(s.db))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(context.WithoutCancel(ctx)) })
		return conn
	}
	conn, watch := connect(), connect() // in a transaction pg_stat_activity stands still
	for _, everywhere := range []bool{false, true} {
		c := s.login(t, fmt.Sprintf("leaver-%v", everywhere))
		c.do(http.StatusOK, "POST", "/cart/items", `{"product_id":9,"qty":1}`)

		if _, err := conn.Exec(ctx, `begin; select from products where id = 9 for update`); err != nil {
			t.Fatal(err)
		}
		const inFlight = 3
		var wg sync.WaitGroup
		var answers [inFlight]answer
		var out atomic.Bool
		flying := make([]*client, inFlight)
		for i := range inFlight {
			flying[i] = c.copy()
			wg.Go(func() {
				var err error
				for err == nil && (answers[i].status == 0 || answers[i].status == http.StatusServiceUnavailable && !out.Load()) {
					answers[i], err = flying[i].try("POST", "/orders", "")
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		eventually(t, "the orders wait for the lock", func() error {
			var n int
			err := watch.QueryRow(ctx, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`).Scan(&n)
			if err == nil && n != inFlight {
				err = fmt.Errorf("%d wait", n)
			}
			return err
		})
		leaver, path := c.copy(), "/logout"
		if everywhere {
			path = "/logout/everywhere"
		}
		leaver.do(http.StatusNoContent, "POST", path, "")
		out.Store(true)
		if _, err := conn.Exec(ctx, `rollback`); err != nil {
			t.Fatal(err)
		}
		wg.Wait()

		for i, a := range answers {
			if a.status != http.StatusCreated && a.status != http.StatusServiceUnavailable {
				t.Errorf("an order in flight: %d %s", a.status, a.body)
			}
			if flying[i].cookies["session"] != c.cookies["session"] {
				t.Errorf("an order in flight got a session cookie")
			}
		}
		for range 10 { // both workers
			c.copy().do(http.StatusUnauthorized, "GET", "/orders", "")
		}
		var me struct {
			User   string
			Visits int
		}
		c.copy().do(http.StatusOK, "GET", "/me", "").decode(t, &me)
		if me.User != "" || me.Visits != 1 {
			t.Errorf("with the old cookie: %+v, want a new visitor", me)
		}
	}
}

func testOrderOnce(t *testing.T, s *storefront) {
	c := s.login(t, "eager")
	stock := func() int32 {
		var p Product
		c.do(http.StatusOK, "GET", "/products/11", "").decode(t, &p)
		return p.Stock
	}
	c.do(http.StatusOK, "PATCH", "/products/11", `{"stock":10}`)
	for c.repeats = -1; c.repeats != 0; { // what is repeated may have been added twice
		c.repeats = 0
		c.do(http.StatusNoContent, "DELETE", "/cart", "")
		c.do(http.StatusOK, "POST", "/cart/items", `{"product_id":11,"qty":4}`)
	}
	c.headers = map[string]string{"Idempotency-Key": "one"}
	ids := make(chan int64, 20)
	var wg sync.WaitGroup
	for range cap(ids) {
		d := c.copy()
		wg.Go(func() {
			var order Order
			d.do(http.StatusCreated, "POST", "/orders", "").decode(t, &order)
			ids <- order.ID
		})
	}
	wg.Wait()
	close(ids)
	first := <-ids
	for id := range ids {
		if id != first {
			t.Errorf("one key made orders %d and %d", first, id)
		}
	}
	c.headers = nil
	again := c.do(http.StatusConflict, "POST", "/orders", "") // the cart is empty
	if !strings.Contains(string(again.body), "empty") {
		t.Errorf("after the order: %s", again.body)
	}
	c.cookies["wrote"] = "1" // the copies got it
	var list struct{ Orders []Order }
	c.do(http.StatusOK, "GET", "/orders", "").decode(t, &list)
	if len(list.Orders) != 1 || stock() != 6 {
		t.Errorf("%d orders, %d in stock; want 1 and 6", len(list.Orders), stock())
	}

	c.do(http.StatusOK, "POST", "/cart/items", `{"product_id":11,"qty":7}`)
	short := c.do(http.StatusConflict, "POST", "/orders", "")
	if !strings.Contains(string(short.body), "6 left") || stock() != 6 {
		t.Errorf("an order of 7 of 6: %s, then %d in stock", short.body, stock())
	}
}

// The cart that an order was made of may be gone when the order is taken out of it.
func testOrderRepeated(t *testing.T, s *storefront) {
	c := s.login(t, "doubtful")
	c.do(http.StatusOK, "POST", "/cart/items", `{"product_id":12,"qty":2}`)
	order := func(c *client) Order {
		t.Helper()
		var o Order
		c.headers = map[string]string{"Idempotency-Key": "same"}
		c.do(http.StatusCreated, "POST", "/orders", "").decode(t, &o)
		c.headers = nil
		return o
	}
	first := order(c)
	c.do(http.StatusNoContent, "DELETE", "/cart", "")
	if again := order(c); again.ID != first.ID {
		t.Errorf("repeated with an empty cart: order %d, want %d", again.ID, first.ID)
	}
	c.do(http.StatusNoContent, "POST", "/logout", "")
	later := s.login(t, "doubtful") // this session knows neither the cart nor the order
	if again := order(later); again.ID != first.ID || len(again.Items) != len(first.Items) {
		t.Errorf("repeated in a new session: order %+v, want %+v", again, first)
	}

	// A double click without a key: both orders are made of the same cart, and the second finds it empty.
	ctx := t.Context()
	connect := func() *pgx.Conn {
		conn, err := pgx.Connect(ctx, s.pg.Primary.URL(s.db))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(context.WithoutCancel(ctx)) })
		return conn
	}
	conn, watch := connect(), connect()
	later.do(http.StatusOK, "POST", "/cart/items", `{"product_id":12,"qty":1}`)
	if _, err := conn.Exec(ctx, `begin; select from products where id = 12 for update`); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var unlocked atomic.Bool
	for range 2 {
		d := later.copy()
		wg.Go(func() {
			a, err := d.try("POST", "/orders", "")
			for err == nil && a.status == http.StatusServiceUnavailable && !unlocked.Load() {
				a, err = d.try("POST", "/orders", "")
			}
			if err != nil || a.status != http.StatusCreated && a.status != http.StatusServiceUnavailable {
				t.Errorf("a double click: %d %s, %v", a.status, a.body, err)
			}
		})
	}
	eventually(t, "both orders wait for the lock", func() error {
		var n int
		err := watch.QueryRow(ctx, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`).Scan(&n)
		if err == nil && n != 2 {
			err = fmt.Errorf("%d wait", n)
		}
		return err
	})
	unlocked.Store(true)
	if _, err := conn.Exec(ctx, `rollback`); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
}
