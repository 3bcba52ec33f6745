package overload

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead/fairlead/internal/loadsim"
)

// The tests of this file's kind put real middleware in front of a service with a known capacity and offer it load in virtual
// time. They count; the figures are printed with -v. In the words of their tables, C is the capacity.

type service struct {
	name     string
	capacity float64
	work     func(*rand.Rand) time.Duration
	make     func() simulated
}

type simulated interface{ Do(time.Duration) }

func slots() simulated { return loadsim.NewSlots(8) }
func cores() simulated { return loadsim.NewCPU(2) }

var (
	ioConstant  = service{"8 slots x 10.6 ms", 8 / 0.0106, loadsim.Exactly(10600 * time.Microsecond), slots}
	cpuConstant = service{"2 cores x 5 ms", 400, loadsim.Exactly(5 * time.Millisecond), cores}
)

// guard is what stands in front of a service; several share one when there are several.
type guard struct {
	name string
	make func(*testing.T) func(http.Handler) http.Handler
}

func limiterOf(t *testing.T, o Options, rule func(Options) limit) *Limiter {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	l, err := New("test", o)
	if err != nil {
		t.Fatal(err)
	}
	if rule != nil {
		l.limit = rule(l.opts)
	}
	return l
}

func knees(o Options) guard {
	return guard{"overload", func(t *testing.T) func(http.Handler) http.Handler { return limiterOf(t, o, nil).Middleware }}
}

var (
	ours    = knees(Options{})
	nothing = guard{"no limiter", func(*testing.T) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler { return next }
	}}
)

// answerWriter keeps the status.
type answerWriter struct {
	header http.Header
	status int
}

func (w *answerWriter) Header() http.Header { return w.header }
func (w *answerWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}
func (w *answerWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return len(p), nil
}

type workKey struct{}

var anyURL = &url.URL{Path: "/"}

// run offers the load, in units of the service's capacity, to n guards with the service behind all of them.
func run(t *testing.T, s service, g guard, n int, load loadsim.Load, during func(simulated)) *loadsim.Result {
	t.Helper()
	var result *loadsim.Result
	synctest.Test(t, func(t *testing.T) {
		behind := s.make()
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			behind.Do(r.Context().Value(workKey{}).(time.Duration))
			w.WriteHeader(http.StatusOK)
		})
		fronts := make([]http.Handler, n)
		for i := range fronts {
			fronts[i] = g.make(t)(handler)
		}
		if during != nil {
			go during(behind)
		}
		rate := load.Rate
		load.Rate = func(at time.Duration) float64 { return s.capacity * rate(at) }
		if load.Work == nil {
			load.Work = s.work
		}
		if load.Patience == 0 {
			load.Patience = 100 * time.Millisecond
		}
		pick := rand.New(rand.NewPCG(load.Seed, 3))
		next := make(chan int, 1)
		next <- 0
		result = loadsim.Run(load, func(ctx context.Context, r loadsim.Request) loadsim.Outcome {
			front := fronts[0]
			if n > 1 {
				<-next
				front = fronts[pick.IntN(n)]
				next <- 0
			}
			ctx = context.WithValue(ctx, workKey{}, r.Work)
			request := &http.Request{Method: "GET", URL: anyURL, RemoteAddr: fmt.Sprintf("192.0.2.%d:1234", r.Class)}
			w := &answerWriter{header: make(http.Header, 4)}
			front.ServeHTTP(w, request.WithContext(ctx))
			if w.status == http.StatusServiceUnavailable {
				return loadsim.Refused
			}
			return loadsim.Served
		})
	})
	return result
}

// span is what was counted between two times, as shares.
type span struct {
	loadsim.Counts
	goodput float64       // % of capacity
	refused float64       // % of what was offered
	p99     time.Duration // of those served
}

func measure(r *loadsim.Result, capacity float64, from, to time.Duration) span {
	c := r.Between(from, to, nil)
	return span{c, 100 * float64(c.Good) / (to - from).Seconds() / capacity, 100 * float64(c.Refused) / float64(max(1, c.Offered)), r.Quantile(0.99, from, to)}
}

func (s span) String() string {
	return fmt.Sprintf("%5.1f %5.2f %4d", s.goodput, s.refused, s.p99.Milliseconds())
}
