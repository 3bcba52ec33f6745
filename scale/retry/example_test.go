package retry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/fairlead/fairlead/scale/retry"
)

func ExampleDo() {
	reviews, err := retry.NewBudget("reviews", retry.Options{BaseDelay: time.Millisecond})
	if err != nil {
		panic(err)
	}
	attempt := 0
	stars, err := retry.Do(context.Background(), reviews, func(context.Context) (int, error) {
		if attempt++; attempt == 1 {
			return 0, errors.New("connection reset")
		}
		return 5, nil
	})
	fmt.Println(stars, err, attempt)

	_, err = retry.Do(context.Background(), reviews, func(context.Context) (int, error) {
		attempt++
		return 0, retry.Permanent(errors.New("no such product"))
	})
	fmt.Println(err, attempt)
	// Output:
	// 5 <nil> 2
	// no such product 3
}

func ExampleTransport() {
	busy := true
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if busy {
			busy = false
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "five stars")
	}))
	defer upstream.Close()

	budget, err := retry.NewBudget("upstream", retry.Options{BaseDelay: time.Millisecond})
	if err != nil {
		panic(err)
	}
	client := &http.Client{Transport: retry.Transport(http.DefaultTransport, budget), Timeout: 30 * time.Second}
	resp, err := client.Get(upstream.URL)
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	fmt.Println(resp.StatusCode, string(text))
	fmt.Println(budget.Stats().Retries)
	// Output:
	// 200 five stars
	// 1
}

func ExampleBudget() {
	budget, err := retry.NewBudget("reviews", retry.Options{BaseDelay: time.Microsecond, MaxDelay: time.Microsecond})
	if err != nil {
		panic(err)
	}
	attempts := 0
	for range 1000 { // an outage
		retry.Do(context.Background(), budget, func(context.Context) (int, error) { attempts++; return 0, errors.New("down") })
	}
	fmt.Println(attempts <= 1000*11/10+10)
	// Output:
	// true
}
