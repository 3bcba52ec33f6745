package cache_test

import (
	"context"
	"fmt"
	"time"

	"github.com/fairlead/fairlead/cache"
)

func Example() {
	prices := map[string]int{"tea": 400}
	load := func(_ context.Context, name string) (int, error) {
		fmt.Println("loading", name)
		return prices[name], nil
	}
	c, err := cache.New("prices", load, cache.Options[string, int]{
		TTL:                  time.Minute,
		StaleWhileRevalidate: 10 * time.Minute,
		// Remote: rediscache.New(rdb) shares values and invalidations between processes.
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	ctx := context.Background()

	for range 2 {
		price, _ := c.Get(ctx, "tea")
		fmt.Println(price)
	}
	prices["tea"] = 450
	if err := c.Invalidate(ctx, "tea"); err != nil {
		fmt.Println(err)
	}
	r, _ := c.Lookup(ctx, "tea")
	fmt.Println(r.Value, r.Tier)

	// Output:
	// loading tea
	// 400
	// 400
	// loading tea
	// 450 origin
}

func ExampleCache_GetMany() {
	load := func(_ context.Context, id int64) (string, error) { return fmt.Sprint("product ", id), nil }
	c, _ := cache.New("products", load, cache.Options[int64, string]{
		LoadMany: func(_ context.Context, ids []int64) (map[int64]string, error) {
			fmt.Println("one query for", ids)
			found := make(map[int64]string)
			for _, id := range ids {
				found[id] = fmt.Sprint("product ", id)
			}
			return found, nil
		},
	})
	defer c.Close()
	ctx := context.Background()
	c.Get(ctx, 2)
	all, err := c.GetMany(ctx, []int64{1, 2, 3})
	fmt.Println(len(all), all[2], err)

	// Output:
	// one query for [1 3]
	// 3 product 2 <nil>
}

func ExampleCache_InvalidateTag() {
	type product struct{ Name, Maker string }
	load := func(_ context.Context, id int64) (product, error) {
		fmt.Println("loading", id)
		return product{fmt.Sprint("product ", id), []string{"acme", "bolt"}[id%2]}, nil
	}
	c, _ := cache.New("products", load, cache.Options[int64, product]{
		Meta: func(_ int64, p product) cache.Meta { return cache.Meta{Tags: []string{"maker:" + p.Maker}} },
	})
	defer c.Close()
	ctx := context.Background()
	for id := range int64(3) {
		c.Get(ctx, id)
	}
	if err := c.InvalidateTag(ctx, "maker:acme"); err != nil {
		fmt.Println(err)
	}
	for id := range int64(3) {
		c.Get(ctx, id)
	}

	// Output:
	// loading 0
	// loading 1
	// loading 2
	// loading 0
	// loading 2
}
