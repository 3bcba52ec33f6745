package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"github.com/fairlead/fairlead/scale/breaker"
)

func ExampleDo() {
	reviews, err := breaker.New("reviews", breaker.Options{MinCalls: 3, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	fetch := func(context.Context) ([]string, error) { return nil, errors.New("connection refused") }
	for range 4 {
		_, err := breaker.Do(context.Background(), reviews, fetch)
		if open, ok := errors.AsType[*breaker.OpenError](err); ok {
			fmt.Println(open.Name, "is", open.State, "after", open.Failures, "failures: show the page without")
		} else {
			fmt.Println(err)
		}
	}
	// Output:
	// connection refused
	// connection refused
	// connection refused
	// reviews is open after 3 failures: show the page without
}

func ExampleTransport() {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "five stars") }))
	defer upstream.Close()

	hosts, err := breaker.PerHost("upstream", breaker.Options{})
	if err != nil {
		panic(err)
	}
	client := &http.Client{Transport: breaker.Transport(http.DefaultTransport, hosts.For)}
	resp, err := client.Get(upstream.URL)
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	fmt.Println(string(text))
	for _, s := range hosts.Stats() {
		fmt.Println(s.State, s.Successes)
	}
	// Output:
	// five stars
	// closed 1
}

func ExampleBreaker_Force() {
	b, err := breaker.New("search", breaker.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	b.Force(breaker.Open) // maintenance
	_, err = breaker.Do(context.Background(), b, func(context.Context) (int, error) { return 1, nil })
	fmt.Println(err)
	b.Force(breaker.Auto)
	fmt.Println(b.State())
	// Output:
	// breaker: "search" is open: forced
	// closed
}
