package cluster_test

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/fairlead/fairlead/cluster"
	"github.com/fairlead/fairlead/scale/drain"
)

func ExampleRun() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()

	app := func(ctx context.Context) error {
		w := cluster.From(ctx)
		ln, err := w.Listener("http")
		if err != nil {
			return err
		}
		go func() { // a client
			resp, err := http.Get("http://" + ln.Addr().String())
			if err != nil {
				fmt.Println(err)
			} else {
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				fmt.Println(string(body))
			}
			http.DefaultClient.CloseIdleConnections()
			stop()
		}()
		handler := func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(rw, "slot %d, generation %d", w.Slot(), w.Generation())
		}
		return drain.Serve(ctx, drain.Options{}, drain.HTTP(&http.Server{Handler: http.HandlerFunc(handler)}, ln))
	}

	// Workers: 2 would run the app in two processes of their own.
	err := cluster.Run(ctx, app, cluster.Options{
		Listen: []cluster.Listen{{Name: "http", Addr: "127.0.0.1:0"}},
	})
	fmt.Println(err)
	// Output:
	// slot 0, generation 1
	// <nil>
}
