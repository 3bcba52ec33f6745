package scale

import (
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/fairlead/fairlead/internal/telemetry"
)

// memListener is a listener without a network, so that a server can live in a synctest bubble.
type memListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *memListener) Addr() net.Addr { return memAddr{} }

func (l *memListener) dial(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type memAddr struct{}

func (memAddr) Network() string { return "mem" }
func (memAddr) String() string  { return "mem" }

// fakeWorker is a process.Worker with one listener.
type fakeWorker struct {
	ln    net.Listener
	ready chan struct{}

	mu      sync.Mutex
	checks  map[string]func(context.Context) error
	sources []func() iter.Seq[telemetry.Sample]
}

func newFakeWorker(ln net.Listener) *fakeWorker {
	return &fakeWorker{ln: ln, ready: make(chan struct{}), checks: map[string]func(context.Context) error{}}
}

func (*fakeWorker) Slot() int                   { return 1 }
func (*fakeWorker) Generation() int             { return 2 }
func (*fakeWorker) InstanceID() string          { return "fake" }
func (*fakeWorker) DrainTimeout() time.Duration { return 20 * time.Second }
func (*fakeWorker) IdleGrace() time.Duration    { return 2 * time.Second }
func (*fakeWorker) PreStop() time.Duration      { return 0 }
func (w *fakeWorker) Ready()                    { close(w.ready) }

func (w *fakeWorker) Listener(name string) (net.Listener, error) {
	if name != "http" || w.ln == nil {
		return nil, errors.New("no listener named " + name)
	}
	return w.ln, nil
}

func (w *fakeWorker) AddCheck(name string, check func(context.Context) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checks[name] = check
}

func (w *fakeWorker) AddSamples(source func() iter.Seq[telemetry.Sample]) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sources = append(w.sources, source)
}

func (w *fakeWorker) samples() map[string]float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	got := map[string]float64{}
	for _, source := range w.sources {
		for s := range source() {
			v := s.Value
			if s.Buckets != nil {
				v = float64(s.Buckets.Count())
			}
			key := s.Name
			for _, a := range s.Attrs {
				key += " " + a.Value
			}
			got[key] += v
		}
	}
	return got
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }
