package testenv

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Direction is a direction through a Proxy.
type Direction int

const (
	Up   Direction = iota // from the client to the server
	Down                  // from the server to the client
)

// Proxy is a TCP proxy that injects faults. Without any it forwards everything,
// in order, half-closes and resets included. Faults apply to the connections that
// are open and to those that come, unless their method says otherwise, and can be
// combined. All methods are safe for concurrent use.
type Proxy struct {
	addr string
	wg   sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while refusing
	links    map[*link]struct{}
	closed   bool
	faults   faults
	changed  chan struct{} // closed and replaced when faults change

	accepted atomic.Int64
	dropped  atomic.Int64
	moved    [2]atomic.Int64
	queued   [2]atomic.Int64
}

// faults is what the proxy does at the moment.
type faults struct {
	target      string
	delay       [2]time.Duration
	hold        [2]bool
	dropReplies bool
	blackHole   bool
	lose        int // replies still to lose
	loseMatch   string
}

// ProxyStats is what a Proxy has done so far.
type ProxyStats struct {
	Accepted   int64 // connections accepted
	Open       int   // of these, still open
	Up, Down   int64 // bytes delivered to the server and to the client
	QueuedUp   int64 // bytes that wait for a delay or for Release
	QueuedDown int64 // bytes that wait for a delay or for Release
	Dropped    int64 // bytes swallowed by DropReplies, LoseReplies and BlackHole
}

// StartProxy starts a proxy in front of target, a host and port. It accepts before
// it dials: a client of a server that refuses is accepted and then reset.
func StartProxy(target string) (*Proxy, error) {
	l, err := listen()
	if err != nil {
		return nil, fmt.Errorf("testenv: proxy: %w", err)
	}
	p := &Proxy{
		addr:    l.Addr().String(),
		links:   make(map[*link]struct{}),
		changed: make(chan struct{}),
		faults:  faults{target: target},
	}
	p.serve(l)
	return p, nil
}

// Addr returns the host and port to connect to. It stays the same until Close.
func (p *Proxy) Addr() string { return p.addr }

// SetTarget sends connections accepted from now on to another server. Open ones
// stay where they are; Cut makes their clients reconnect.
func (p *Proxy) SetTarget(addr string) {
	p.change(func(f *faults) { f.target = addr })
}

// SetDelay delays what goes up and what comes down. Bytes on their way are
// delayed anew: less delay delivers them earlier, never out of order. Zero or
// less is no delay.
func (p *Proxy) SetDelay(up, down time.Duration) {
	p.change(func(f *faults) { f.delay = [2]time.Duration{up, down} })
}

// Hold accepts bytes in the given directions (none means both) and keeps them, as
// well as the end of the connection, until Release. A sender is blocked only when
// a connection holds 16 MiB.
func (p *Proxy) Hold(directions ...Direction) {
	if len(directions) == 0 {
		directions = []Direction{Up, Down}
	}
	p.change(func(f *faults) {
		for _, d := range directions {
			f.hold[d] = true
		}
	})
}

// Release delivers what Hold kept, in order, and ends Hold in both directions.
func (p *Proxy) Release() {
	p.change(func(f *faults) { f.hold = [2]bool{} })
}

// DropReplies swallows, when on, what comes from the server. A connection of
// which anything was swallowed never delivers another byte to its client, also
// after DropReplies(false): it would be garbage. Its client waits until the server
// or Cut ends the connection.
func (p *Proxy) DropReplies(on bool) {
	p.change(func(f *faults) { f.dropReplies = on })
}

// LoseReplies forwards the next n requests that contain match (empty: any bytes),
// swallows what the server answers and then resets the client's connection: the
// request was carried out, and the client cannot know. Once n replies are lost
// everything is forwarded again. It replaces an earlier LoseReplies; n = 0 ends it.
func (p *Proxy) LoseReplies(n int, match string) {
	p.change(func(f *faults) { f.lose, f.loseMatch = n, match })
}

// BlackHole makes, when on, a network that swallows everything: open connections
// forward nothing more, not even their end, and never again; new ones are accepted
// and never forwarded. When it is off, new connections work and the swallowed ones
// hang until their client or Cut ends them.
func (p *Proxy) BlackHole(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on {
		for l := range p.links {
			l.lost.Store(true)
		}
	}
	p.changeLocked(func(f *faults) { f.blackHole = on })
}

// Cut closes all open connections on both sides, in order unless a side has just
// sent something. New ones are accepted.
func (p *Proxy) Cut() { p.end(false) }

// Reset is Cut with a TCP reset instead of an orderly end.
func (p *Proxy) Reset() { p.end(true) }

// Refuse refuses, when on, new connections, as a port does that nobody listens
// on. Open ones stay. It fails only if the port cannot be opened again.
func (p *Proxy) Refuse(on bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return ErrClosed
	case on && p.listener != nil:
		p.listener.Close()
		p.listener = nil
	case !on && p.listener == nil:
		l, err := net.Listen("tcp", p.addr)
		if err != nil {
			return fmt.Errorf("testenv: proxy: %w", err)
		}
		p.serve(l)
	}
	return nil
}

// Stats returns what the proxy has done so far.
func (p *Proxy) Stats() ProxyStats {
	p.mu.Lock()
	open := len(p.links)
	p.mu.Unlock()
	return ProxyStats{
		Accepted: p.accepted.Load(), Open: open,
		Up: p.moved[Up].Load(), Down: p.moved[Down].Load(),
		QueuedUp: p.queued[Up].Load(), QueuedDown: p.queued[Down].Load(),
		Dropped: p.dropped.Load(),
	}
}

// Close ends all connections and the proxy, and waits for its goroutines. It may
// be called more than once.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
	p.mu.Unlock()
	p.end(false)
	p.wg.Wait()
	return nil
}

// serve accepts connections of l. The caller holds p.mu or is alone.
func (p *Proxy) serve(l net.Listener) {
	p.listener = l
	p.wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return // refusing or closed
			}
			p.accept(client.(*net.TCPConn))
		}
	})
}

func (p *Proxy) accept(client *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil { // accepted while Refuse or Close was called
		client.SetLinger(0)
		client.Close()
		return
	}
	p.accepted.Add(1)
	l := newLink(p, client)
	l.lost.Store(p.faults.blackHole)
	p.links[l] = struct{}{}
	target := p.faults.target
	p.wg.Go(func() { l.run(target) })
}

func (p *Proxy) forget(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

func (p *Proxy) end(reset bool) {
	p.mu.Lock()
	links := make([]*link, 0, len(p.links))
	for l := range p.links {
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		l.close(reset)
	}
	for _, l := range links {
		<-l.gone
	}
}

func (p *Proxy) change(f func(*faults)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changeLocked(f)
}

func (p *Proxy) changeLocked(f func(*faults)) {
	f(&p.faults)
	close(p.changed)
	p.changed = make(chan struct{})
}

// current returns the faults and a channel that is closed when they change.
func (p *Proxy) current() (faults, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults, p.changed
}

// losing returns what a request contains whose reply is to be lost.
func (p *Proxy) losing() (match string, active bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults.loseMatch, p.faults.lose > 0
}

// lose takes one of the replies to lose. It is false if another request took the
// last one.
func (p *Proxy) lose(match string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.faults.lose <= 0 || p.faults.loseMatch != match {
		return false
	}
	p.faults.lose--
	return true
}
