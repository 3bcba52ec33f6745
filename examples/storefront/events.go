package main

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fairlead/fairlead/scale"
	"github.com/fairlead/fairlead/scale/drain"
)

const (
	pricesChannel = "storefront:prices"
	heartbeat     = 15 * time.Second // shorter than what proxies take for silence
	behind        = 16               // events that a client may be behind; then it starts over
)

// prices tells every client of every worker of changes: a worker publishes to Redis what it has written, and all of them,
// itself too, pass on what they hear. A message that is lost while Redis is away costs a client nothing but being late: what
// it shows is read from the shop.
type prices struct {
	rdb    redis.UniversalClient
	sub    *redis.PubSub
	done   chan struct{}
	told   atomic.Uint64
	missed atomic.Uint64

	mu      sync.Mutex
	clients map[chan []byte]bool
}

func newPrices(rdb redis.UniversalClient) *prices {
	p := &prices{rdb: rdb, sub: rdb.Subscribe(context.Background(), pricesChannel), done: make(chan struct{}), clients: map[chan []byte]bool{}}
	go p.listen()
	return p
}

func (p *prices) listen() {
	defer close(p.done)
	for m := range p.sub.Channel() {
		p.mu.Lock()
		for c := range p.clients {
			select {
			case c <- []byte(m.Payload):
				p.told.Add(1)
			default: // it does not read: its stream ends, and it comes back for the present state
				p.missed.Add(1)
				delete(p.clients, c)
				close(c)
			}
		}
		p.mu.Unlock()
	}
}

// publish tells of a product that has changed.
func (p *prices) publish(ctx context.Context, product Product) {
	message, err := json.Marshal(map[string]any{"id": product.ID, "price_cents": product.PriceCents, "stock": product.Stock})
	if err != nil {
		return
	}
	if err := p.rdb.Publish(ctx, pricesChannel, message).Err(); err != nil {
		slog.WarnContext(ctx, "a change is not told of", "error", err)
	}
}

func (p *prices) join() chan []byte {
	c := make(chan []byte, behind)
	p.mu.Lock()
	p.clients[c] = true
	p.mu.Unlock()
	return c
}

func (p *prices) leave(c chan []byte) {
	p.mu.Lock()
	delete(p.clients, c)
	p.mu.Unlock()
}

// Close ends the subscription.
func (p *prices) Close() error {
	err := p.sub.Close()
	<-p.done
	return err
}

// Samples puts the streams on the admin page, beside the library's own components.
func (p *prices) Samples() iter.Seq[scale.Sample] {
	return func(yield func(scale.Sample) bool) {
		p.mu.Lock()
		clients := len(p.clients)
		p.mu.Unlock()
		_ = yield(scale.Sample{Name: "storefront.events.clients", Kind: "gauge", Value: float64(clients)}) &&
			yield(scale.Sample{Name: "storefront.events.told", Kind: "counter", Value: float64(p.told.Load())}) &&
			yield(scale.Sample{Name: "storefront.events.dropped", Kind: "counter", Value: float64(p.missed.Load())})
	}
}

// events streams changes of products until the client leaves or this worker begins to drain, which is when the client
// comes back and meets another one.
func (s *shop) events(w http.ResponseWriter, r *http.Request) error {
	changes := s.prices.join()
	defer s.prices.leave(changes)
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	message := []byte("retry: 500\n\n")
	for {
		if err := rc.SetWriteDeadline(time.Now().Add(heartbeat)); err != nil {
			return nil
		}
		if _, err := w.Write(message); err != nil {
			return nil
		}
		if err := rc.Flush(); err != nil {
			return nil
		}
		select {
		case change, ok := <-changes:
			if !ok {
				return nil
			}
			message = fmt.Appendf(nil, "event: product\ndata: %s\n\n", change)
		case <-beat.C:
			message = []byte(": still here\n\n")
		case <-drain.Closing(r.Context()):
			return nil
		case <-r.Context().Done():
			return nil
		}
	}
}
