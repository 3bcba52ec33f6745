package overload

import (
	"context"
	"log/slog"
	"net/http"
	"testing"
)

func benchLimiter(b *testing.B, o Options) *Limiter {
	o.Logger = slog.New(slog.DiscardHandler)
	l, err := New("bench", o)
	if err != nil {
		b.Fatal(err)
	}
	return l
}

func BenchmarkAcquireRelease(b *testing.B) {
	l := benchLimiter(b, Options{})
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		ctx, err := l.Acquire(ctx, "")
		if err != nil {
			b.Fatal(err)
		}
		Release(ctx)
	}
}

func BenchmarkAcquireReleaseParallel(b *testing.B) {
	l := benchLimiter(b, Options{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			ctx, err := l.Acquire(context.Background(), "")
			if err != nil {
				b.Fatal(err)
			}
			Release(ctx)
		}
	})
}

func BenchmarkRefuse(b *testing.B) {
	l := benchLimiter(b, Options{Min: 1, Max: 1, MaxQueue: -1})
	if _, err := l.Acquire(context.Background(), ""); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Acquire(context.Background(), ""); err == nil {
			b.Fatal("not refused")
		}
	}
}

func BenchmarkMiddleware(b *testing.B) {
	h := benchLimiter(b, Options{}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
	r, err := http.NewRequest("GET", "/", nil)
	if err != nil {
		b.Fatal(err)
	}
	w := &answerWriter{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}
