package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/cookiejar"
	"strconv"
	"strings"
	"sync"
	"time"
)

const visitors = 8

// parseTraffic says whether the demo is to send gentle traffic.
func parseTraffic(v string) (bool, error) {
	switch cmp.Or(v, "off") {
	case "on":
		return true, nil
	case "off":
		return false, nil
	}
	return false, fmt.Errorf("TRAFFIC = %q: must be on or off", v)
}

// sendTraffic sends it until ctx ends.
func sendTraffic(ctx context.Context, base string, products int) {
	var wg sync.WaitGroup
	for range visitors {
		wg.Go(func() { visit(ctx, base, products) })
	}
	wg.Wait()
}

// visit is a visitor who looks around, with a mind of their own: most look at what most look at.
func visit(ctx context.Context, base string, products int) {
	jar, _ := cookiejar.New(nil)
	client := &http.Client{Jar: jar, Timeout: 30 * time.Second}
	popular := rand.NewZipf(rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())), 1.1, 1, uint64(products-1))
	product := func() string { return strconv.FormatUint(popular.Uint64()+1, 10) }
	user := fmt.Sprintf("visitor-%d", rand.IntN(1000))
	for pause(ctx, time.Duration(30+rand.IntN(120))*time.Millisecond) {
		switch n := rand.IntN(100); {
		case n < 70:
			send(ctx, client, "GET", base+"/products/"+product(), "")
		case n < 78:
			send(ctx, client, "GET", base+"/products?limit=20&after="+product(), "")
		case n < 84:
			send(ctx, client, "GET", base+"/me", "")
		case n < 90:
			send(ctx, client, "POST", base+"/cart/items", fmt.Sprintf(`{"product_id":%s,"qty":1}`, product()))
		case n < 92:
			send(ctx, client, "POST", base+"/login", fmt.Sprintf(`{"user":%q}`, user))
		case n < 94:
			send(ctx, client, "POST", base+"/orders", "")
		default:
			send(ctx, client, "PATCH", base+"/products/"+product(), fmt.Sprintf(`{"price_cents":%d}`, 100+rand.IntN(50_000)))
		}
	}
}

func send(ctx context.Context, client *http.Client, method, url, body string) int {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode
}

// pause waits and says whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
