//go:build soak

package overload

import (
	"math"
	"net/http"
	"testing"
)

var (
	static24 = guard{"static 24", func(*testing.T) func(http.Handler) http.Handler {
		free := make(chan struct{}, 24)
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				select {
				case free <- struct{}{}:
					defer func() { <-free }()
					next.ServeHTTP(w, r)
				default:
					w.WriteHeader(http.StatusServiceUnavailable)
				}
			})
		}
	}}
	static24Queue = guard{"static 24 + queue", func(t *testing.T) func(http.Handler) http.Handler {
		return limiterOf(t, Options{}, func(o Options) limit { return newStatic(o, 24) }).Middleware
	}}
	vegasQueue = guard{"Vegas + queue", func(t *testing.T) func(http.Handler) http.Handler {
		return limiterOf(t, Options{}, func(o Options) limit { return newVegas(o) }).Middleware
	}}
)

// The rules beside which ours is measured, behind the same queue.

// static is a limit that never moves.
type static struct {
	knee
	n int
}

func newStatic(o Options, n int) *static            { return &static{*newKnee(o), n} }
func (s *static) max() int                          { return s.n }
func (*static) advance(_, _ float64, _ int, _ bool) {}

// vegas is TCP Vegas for concurrency, after the description of Netflix's concurrency-limits: the queue inside is estimated as
// L·(1 − shortest time ÷ time), and the limit moves so that it stays between 3 and 6·log10 L. Windows of 100 ms and at least
// ten; the shortest time is measured anew after about 30·L windows.
type vegas struct {
	knee
	size     float64
	shortest float64
	windows  float64
	started  float64
	sum      float64
	n        int
	top      int
}

func newVegas(o Options) *vegas { return &vegas{knee: *newKnee(o), size: 20} }

func (v *vegas) max() int { return int(v.size) }

func (v *vegas) advance(now, _ float64, n int, _ bool) {
	v.sum += (now - v.last) * float64(n)
	v.last = now
	v.top = max(v.top, n)
}

func (v *vegas) done(now, _ float64, _ bool) {
	v.n++
	if now < v.started+0.1 || v.n < 10 {
		return
	}
	time, top := v.sum/float64(v.n), v.top
	v.started, v.sum, v.n, v.top = now, 0, 0, 0
	v.windows++
	if v.windows >= 0.75*30*v.size {
		v.windows, v.shortest = 0, time
		return
	}
	if v.shortest == 0 || time < v.shortest {
		v.shortest = time
		return
	}
	if 2*float64(top) < v.size {
		return
	}
	unit := math.Max(1, math.Floor(math.Log10(v.size)))
	switch queue := math.Ceil(v.size * (1 - v.shortest/time)); {
	case queue <= unit:
		v.size += 6 * unit
	case queue < 3*unit:
		v.size += unit
	case queue > 6*unit:
		v.size -= unit
	}
	v.size = math.Max(1, math.Min(1000, v.size))
}
