package rediscache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fairlead/fairlead/cache"
)

const (
	beaconEvery = time.Second
	beaconLost  = 3 * time.Second

	reconnectMin = 50 * time.Millisecond
	reconnectMax = time.Second
)

// Listen hands events to handle until ctx ends. It does not use go-redis's channels, which reconnect and overflow without a
// word.
func (r *Remote) Listen(ctx context.Context, space string, handle func(cache.Event)) error {
	for pause := reconnectMin; ; {
		connected := false
		r.listen(ctx, space, func(ev cache.Event) {
			connected = true
			handle(ev)
		})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if connected {
			handle(cache.Event{})
			pause = reconnectMin
		}
		select {
		case <-time.After(pause/2 + mathrand.N(pause)):
		case <-ctx.Done():
		}
		pause = min(2*pause, reconnectMax)
	}
}

var errResubscribed = errors.New("rediscache: the connection was replaced")

// listen is one connection's life.
func (r *Remote) listen(ctx context.Context, space string, handle func(cache.Event)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	own := clockKey(space) + ":beacon:" + rand.Text()
	sub := r.client.Redis().Subscribe(ctx)
	defer sub.Close()
	defer context.AfterFunc(ctx, func() { sub.Close() })() // receiving does not end with its context

	channels := []string{busChannel(space), own}
	if err := sub.Subscribe(ctx, channels...); err != nil {
		return err
	}
	for confirmed := 0; confirmed < len(channels); {
		got, err := sub.ReceiveTimeout(ctx, beaconLost)
		if err != nil {
			return err
		}
		if _, ok := got.(*redis.Subscription); ok {
			confirmed++
		}
	}
	start, err := r.clock(ctx, space)
	if err != nil {
		return err
	}
	handle(start)

	sent := make(chan struct{})
	go func() {
		defer close(sent)
		r.sendBeacons(ctx, space, own)
	}()
	defer func() {
		cancel()
		<-sent
	}()
	for last := time.Now(); ; {
		got, err := sub.ReceiveTimeout(ctx, max(time.Until(last.Add(beaconLost)), time.Millisecond))
		if err != nil {
			return err
		}
		switch got := got.(type) {
		case *redis.Message:
			ev, err := decode(got.Payload)
			if err != nil {
				return err // something was said that cannot be understood: as good as lost
			}
			if got.Channel == own {
				last = time.Now()
			}
			handle(ev)
		case *redis.Subscription:
			return errResubscribed
		}
		if time.Since(last) > beaconLost {
			return fmt.Errorf("rediscache: no beacon for %v", beaconLost)
		}
	}
}

// clock reads the clock of a space.
func (r *Remote) clock(ctx context.Context, space string) (cache.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, beaconLost)
	defer cancel()
	return reading(r.client.Run(ctx, read, []string{clockKey(space), spaceTokenKey(space)}))
}

// sendBeacons sends a beacon each second; one that does not get through is missed by who waits for it.
func (r *Remote) sendBeacons(ctx context.Context, space, channel string) {
	tick := time.NewTicker(beaconEvery)
	defer tick.Stop()
	for {
		limited, cancel := context.WithTimeout(ctx, beaconLost)
		args := append([]any{channel}, r.primaries(limited)...)
		r.client.Run(limited, beacon, []string{clockKey(space)}, args...)
		cancel()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// primaries returns the run ids of a Cluster's primaries, or nothing if one does not answer. One server's the scripts know.
func (r *Remote) primaries(ctx context.Context) (runs []any) {
	client, ok := r.client.Redis().(*redis.ClusterClient)
	if !ok {
		return nil
	}
	var mu sync.Mutex
	err := client.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
		info, err := c.Info(ctx, "server").Result()
		if err != nil {
			return err
		}
		_, run, _ := strings.Cut(info, "run_id:")
		run, _, found := strings.Cut(run, "\r\n")
		if !found || run == "" {
			return errors.New("rediscache: no run_id in INFO")
		}
		mu.Lock()
		defer mu.Unlock()
		runs = append(runs, run)
		return nil
	})
	if err != nil {
		return nil
	}
	return runs
}
