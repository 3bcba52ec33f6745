// Quickstart is a service with a cache, sessions, a rate limit and an admin listener, all on embedded defaults: one process,
// no servers. Run it with
//
//	go run ./examples/quickstart
//
// and ask it, as often as you like:
//
//	curl -i http://127.0.0.1:8080/square/12           # slow the first time
//	curl -b jar -c jar http://127.0.0.1:8080/visits   # counts your visits
//	curl http://127.0.0.1:9090/readyz?verbose         # and /metrics
//
// Ctrl-C ends it when what it has begun is done.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/http"
	"strconv"
	"time"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/cluster"
	"github.com/fairlead/fairlead/ratelimit"
	"github.com/fairlead/fairlead/scale"
	"github.com/fairlead/fairlead/session"
)

// Visitor is what a session holds.
type Visitor struct {
	Visits int `json:"visits"`
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to serve")
	admin := flag.String("admin", "127.0.0.1:9090", "where to serve probes and metrics")
	flag.Parse()
	log.Printf("serving http://%s, admin http://%s", *addr, *admin)
	cluster.Main(app, cluster.Options{ // Workers: 2 would run the app in two supervised processes
		Listen: []cluster.Listen{{Name: "http", Addr: *addr}},
		Admin:  cluster.Admin{Addr: *admin},
	})
}

func app(ctx context.Context) error {
	svc, err := scale.New("quickstart", scale.Options{})
	if err != nil {
		return err
	}
	square := func(ctx context.Context, n int) (int, error) { // stands for a database
		time.Sleep(200 * time.Millisecond)
		return n * n, nil
	}
	squares, err := cache.New("squares", square, cache.Options[int, int]{TTL: time.Minute}) // Remote: Redis, shared
	if err != nil {
		return err
	}
	sessions, err := session.New[Visitor](session.NewMemory(0), session.Options{Insecure: true}) // no TLS here
	if err != nil {
		return err
	}
	perClient, err := ratelimit.New("client", ratelimit.PerSecond(50).Burst(100), ratelimit.Options{})
	if err != nil {
		return err
	}
	svc.Use(squares, sessions, perClient)

	mux := http.NewServeMux()
	mux.HandleFunc("GET /square/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.PathValue("n"))
		if err != nil {
			http.Error(w, "n must be a number", http.StatusBadRequest)
			return
		}
		result, err := squares.Lookup(r.Context(), n)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "%d (from %s)\n", result.Value, result.Tier)
	})
	mux.HandleFunc("GET /visits", func(w http.ResponseWriter, r *http.Request) {
		v, err := sessions.From(r.Context()).Update(r.Context(), func(v *Visitor) error { v.Visits++; return nil })
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, v.Visits)
	})
	return svc.Serve(ctx, mux, ratelimit.Middleware(perClient, ratelimit.ClientIP()), sessions.Middleware)
}
