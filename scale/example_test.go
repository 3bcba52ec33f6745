package scale_test

import (
	"context"
	"fmt"
	"net/http"

	"github.com/fairlead/fairlead/scale"
)

type store struct{ name string }

func (s store) Ping(context.Context) error { return nil }
func (s store) Close()                     { fmt.Println("closed", s.name) }

func ExampleService() {
	svc, err := scale.New("hello", scale.Options{Addr: "127.0.0.1:0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	svc.Use(store{"database"}, store{"cache"})

	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") })

	ctx, stop := context.WithCancel(context.Background())
	stop() // in a program: signal.NotifyContext, or the context that cluster.Main gives
	fmt.Println("served:", svc.Serve(ctx, mux))
	// Output:
	// closed cache
	// closed database
	// served: <nil>
}
