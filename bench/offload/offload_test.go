// Package offload measures what heavy computing costs the light requests of the same process, and what it gets done itself:
// eight clients that keep it busy with hashes of bcrypt or with pictures, which allocate, beside light HTTP requests at 500 a
// second. Beside scale/offload stand the same without isolation (inline) and the goroutine pool that people deploy
// (panjf2000/ants with GOMAXPROCS workers), and a semaphore of half of that.
//
//	cd bench && GOWORK=off go test -run '^$' -bench . -benchtime 10s ./offload
//
// p50-ms and p99-ms are those of the light requests, heavy/s is the heavy work done.
package offload

import (
	"bytes"
	"context"
	"image"
	"image/color"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/panjf2000/ants/v2"
	"golang.org/x/crypto/bcrypt"

	"github.com/fairlead/fairlead/scale/offload"
)

func TestMain(m *testing.M) {
	offload.Main()
	os.Exit(m.Run())
}

const heavyClients = 8

// hash computes for some 50 ms and allocates next to nothing.
func hash() { _, _ = bcrypt.GenerateFromPassword([]byte("correct horse"), 10) }

// shape is a node of a picture; there are very many of them.
type shape struct {
	x, y, size int
	parts      []*shape
}

func divide(x, y, size, depth int) *shape {
	s := &shape{x: x, y: y, size: size}
	if depth > 0 {
		for i := range 4 {
			s.parts = append(s.parts, divide(x+i%2*size/2, y+i/2*size/2, size/2, depth-1))
		}
	}
	return s
}

func (s *shape) draw(m *image.RGBA) {
	m.Set(s.x, s.y, color.RGBA{uint8(s.size), uint8(s.x), uint8(s.y), 255})
	for _, p := range s.parts {
		p.draw(m)
	}
}

// picture computes for some 50 ms and allocates some 10 MB in 100,000 pieces.
func picture() []byte {
	m := image.NewRGBA(image.Rect(0, 0, 256, 256))
	divide(0, 0, 256, 8).draw(m)
	var b bytes.Buffer
	_ = png.Encode(&b, m)
	return b.Bytes()
}

var pictureElsewhere = offload.Register("picture", func(context.Context, int) ([]byte, error) { return picture(), nil })

type isolation struct {
	name string
	// begin returns what runs one piece of heavy work and returns when it is done.
	begin func(b *testing.B, work func()) (run func())
}

var inline = isolation{"inline", func(_ *testing.B, work func()) func() { return work }}

var pool = isolation{"ants", func(b *testing.B, work func()) func() {
	p, err := ants.NewPool(runtime.GOMAXPROCS(0))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Release)
	return func() {
		done := make(chan struct{})
		if err := p.Submit(func() { work(); close(done) }); err != nil {
			b.Error(err)
			return
		}
		<-done
	}
}}

var semaphore = isolation{"semaphore of half", func(_ *testing.B, work func()) func() {
	free := make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
	return func() {
		free <- struct{}{}
		work()
		<-free
	}
}}

func lane(b *testing.B) *offload.Lane {
	l, err := offload.New("bench", offload.Options{QueueTimeout: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	return l
}

var thread = isolation{"offload.Do", func(b *testing.B, work func()) func() {
	l := lane(b)
	return func() {
		if _, err := offload.Do(b.Context(), l, func(context.Context) (int, error) { work(); return 0, nil }); err != nil && b.Context().Err() == nil {
			b.Error(err)
		}
	}
}}

var process = isolation{"offload.Register", func(b *testing.B, _ func()) func() {
	l := lane(b)
	return func() {
		if _, err := pictureElsewhere(b.Context(), l, 0); err != nil && b.Context().Err() == nil {
			b.Error(err)
		}
	}
}}

func BenchmarkLightBesideHashes(b *testing.B) {
	for _, i := range []isolation{inline, pool, semaphore, thread} {
		b.Run(i.name, func(b *testing.B) { beside(b, i, hash) })
	}
}

func BenchmarkLightBesidePictures(b *testing.B) {
	for _, i := range []isolation{inline, pool, semaphore, thread, process} {
		b.Run(i.name, func(b *testing.B) { beside(b, i, func() { picture() }) })
	}
}

// beside keeps the heavy clients busy and sends a light request every 2 ms, whether or not the last has its answer.
func beside(b *testing.B, how isolation, work func()) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"ok":true}`) }))
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	defer client.CloseIdleConnections()
	light := func() {
		resp, err := client.Get(server.URL)
		if err != nil {
			b.Error(err)
			return
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	run := how.begin(b, work)
	run()
	light()

	var done atomic.Int64
	var stop atomic.Bool
	var heavy sync.WaitGroup
	for range heavyClients {
		heavy.Go(func() {
			for !stop.Load() {
				run()
				done.Add(1)
			}
		})
	}
	var mu sync.Mutex
	var took []time.Duration
	var requests sync.WaitGroup
	began := time.Now()
	next := began
	b.ReportAllocs()
	for b.Loop() {
		next = next.Add(2 * time.Millisecond)
		time.Sleep(time.Until(next))
		due := next // what the generator is late counts as waiting too
		requests.Go(func() {
			light()
			d := time.Since(due)
			mu.Lock()
			took = append(took, d)
			mu.Unlock()
		})
	}
	elapsed := time.Since(began)
	n := done.Load()
	requests.Wait()
	stop.Store(true)
	heavy.Wait()
	slices.Sort(took)
	ms := func(q float64) float64 { return took[int(q*float64(len(took)-1))].Seconds() * 1000 }
	b.ReportMetric(ms(0.5), "p50-ms")
	b.ReportMetric(ms(0.99), "p99-ms")
	b.ReportMetric(float64(n)/elapsed.Seconds(), "heavy/s")
	b.ReportMetric(0, "ns/op")
}
