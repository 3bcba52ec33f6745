package overload_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/fairlead/fairlead/scale/overload"
)

func ExampleLimiter_Middleware() {
	limiter, err := overload.New("http", overload.Options{
		Priority: func(r *http.Request) overload.Priority {
			switch r.URL.Path {
			case "/checkout":
				return overload.Critical
			case "/recommendations":
				return overload.Sheddable
			}
			return overload.Default
		},
	})
	if err != nil {
		panic(err)
	}
	handler := limiter.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, overload.PriorityFrom(r.Context()), limiter.Stats().InFlight)
	}))

	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("POST", "/checkout", nil))
	fmt.Print(w.Code, " ", w.Body)
	// Output: 200 critical 1
}

func ExampleLimiter_Acquire() {
	limiter, err := overload.New("consumer", overload.Options{Min: 1, Max: 1, MaxQueue: -1}) // fixed, and nobody waits
	if err != nil {
		panic(err)
	}
	handle := func(ctx context.Context, tenant string) error {
		ctx, err := limiter.Acquire(ctx, tenant)
		if err != nil {
			return err
		}
		defer overload.Release(ctx)
		if tenant == "a" {
			_, err = limiter.Acquire(ctx, "b") // while the only permit is taken
		}
		return err
	}
	err = handle(context.Background(), "a")
	fmt.Println(errors.Is(err, overload.ErrRefused), err)
	fmt.Println(handle(context.Background(), "c"))
	// Output:
	// true overload: consumer: refused (default) after 0s: the queue is full
	// <nil>
}

func ExampleRelease() {
	limiter, err := overload.New("http", overload.Options{})
	if err != nil {
		panic(err)
	}
	handler := limiter.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("working:", limiter.Stats().InFlight)
		overload.Release(r.Context()) // what follows only waits, for nothing that is scarce
		fmt.Println("waiting:", limiter.Stats().InFlight)
	}))
	handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/poll", nil))
	// Output:
	// working: 1
	// waiting: 0
}

func ExampleWithPriority() {
	crawlersLast := func(next http.Handler) http.Handler { // outside the limiter
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.UserAgent() == "crawler" {
				r = r.WithContext(overload.WithPriority(r.Context(), overload.Sheddable))
			}
			next.ServeHTTP(w, r)
		})
	}
	limiter, err := overload.New("http", overload.Options{})
	if err != nil {
		panic(err)
	}
	handler := crawlersLast(limiter.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(overload.PriorityFrom(r.Context()))
	})))
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("User-Agent", "crawler")
	handler.ServeHTTP(httptest.NewRecorder(), r)
	// Output: sheddable
}
