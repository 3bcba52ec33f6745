//go:build unix

package cluster

import (
	"bytes"
	"encoding/json"
	"iter"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead/fairlead/cluster/internal/wire"
	"github.com/fairlead/fairlead/internal/telemetry"
)

func values(of ...telemetry.Sample) func() iter.Seq[telemetry.Sample] {
	return func() iter.Seq[telemetry.Sample] { return slices.Values(of) }
}

func names(samples []telemetry.Sample) []string {
	var names []string
	for _, s := range samples {
		if strings.HasPrefix(s.Name, "test.") {
			names = append(names, s.Name)
		}
	}
	return names
}

func TestASourceSpoilsNothingButItself(t *testing.T) {
	var log bytes.Buffer
	w := newWorker(Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	w.AddSamples(values(
		telemetry.Sample{Name: "test.nan", Kind: telemetry.Gauge, Value: math.NaN()},
		telemetry.Sample{Name: "test.inf", Kind: telemetry.Gauge, Value: math.Inf(-1)},
		telemetry.Sample{Name: "test.sum", Kind: telemetry.Histogram, Buckets: &telemetry.Buckets{Sum: math.Inf(1)}},
		telemetry.Sample{Name: "test.huge", Kind: telemetry.Gauge, Value: math.MaxFloat64},
		telemetry.Sample{Name: "test.huge", Kind: telemetry.Gauge, Value: math.MaxFloat64},
		telemetry.Sample{Name: "test.a", Kind: telemetry.Counter, Value: 1},
		telemetry.Sample{Name: "test.a", Kind: telemetry.Counter, Value: math.NaN()},
	))
	w.AddSamples(func() iter.Seq[telemetry.Sample] { panic("a source's fault") })
	w.AddSamples(values(telemetry.Sample{Name: "test.b", Kind: telemetry.Counter, Value: 2}))
	for range 3 {
		f := w.frame(w.collect())
		if _, err := json.Marshal(f); err != nil {
			t.Fatal(err)
		}
		if got := names(f.Samples); !slices.Equal(got, []string{"test.a", "test.b"}) {
			t.Errorf("got %q", got)
		}
	}
	if n := strings.Count(log.String(), "a source's fault"); n != 1 {
		t.Errorf("logged %d times: %s", n, log.String())
	}
}

// sent is a connection that hands over what is sent.
type sent chan wire.Message

func (s sent) Send(m wire.Message) error { s <- m; return nil }

func TestASourceThatBlocksHoldsUpNeitherReadinessNorOrders(t *testing.T) {
	w := newWorker(Options{})
	asked, release := make(chan struct{}, 100), make(chan struct{})
	w.AddSamples(func() iter.Seq[telemetry.Sample] {
		asked <- struct{}{}
		<-release
		return values(telemetry.Sample{Name: "test.a", Kind: telemetry.Counter, Value: 1})()
	})
	conn := make(sent, 100)
	r := newReporting(w, conn)
	go r.run()
	r.ask(1)
	<-asked
	r.ready()
	if a, b := <-conn, <-conn; a.Type != wire.Update || b.Type != wire.Ready {
		t.Errorf("got %+v and %+v", a, b)
	}
	for n := range uint64(10) { // nobody answers, and nobody waits
		r.ask(2 + n)
	}
	close(release)
	var polls []uint64
	for !slices.Contains(polls, 11) {
		if m := <-conn; m.Poll > 1 {
			polls = append(polls, m.Poll)
		}
	}
	if !slices.Equal(polls, []uint64{11}) {
		t.Errorf("polls %v were answered: the newest one makes up for those before", polls)
	}
	w.close()
	r.finish()
	close(conn)
	var last wire.Message
	for m := range conn {
		last = m
	}
	if last.Type != wire.Update || !slices.Equal(names(last.Frame.Samples), []string{"test.a"}) {
		t.Errorf("the last frame: %+v", last)
	}
}
