package ratelimit

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

func BenchmarkTake(b *testing.B) {
	ctx := context.Background()
	one := PerSecond(1_000_000_000)
	for _, c := range []struct {
		name  string
		limit Limit
		keys  int
	}{
		{"one-key", one, 1},
		{"refused", Per(1, 24*time.Hour), 1},
		{"joined-3", one.And(one).And(one), 1},
		{"million-keys", Per(1000, time.Hour), 1_000_000},
	} {
		b.Run(c.name, func(b *testing.B) {
			l := mustNew(b, "bench", c.limit, Options{Store: NewMemory(4 << 20)})
			keys := make([]string, c.keys)
			for i := range keys {
				keys[i] = "client-" + strconv.Itoa(i)
				_, _ = l.Take(ctx, keys[i], 1)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				_, _ = l.Take(ctx, keys[i], 1)
				if i += 7919; i >= len(keys) {
					i %= len(keys)
				}
			}
		})
	}
}

func BenchmarkTakeParallel(b *testing.B) {
	ctx := context.Background()
	l := mustNew(b, "bench", Per(1000, time.Hour), Options{Store: NewMemory(4 << 20)})
	keys := make([]string, 1<<16)
	for i := range keys {
		keys[i] = "client-" + strconv.Itoa(i)
		_, _ = l.Take(ctx, keys[i], 1)
	}
	var next atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		i := int(next.Add(1)) * 4999
		for pb.Next() {
			_, _ = l.Take(ctx, keys[i%len(keys)], 1)
			i += 7919
		}
	})
}

// A flood of keys nobody has seen: each displaces another.
func BenchmarkTakeFlood(b *testing.B) {
	ctx := context.Background()
	l := mustNew(b, "bench", Per(5, time.Hour), Options{Store: NewMemory(1 << 16)})
	buf := make([]byte, 0, 32)
	i := int64(0)
	b.ReportAllocs()
	for b.Loop() {
		i++
		buf = strconv.AppendInt(append(buf[:0], "flood-"...), i, 10)
		_, _ = l.Take(ctx, string(buf), 1)
	}
}

func BenchmarkMiddleware(b *testing.B) {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "203.0.113.9:1234"
	for name, limit := range map[string]Limit{"allowed": PerSecond(1_000_000_000), "refused": Per(1, 24*time.Hour)} {
		b.Run(name, func(b *testing.B) {
			l := mustNew(b, "client", limit, Options{})
			h := Middleware(l, ClientIP())(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			h.ServeHTTP(httptest.NewRecorder(), r)
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(discard{http.Header{}}, r)
			}
		})
	}
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}
