package drain

import (
	"context"
	"iter"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead/fairlead/internal/process"
	"github.com/fairlead/fairlead/internal/telemetry"
)

// fakeWorker is a cluster's worker as Serve sees it.
type fakeWorker struct {
	process.Worker
	drain, idle, preStop time.Duration
	ready                atomic.Int32
	sources              atomic.Int32
}

func (w *fakeWorker) Ready()                                       { w.ready.Add(1) }
func (w *fakeWorker) DrainTimeout() time.Duration                  { return w.drain }
func (w *fakeWorker) IdleGrace() time.Duration                     { return w.idle }
func (w *fakeWorker) PreStop() time.Duration                       { return w.preStop }
func (w *fakeWorker) AddSamples(func() iter.Seq[telemetry.Sample]) { w.sources.Add(1) }

func TestOptionsOnlyShortenTheWorkers(t *testing.T) {
	w := &fakeWorker{drain: 10 * time.Second, preStop: 3 * time.Second}
	for _, c := range []struct {
		worker             process.Worker
		own, drain, before time.Duration // before: PreStop
	}{
		{nil, 0, defaultDrainTimeout, 0},
		{nil, time.Minute, time.Minute, time.Minute},
		{w, 0, 10 * time.Second, 3 * time.Second},
		{w, time.Minute, 10 * time.Second, 3 * time.Second},
		{w, time.Second, time.Second, time.Second},
	} {
		d := &drainer{worker: c.worker, opts: Options{DrainTimeout: c.own, PreStop: c.own}}
		if got := d.shortest(c.own, process.Worker.DrainTimeout, defaultDrainTimeout); got != c.drain {
			t.Errorf("own %v: DrainTimeout %v, want %v", c.own, got, c.drain)
		}
		if got := d.preStop(); got != c.before && !process.InKubernetes() {
			t.Errorf("own %v: PreStop %v, want %v", c.own, got, c.before)
		}
	}
}

func TestTheWorkerIsReadyOnceAllServersAccept(t *testing.T) {
	w := &fakeWorker{drain: backstop, idle: time.Millisecond}
	ctx, stop := context.WithCancel(process.WithWorker(t.Context(), w))
	hold, accepting := make(chan struct{}), make(chan struct{})
	slow := Custom(listen(t), func(ln net.Listener) error {
		close(accepting)
		<-hold
		for {
			if _, err := ln.Accept(); err != nil {
				return err
			}
		}
	}, func(context.Context) error { return nil })
	fast := listen(t)
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, Options{}, HTTP(&http.Server{Handler: http.HandlerFunc(ok)}, fast), slow) }()
	<-accepting
	resp, err := http.Get("http://" + fast.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if w.ready.Load() != 0 {
		t.Error("ready before the last server accepts")
	}
	close(hold)
	eventually(t, "ready", func() bool { return w.ready.Load() == 1 })
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if w.ready.Load() != 1 || w.sources.Load() != 1 {
		t.Errorf("ready %d times, %d sources of samples", w.ready.Load(), w.sources.Load())
	}
}
