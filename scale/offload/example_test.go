package offload_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/fairlead/fairlead/scale/offload"
	"github.com/fairlead/fairlead/scale/overload"
)

func ExampleDo() {
	lane, err := offload.New("hashes", offload.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer lane.Close()

	sum, err := offload.Do(context.Background(), lane, func(ctx context.Context) ([32]byte, error) {
		sum := sha256.Sum256([]byte("secret"))
		for range 10_000 {
			if err := ctx.Err(); err != nil {
				return sum, err // a thread cannot be stopped: look now and then
			}
			sum = sha256.Sum256(sum[:])
		}
		return sum, nil
	})
	fmt.Printf("%x… %v\n", sum[:4], err)
	// Output: 340527a3… <nil>
}

type square struct{ Side float64 }

// squared is known in the process too, because it is a package's variable.
var squared = offload.Register("squared", func(_ context.Context, s square) (float64, error) { return s.Side * s.Side, nil })

func ExampleRegister() {
	// offload.Main() stands first in main, here in TestMain.
	lane, err := offload.New("shapes", offload.Options{Workers: 1, RunTimeout: time.Minute, MaxMemory: 256 << 20})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer lane.Close()
	fmt.Println(squared(context.Background(), lane, square{Side: 3}))
	// Output: 9 <nil>
}

func ExampleLane_Middleware() {
	lane, err := offload.New("reports", offload.Options{Workers: 2, QueueTimeout: 2 * time.Second})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer lane.Close()
	report := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "a long calculation") })
	mux := http.NewServeMux()
	mux.Handle("GET /report", lane.Middleware(report))
	fmt.Println(lane.Stats().Waiting)
	// Output: 0
}

func ExampleWeight() {
	lane, err := offload.New("passwords", offload.Options{Workers: 4})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer lane.Close()
	ctx := overload.WithPriority(context.Background(), overload.Critical)
	_, err = offload.Do(offload.Weight(ctx, 2), lane, func(context.Context) (string, error) {
		return "", errors.New("a hash that takes 64 MiB: two at a time are enough")
	})
	fmt.Println(err)
	// Output: a hash that takes 64 MiB: two at a time are enough
}
