package breaker

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// shedder serves so many requests a second and refuses the others with 503 and Retry-After.
type shedder struct {
	perSecond          int
	second             int64
	served             int
	accepted, received int
}

func (s *shedder) RoundTrip(*http.Request) (*http.Response, error) {
	s.received++
	if now := time.Now().Unix(); now != s.second {
		s.second, s.served = now, 0
	}
	resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}
	if s.served++; s.served > s.perSecond {
		resp.StatusCode = 503
		resp.Header.Set("Retry-After", "1")
	} else {
		s.accepted++
	}
	return resp, nil
}

func seeded() func() float64 { return rand.New(rand.NewPCG(7, 7)).Float64 }

// An upstream that sheds 90 % as it should is not cut off: it serves as much as without a breaker, and has to refuse far
// less. Afterwards everything passes again.
func TestUpstreamThatSheds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTest(t, Options{random: seeded()})
		s := &shedder{perSecond: 20}
		rt := Transport(s, func(string) *Breaker { return b })
		offer := func(seconds, perSecond int) (throttled int) {
			for range seconds * perSecond {
				req, _ := http.NewRequest("GET", "http://reviews/", nil)
				if _, err := rt.RoundTrip(req); err != nil {
					e := wantOpenError(t, err)
					if e.State != Closed || e.Requests == 0 || e.Accepts > e.Requests || e.Retryable() {
						t.Fatalf("%+v", e)
					}
					throttled++
				}
				wantState(t, b, Closed)
				time.Sleep(time.Second / time.Duration(perSecond))
			}
			return throttled
		}
		offer(60, 200) // ten times what it can; the throttle learns
		s.accepted, s.received = 0, 0
		offer(120, 200)
		if s.accepted < 120*20*98/100 {
			t.Errorf("goodput %d of %d", s.accepted, 120*20)
		}
		if per := float64(s.received) / float64(s.accepted); per < 1.5 || per > 2.5 {
			t.Errorf("%.2f requests for each that was accepted, want about 2", per)
		}
		if st := b.Stats(); st.Trips != 0 || st.Failures != 0 || st.Rejected != 0 || st.Throttled == 0 {
			t.Errorf("%+v", st)
		}
		offer(45, 10)
		if n := offer(60, 10); n != 0 {
			t.Errorf("%d throttled when the load has gone", n)
		}
	})
}

// Even if all is refused, one call in ten goes out to see.
func TestThrottleIsCapped(t *testing.T) {
	errBusy := errors.New("busy")
	for _, test := range []struct {
		max      float64
		low, upp int
	}{{0, 850, 1150}, {0.5, 4800, 5200}, {1, 2, 40}, {-1, 10_000, 10_000}} {
		synctest.Test(t, func(t *testing.T) {
			b := newTest(t, Options{random: seeded(), MaxThrottle: test.max, IsRefusal: func(err error) bool { return err == errBusy }})
			made := 0
			for range 10_000 {
				Do(ctx, b, func(context.Context) (int, error) { made++; return 0, errBusy })
			}
			if made < test.low || made > test.upp {
				t.Errorf("MaxThrottle %v: %d calls made, want %d to %d", test.max, made, test.low, test.upp)
			}
			if s := b.Stats(); s.Refused != uint64(made) || s.Throttled != uint64(10_000-made) || s.State != Closed {
				t.Errorf("%+v", s)
			}
		})
	}
}

// The formula, at points where it can be told without chance.
func TestThrottleFormula(t *testing.T) {
	errBusy := errors.New("busy")
	synctest.Test(t, func(t *testing.T) {
		draw := 0.0
		b := newTest(t, Options{random: func() float64 { return draw }, MaxThrottle: 1, IsRefusal: func(err error) bool { return err == errBusy }})
		do(b, 10, 0, nil)
		draw = 1
		do(b, 29, 0, errBusy)
		do(b, 1, 0, errDown) // a failure is not a refusal: accepted
		// 40 requests, 11 accepted: (40 - 22) / 41.
		draw = 18.0 / 41
		if err := do(b, 1, 0, nil); err != nil {
			t.Fatal(err)
		}
		// 41 requests, 12 accepted: (41 - 24) / 42.
		draw = 17.0/42 - 1e-9
		if e := wantOpenError(t, do(b, 1, 0, nil)); e.Requests != 41 || e.Accepts != 12 ||
			e.Error() != `breaker: "reviews" throttles: 12 of 41 requests were accepted` {
			t.Errorf("%v", e)
		}
		time.Sleep(30 * time.Second)
		draw = 0
		if err := do(b, 1, 0, nil); err != nil {
			t.Error(err)
		}
	})
}
