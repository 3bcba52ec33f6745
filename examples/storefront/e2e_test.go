package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead/fairlead/internal/testenv"
)

// What Fairlead promises, shown from outside: two workers, a primary, a replica, a replica that is half a second late, a bus
// that is 0.3 s late, and clients that speak HTTP.
func TestStorefront(t *testing.T) {
	s := start(t)
	t.Run("routes", func(t *testing.T) { testRoutes(t, s) })
	t.Run("own writes are read", func(t *testing.T) { testOwnWrites(t, s) })
	t.Run("replicas serve the reads", func(t *testing.T) { testReplicas(t, s) })
	t.Run("concurrent updates of a session", func(t *testing.T) { testCart(t, s) })
	t.Run("logout wins over a request in flight", func(t *testing.T) { testLogout(t, s) })
	t.Run("an order happens once", func(t *testing.T) { testOrderOnce(t, s) })
	t.Run("one query for many first requests", func(t *testing.T) { testOneQuery(t, s) })
	t.Run("a reload fails no request", func(t *testing.T) { testReload(t, s) })
	t.Run("a killed worker", func(t *testing.T) { testKill(t, s) })
	s.end(t)
}

// pairs counts write-then-read pairs and what came out of them.
type pairs struct{ total, elsewhere, staleProducts, staleOrders atomic.Int64 }

// run writes and reads what it wrote, n times: one product's price and, if the client is logged in, each fifth time an order.
func (p *pairs) run(c *client, product, n int, orders bool) {
	path := fmt.Sprintf("/products/%d", product)
	for i := range n {
		var wrote, read answer
		if orders && i%5 == 4 {
			c.do(http.StatusOK, "POST", "/cart/items", fmt.Sprintf(`{"product_id":%d,"qty":1}`, product))
			c.headers = map[string]string{"Idempotency-Key": strconv.Itoa(i)}
			wrote = c.do(http.StatusCreated, "POST", "/orders", "")
			c.headers = nil
			read = c.do(http.StatusOK, "GET", "/orders?limit=1", "")
			var placed Order
			var list struct{ Orders []Order }
			wrote.decode(c.t, &placed)
			read.decode(c.t, &list)
			if len(list.Orders) == 0 || list.Orders[0].ID != placed.ID {
				p.staleOrders.Add(1)
			}
		} else {
			price := int32(1000 + i)
			wrote = c.do(http.StatusOK, "PATCH", path, fmt.Sprintf(`{"price_cents":%d}`, price))
			read = c.do(http.StatusOK, "GET", path, "")
			var got Product
			read.decode(c.t, &got)
			if got.PriceCents != price {
				p.staleProducts.Add(1)
			}
		}
		p.total.Add(1)
		if wrote.worker() != read.worker() {
			p.elsewhere.Add(1)
		}
	}
}

func testOwnWrites(t *testing.T, s *storefront) {
	var kept pairs
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c := s.client(t) // two clients stay without a session: their token is in the cookie itself
			if i > 1 {
				c = s.login(t, fmt.Sprintf("user-%d", i))
			}
			kept.run(c, 100+i, 250, i > 1)
		})
	}
	wg.Wait()
	t.Logf("%d pairs, %d of them over two workers; stale: %d products, %d orders",
		kept.total.Load(), kept.elsewhere.Load(), kept.staleProducts.Load(), kept.staleOrders.Load())
	if kept.total.Load() != 2000 || kept.elsewhere.Load() == 0 {
		t.Errorf("want 2000 pairs, some of them over two workers")
	}
	if n := kept.staleProducts.Load() + kept.staleOrders.Load(); n != 0 {
		t.Errorf("%d reads did not see the client's own write", n)
	}
	if s.bus.late() == 0 {
		t.Error("the bus was not delayed: the test shows nothing")
	}

	// The control: without the mark of its writes a client has no such guarantee.
	var dropped pairs
	for i := range 4 {
		wg.Go(func() {
			c := s.login(t, fmt.Sprintf("forgetful-%d", i))
			c.drop = "wrote"
			dropped.run(c, 110+i, 100, true)
		})
	}
	wg.Wait()
	t.Logf("without the flag cookie: %d pairs; stale: %d products, %d orders",
		dropped.total.Load(), dropped.staleProducts.Load(), dropped.staleOrders.Load())
	if dropped.staleProducts.Load() == 0 || dropped.staleOrders.Load() == 0 {
		t.Error("no stale reads of each kind without the flag cookie: the test shows nothing")
	}
}

func testReplicas(t *testing.T, s *storefront) {
	const products, pages, orders = "%from products where id = %", "%select id from products where id >%", "%from orders where customer = %order by%"
	before := func(like string) [2]int64 {
		return [2]int64{s.queries(t, like, s.pg.Primary), s.queries(t, like, s.pg.Replicas...)}
	}
	was := map[string][2]int64{}
	for _, like := range []string{products, pages, orders} {
		was[like] = before(like)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			c := s.login(t, fmt.Sprintf("reader-%d", i))
			for n := range 100 {
				c.do(http.StatusOK, "GET", fmt.Sprintf("/products/%d", 1000+i*100+n), "")
				c.do(http.StatusOK, "GET", fmt.Sprintf("/products?after=%d&limit=5", 1500+n*10), "")
				c.do(http.StatusOK, "GET", "/orders", "")
			}
		})
	}
	wg.Wait()
	var primary, replicas int64
	for like, w := range was {
		now := before(like)
		t.Logf("%s: primary %d, replicas %d", like, now[0]-w[0], now[1]-w[1])
		primary += now[0] - w[0]
		replicas += now[1] - w[1]
	}
	if replicas+primary < 1000 || replicas <= primary {
		t.Errorf("%d reads on replicas and %d on the primary; want most on replicas", replicas, primary)
	}
}

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
	c.do(http.StatusOK, "POST", "/cart/items", `{"product_id":11,"qty":4}`)
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

// The first requests of a product, from 500 clients at once, make one query: in each process because they share a load,
// over the processes because of the lease in Redis. Where Redis takes too long for a process, the machine being busy with
// other things, that process loads by itself: such a round shows only the former.
func testOneQuery(t *testing.T, s *storefront) {
	nodes := append([]*testenv.Node{s.pg.Primary}, s.pg.Replicas...)
	for _, p := range s.proxies {
		p.SetDelay(0, 200*time.Millisecond)
		defer p.SetDelay(0, 0)
	}
	for round := range 10 {
		path := fmt.Sprintf("/products/%d", 2900+round)
		var ready, done sync.WaitGroup
		var workers set
		gate := make(chan struct{})
		for range 500 {
			ready.Add(1)
			done.Go(func() {
				transport := &http.Transport{}
				defer transport.CloseIdleConnections()
				client := &http.Client{Transport: transport, Timeout: time.Minute}
				get := func(path string) {
					resp, err := client.Get(s.base + path)
					if err != nil {
						t.Error(err)
						return
					}
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if err != nil || resp.StatusCode != http.StatusOK {
						t.Errorf("GET %s: %s, %v", path, resp.Status, err)
					}
					workers.add(resp.Header.Get("Worker"))
				}
				get("/products/1") // connects
				ready.Done()
				<-gate
				get(path)
			})
		}
		ready.Wait()
		queries := s.queries(t, "%from products where id = $1%", nodes...)
		failures := s.metric(t, "fairlead_cache_remote_errors_total")
		close(gate)
		done.Wait()
		queries = s.queries(t, "%from products where id = $1%", nodes...) - queries
		failures = s.metric(t, "fairlead_cache_remote_errors_total") - failures
		if queries == 1 && workers.count() == 2 {
			return
		}
		if queries != 1 && (queries != 2 || failures == 0) {
			t.Errorf("500 requests made %d queries, want 1 (%v calls of Redis failed)", queries, failures)
			return
		}
		t.Logf("%v calls of Redis failed, %d queries, %d workers took part; once more", failures, queries, workers.count())
	}
	t.Log("the machine was too busy for 500 at once over two workers in any of 10 rounds")
}

// set counts what was added to it.
type set struct {
	mu  sync.Mutex
	has map[string]bool
}

func (s *set) add(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.has == nil {
		s.has = map[string]bool{}
	}
	s.has[what] = true
}

func (s *set) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.has)
}

type workerRow struct {
	Slot, Generation, PID int
	State                 string
}

func (s *storefront) workers(t *testing.T) []workerRow {
	t.Helper()
	var list struct{ Workers []workerRow }
	s.controlCall(t, "GET", "/v1/workers", &list)
	return list.Workers
}

func testReload(t *testing.T, s *storefront) {
	before := s.workers(t)
	stop := s.load(t, 8)
	for range 2 {
		s.reload(t)
	}
	sent, failed := stop()
	t.Logf("%d requests over two reloads", sent)
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed: %s", len(failed), sent, failed[0])
	}
	for _, w := range s.workers(t) {
		for _, old := range before {
			if w.PID == old.PID {
				t.Errorf("worker %+v is still there", w)
			}
		}
	}
}

// A kill costs at most the requests that the worker had accepted: no more than there are clients, who have one each.
func testKill(t *testing.T, s *storefront) {
	const clients = 8
	stop := s.load(t, clients)
	a := s.client(t).do(http.StatusOK, "GET", "/products/1", "")
	worker := strings.Split(a.worker(), "/")
	pid, err := strconv.Atoi(worker[2])
	if err != nil {
		t.Fatal(err)
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the worker is back", func() error {
		for _, w := range s.workers(t) {
			if strconv.Itoa(w.Slot) == worker[0] && w.PID != pid && w.State == "ready" {
				return nil
			}
		}
		return errors.New("not ready")
	})
	eventually(t, "it answers", func() error {
		a, err := s.client(t).try("GET", "/products/1", "")
		if err == nil && (!strings.HasPrefix(a.worker(), worker[0]+"/") || strings.HasSuffix(a.worker(), "/"+worker[2])) {
			err = errors.New("another worker did")
		}
		return err
	})
	sent, failed := stop()
	t.Logf("%d requests around the kill, %d failed", sent, len(failed))
	if len(failed) > clients {
		t.Errorf("%d of %d requests failed, want at most %d: %s", len(failed), sent, clients, failed[0])
	}
}

func TestThreeWrongValues(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "STOREFRONT_TEST=1", "DATABASE_URL=postgres://127.0.0.1/shop", "REDIS_URL=redis://127.0.0.1",
		"WORKERS=lots", "RATE=fast", "IDLE_GRACE=2")
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 2 {
		t.Errorf("%v, want exit status 2", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 4 {
		t.Fatalf("want a heading and three errors, got:\n%s", out)
	}
	for i, want := range []string{`WORKERS = "lots": must be a number`, `RATE = "fast": must be a rate`, `IDLE_GRACE = "2": must be a duration`} {
		if !strings.HasPrefix(lines[1+i], want) {
			t.Errorf("line %d: %s, want %s", 1+i, lines[1+i], want)
		}
	}
}

func testRoutes(t *testing.T, s *storefront) {
	c := s.client(t)

	// Products: where they come from, and that nothing is sent twice.
	first := c.do(http.StatusOK, "GET", "/products/42", "")
	if status := first.header.Get("Cache-Status"); !strings.Contains(status, "fwd=miss") || !strings.Contains(status, "detail=origin") {
		t.Errorf("the first time: Cache-Status: %s", status)
	}
	var product Product
	first.decode(t, &product)
	if product.ID != 42 || product.Category == "" || len(first.body) < 800 || len(first.body) > 1200 {
		t.Errorf("%d bytes: %+v", len(first.body), product)
	}
	tiers := map[string]bool{}
	eventually(t, "both workers answered from the cache", func() error {
		status := c.do(http.StatusOK, "GET", "/products/42", "").header.Get("Cache-Status")
		if !strings.Contains(status, "; hit;") {
			t.Errorf("again: Cache-Status: %s", status)
		}
		tiers[status[strings.LastIndex(status, "=")+1:]] = true
		if !tiers["memory"] || !tiers["remote"] {
			return fmt.Errorf("hits in %v", tiers)
		}
		return nil
	})
	etag := first.header.Get("ETag")
	c.headers = map[string]string{"If-None-Match": `"other", W/` + etag}
	if a := c.do(http.StatusNotModified, "GET", "/products/42", ""); len(a.body) != 0 || a.header.Get("ETag") != etag {
		t.Errorf("304 with %q, ETag %s", a.body, a.header.Get("ETag"))
	}
	c.headers = map[string]string{"If-None-Match": `"other"`}
	c.do(http.StatusOK, "GET", "/products/42", "")
	c.headers = nil

	// Pages.
	var page struct {
		Products []Product
		After    int64
	}
	seen := 0
	for after := int64(0); ; after = page.After {
		page.Products, page.After = nil, 0
		c.do(http.StatusOK, "GET", fmt.Sprintf("/products?category=ropes&limit=100&after=%d", after), "").decode(t, &page)
		for _, p := range page.Products {
			if p.Category != "ropes" || p.ID <= after || p.Name == "" {
				t.Errorf("%d (%s) on the page after %d", p.ID, p.Category, after)
			}
		}
		seen += len(page.Products)
		if page.After == 0 {
			break
		}
	}
	if seen != productCount/10 {
		t.Errorf("%d products of the category, want %d", seen, productCount/10)
	}

	// What is refused.
	for _, r := range []struct {
		status             int
		method, path, body string
	}{
		{404, "GET", "/nowhere", ""},
		{404, "GET", "/products/0", ""},
		{404, "GET", "/products/x", ""},
		{404, "GET", "/products/999999", ""},
		{405, "DELETE", "/products/1", ""},
		{400, "GET", "/products?limit=0", ""},
		{400, "GET", "/products?after=x", ""},
		{404, "PATCH", "/products/999999", `{"stock":1}`},
		{400, "PATCH", "/products/1", `{}`},
		{400, "PATCH", "/products/1", `{"stock":-1}`},
		{400, "PATCH", "/products/1", `{"name":"x"}`},
		{400, "PATCH", "/products/1", `{"stock":1} {}`},
		{413, "PATCH", "/products/1", `{"name":"` + strings.Repeat("x", 70_000) + `"}`},
		{400, "POST", "/login", `{"user":""}`},
		{400, "POST", "/cart/items", `{"product_id":1,"qty":0}`},
		{404, "POST", "/cart/items", `{"product_id":999999,"qty":1}`},
		{409, "POST", "/cart/items", ""},
		{401, "POST", "/orders", ""},
		{401, "GET", "/orders", ""},
		{401, "POST", "/logout/everywhere", ""},
	} {
		if r.body == "" && r.path == "/cart/items" {
			d := s.client(t)
			d.do(200, r.method, r.path, `{"product_id":1,"qty":600}`)
			d.do(r.status, r.method, r.path, `{"product_id":1,"qty":600}`)
			continue
		}
		c.do(r.status, r.method, r.path, r.body)
	}
	if _, ok := c.cookies["session"]; ok {
		t.Error("who was only refused got a session")
	}
	c.headers = map[string]string{"Fairlead-Timeout-Ms": "0"}
	c.do(504, "GET", "/products/1", "")
	c.headers = map[string]string{"Sec-Fetch-Site": "cross-site"}
	c.do(403, "POST", "/logout", "")
	c.headers = nil

	// Accounts: the cart comes along, logins and visits count, and a logout everywhere ends the other session too.
	type visitor struct {
		User           string
		Logins, Visits int
	}
	var v visitor
	c.do(200, "POST", "/cart/items", `{"product_id":5,"qty":2}`)
	anonymous := c.cookies["session"]
	c.do(200, "POST", "/login", `{"user":"ann"}`).decode(t, &v)
	if v != (visitor{"ann", 1, 0}) || c.cookies["session"] == anonymous {
		t.Errorf("after the login: %+v, session id new: %v", v, c.cookies["session"] != anonymous)
	}
	for range 3 {
		c.do(200, "GET", "/me", "").decode(t, &v)
	}
	if v != (visitor{"ann", 1, 3}) {
		t.Errorf("after three visits: %+v", v)
	}
	var cart struct {
		Items      []cartLine
		TotalCents int64 `json:"total_cents"`
	}
	c.do(200, "GET", "/cart", "").decode(t, &cart)
	if len(cart.Items) != 1 || cart.Items[0].ProductID != 5 || cart.Items[0].Qty != 2 || cart.TotalCents != 2*int64(cart.Items[0].PriceCents) {
		t.Errorf("the cart after the login: %+v", cart)
	}
	c.do(204, "DELETE", "/cart", "")
	if a := c.do(200, "GET", "/cart", ""); string(a.body) != `{"items":[],"total_cents":0}` {
		t.Errorf("the empty cart: %s", a.body)
	}
	other := s.login(t, "ann")
	c.do(204, "POST", "/logout/everywhere", "")
	other.do(401, "GET", "/orders", "")
	if _, ok := c.cookies["session"]; ok {
		t.Error("the session cookie is still there after the logout")
	}
	other = s.login(t, "ann")
	other.do(204, "POST", "/logout", "")
	other.do(401, "GET", "/orders", "")

	// The admin listener.
	var snapshot struct{ Ready bool }
	resp, err := http.Get(s.admin + "/api/snapshot")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&snapshot); err != nil || !snapshot.Ready {
		t.Errorf("/api/snapshot: %+v, %v", snapshot, err)
	}
}
