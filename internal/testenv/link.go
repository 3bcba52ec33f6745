package testenv

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// maxQueued is how many bytes a pipe keeps before it stops reading.
const maxQueued = 16 << 20

// link is one connection through a Proxy.
type link struct {
	proxy  *Proxy
	client *net.TCPConn

	ctx    context.Context // ends when the link is closed
	cancel context.CancelFunc
	gone   chan struct{} // closed when both sockets are

	lost   atomic.Bool // in a black hole, for good
	silent atomic.Bool // a reply was dropped: nothing more goes to the client
	losing atomic.Bool // the next reply is dropped and the link reset

	mu     sync.Mutex
	server *net.TCPConn
	closed bool
	ends   int // directions that reached their end
}

func newLink(p *Proxy, client *net.TCPConn) *link {
	l := &link{proxy: p, client: client, gone: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// run returns when the link is closed and its goroutines have ended.
func (l *link) run(target string) {
	if l.lost.Load() { // accepted in a black hole: the client writes and waits
		_, _ = io.Copy(countDropped{l.proxy}, l.client)
		l.close(false)
		<-l.gone
		return
	}
	conn, err := new(net.Dialer).DialContext(l.ctx, "tcp", target)
	if err != nil {
		if l.lost.Load() {
			<-l.ctx.Done()
		}
		l.close(true)
		<-l.gone
		return
	}
	server := conn.(*net.TCPConn)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		server.Close()
		return
	}
	l.server = server
	l.mu.Unlock()

	pipes := []*pipe{
		{link: l, direction: Up, from: l.client, to: server},
		{link: l, direction: Down, from: server, to: l.client},
	}
	var wg sync.WaitGroup
	for _, p := range pipes {
		p.filled, p.drained = make(chan struct{}, 1), make(chan struct{}, 1)
		wg.Go(p.read)
		wg.Go(p.write)
	}
	wg.Wait()
	l.close(false)
	for _, p := range pipes {
		p.discard()
	}
	<-l.gone
}

// close closes both sockets, with a reset or in order.
func (l *link) close(reset bool) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.closed = true
	for _, c := range []*net.TCPConn{l.client, l.server} {
		if c == nil {
			continue
		}
		if reset {
			c.SetLinger(0)
		}
		c.Close()
	}
	l.mu.Unlock()
	l.cancel()
	l.proxy.forget(l)
	close(l.gone)
}

// ended notes that a direction has delivered its end. The second one closes.
func (l *link) ended() {
	l.mu.Lock()
	l.ends++
	both := l.ends == 2
	l.mu.Unlock()
	if both {
		l.close(false)
	}
}

type countDropped struct{ p *Proxy }

func (c countDropped) Write(b []byte) (int, error) {
	c.p.dropped.Add(int64(len(b)))
	return len(b), nil
}

// pipe is one direction of a link: read queues, write delivers.
type pipe struct {
	link      *link
	direction Direction
	from, to  *net.TCPConn

	mu      sync.Mutex
	queue   []chunk
	bytes   int
	filled  chan struct{}
	drained chan struct{}

	tail []byte // the last bytes delivered, for matches that span chunks
}

// chunk is what one read returned.
type chunk struct {
	data []byte
	at   time.Time
	end  error // io.EOF for an orderly end
}

func (p *pipe) read() {
	buf := make([]byte, 32<<10)
	for {
		n, err := p.from.Read(buf)
		if !p.push(chunk{data: bytes.Clone(buf[:n]), at: time.Now(), end: err}) || err != nil {
			return
		}
	}
}

// push queues a chunk, waiting while the queue is full. It is false when the link
// was closed.
func (p *pipe) push(c chunk) bool {
	p.mu.Lock()
	for p.bytes >= maxQueued {
		p.mu.Unlock()
		select {
		case <-p.drained:
		case <-p.link.ctx.Done():
			return false
		}
		p.mu.Lock()
	}
	p.queue = append(p.queue, c)
	p.bytes += len(c.data)
	p.mu.Unlock()
	p.link.proxy.queued[p.direction].Add(int64(len(c.data)))
	wake(p.filled)
	return true
}

// head returns the first chunk without removing it.
func (p *pipe) head() (chunk, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return chunk{}, false
	}
	return p.queue[0], true
}

func (p *pipe) pop() {
	p.mu.Lock()
	n := len(p.queue[0].data)
	p.queue[0] = chunk{}
	p.queue = p.queue[1:]
	p.bytes -= n
	p.mu.Unlock()
	p.link.proxy.queued[p.direction].Add(-int64(n))
	wake(p.drained)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (p *pipe) write() {
	for {
		c, ok := p.head()
		if !ok {
			select {
			case <-p.filled:
				continue
			case <-p.link.ctx.Done():
				return
			}
		}
		f, changed := p.link.proxy.current()
		if !p.link.lost.Load() {
			if f.hold[p.direction] {
				select {
				case <-changed:
					continue
				case <-p.link.ctx.Done():
					return
				}
			}
			if wait := f.delay[p.direction] - time.Since(c.at); f.delay[p.direction] > 0 && wait > 0 {
				timer := time.NewTimer(wait)
				select {
				case <-timer.C:
				case <-changed:
				case <-p.link.ctx.Done():
				}
				timer.Stop()
				if p.link.ctx.Err() != nil {
					return
				}
				continue
			}
		}
		p.pop() // first: whoever sees the effect of the bytes also sees them counted
		if !p.deliver(c, f) {
			return
		}
	}
}

// deliver hands a chunk on, or not. It is false after the last one.
func (p *pipe) deliver(c chunk, f faults) bool {
	l, proxy := p.link, p.link.proxy
	if l.lost.Load() {
		proxy.dropped.Add(int64(len(c.data)))
		return c.end == nil
	}
	if len(c.data) > 0 {
		switch {
		case p.direction == Down && l.losing.Load():
			proxy.dropped.Add(int64(len(c.data)))
			l.close(true)
			return false
		case p.direction == Down && (f.dropReplies || l.silent.Load()):
			l.silent.Store(true)
			proxy.dropped.Add(int64(len(c.data)))
		default:
			if p.direction == Up && p.matches(c.data) {
				l.losing.Store(true) // before the server can answer
			}
			proxy.moved[p.direction].Add(int64(len(c.data)))
			if n, err := p.to.Write(c.data); err != nil {
				proxy.moved[p.direction].Add(int64(n - len(c.data)))
				l.close(true)
				return false
			}
		}
	}
	switch {
	case c.end == nil:
		return true
	case errors.Is(c.end, io.EOF):
		_ = p.to.CloseWrite()
		l.ended()
	default:
		l.close(true)
	}
	return false
}

// matches reports whether the request that ends with data is one whose reply is
// to be lost.
func (p *pipe) matches(data []byte) bool {
	match, active := p.link.proxy.losing()
	if !active {
		p.tail = nil
		return false
	}
	data = append(p.tail, data...)
	if bytes.Contains(data, []byte(match)) && p.link.proxy.lose(match) {
		p.tail = nil
		return true
	}
	p.tail = bytes.Clone(data[max(0, len(data)-max(0, len(match)-1)):])
	return false
}

// discard takes what is left out of the count of queued bytes.
func (p *pipe) discard() {
	for {
		if _, ok := p.head(); !ok {
			return
		}
		p.pop()
	}
}
