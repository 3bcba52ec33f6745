package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead/fairlead/internal/testenv"
)

// What Fairlead promises, shown from outside: two workers, a primary, a replica, a replica that is half a second late, a bus
// that is 0.3 s late, and clients that speak HTTP.
func TestStorefront(t *testing.T) {
	s := start(t)
	t.Run("routes", func(t *testing.T) { testRoutes(t, s) })
	t.Run("changes are told of by every worker", func(t *testing.T) { testEvents(t, s) })
	t.Run("own writes are read", func(t *testing.T) { testOwnWrites(t, s) })
	t.Run("replicas serve the reads", func(t *testing.T) { testReplicas(t, s) })
	t.Run("concurrent updates of a session", func(t *testing.T) { testCart(t, s) })
	t.Run("logout wins over a request in flight", func(t *testing.T) { testLogout(t, s) })
	t.Run("an order happens once", func(t *testing.T) { testOrderOnce(t, s) })
	t.Run("an order repeated without its cart", func(t *testing.T) { testOrderRepeated(t, s) })
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
	for round := 0; round < 10 && (dropped.staleProducts.Load() == 0 || dropped.staleOrders.Load() == 0); round++ {
		for i := range 4 {
			wg.Go(func() {
				c := s.login(t, fmt.Sprintf("forgetful-%d-%d", round, i))
				c.drop = "wrote"
				dropped.run(c, 110+i, 100, true)
			})
		}
		wg.Wait()
	}
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
					// 500 at once are more than a worker that has learned nothing yet lets in: who is refused comes again.
					for tries := 0; err == nil && resp.StatusCode == http.StatusServiceUnavailable && tries < 500; tries++ {
						resp.Body.Close()
						time.Sleep(100 * time.Millisecond)
						resp, err = client.Get(s.base + path)
					}
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
		failedBefore := s.metric(t, "fairlead_cache_remote_errors_total")
		close(gate)
		done.Wait()
		queries = s.queries(t, "%from products where id = $1%", nodes...) - queries
		failures := s.metric(t, "fairlead_cache_remote_errors_total") - failedBefore
		if queries == 1 && workers.count() == 2 {
			return
		}
		if queries == 2 {
			// A worker that is busy reports its failures a scrape or two later.
			for backstop := time.Now().Add(30 * time.Second); failures == 0 && time.Now().Before(backstop); time.Sleep(100 * time.Millisecond) {
				failures = s.metric(t, "fairlead_cache_remote_errors_total") - failedBefore
			}
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
