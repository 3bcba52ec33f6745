//go:build unix

package cluster

import (
	"context"
	"errors"
	"sync"

	"github.com/fairlead/fairlead/cluster/internal/machine"
	"github.com/fairlead/fairlead/cluster/internal/sys"
	"github.com/fairlead/fairlead/cluster/internal/wire"
)

// proc is a worker's process and the conversation with it.
type proc struct {
	id         int
	pid        int
	instanceID string
	conn       *wire.Conn
	orders     chan order
	gone       chan struct{} // closed when the process has exited
	end        exit          // as far as it is known
	words      *lastWords

	failing string // as last told to the machine
	memory  int64

	mu      sync.Mutex
	request uint64
	answers map[uint64]chan wire.Message
}

// order is a message on its way to a worker, and the owner of the descriptors that go with it.
type order struct{ wire.Message }

func (o order) close() {
	for _, fd := range o.FDs {
		sys.CloseFD(fd)
	}
}

func newProc(id, pid int, instanceID string, conn *wire.Conn) *proc {
	p := &proc{id: id, pid: pid, instanceID: instanceID, conn: conn, orders: make(chan order, 16), gone: make(chan struct{})}
	go p.send()
	return p
}

// send writes orders one after the other: a worker that does not read holds up this goroutine and nobody else.
func (p *proc) send() {
	for {
		select {
		case m := <-p.orders:
			err := p.conn.Send(m.Message)
			m.close()
			if err != nil {
				return
			}
		case <-p.gone:
			return
		}
	}
}

// drain tells the worker to finish.
func (p *proc) drain(stopping bool) { p.order(wire.Message{Type: wire.Drain, Stopping: stopping}) }

// order makes room for m where older messages fill the queue: polls, or orders that m outdates.
func (p *proc) order(m wire.Message) {
	for {
		select {
		case p.orders <- order{m}:
			return
		default:
		}
		select {
		case old := <-p.orders:
			old.close()
		default:
		}
	}
}

// poll asks for a frame, unless so much is waiting already that another question would not help.
func (p *proc) poll(n uint64) {
	if len(p.orders) > cap(p.orders)/2 {
		return
	}
	select {
	case p.orders <- order{wire.Message{Type: wire.Poll, Poll: n}}:
	default:
	}
}

// exited ends the sending side; receive goes on until it has everything that the worker said.
func (p *proc) exited() { close(p.gone) }

// receive takes in what the worker says until it has gone.
func (p *proc) receive(post func(any), t *totals) {
	defer p.conn.Close()
	defer t.remove(p.id)
	for {
		m, err := p.conn.Receive()
		if err != nil {
			return
		}
		switch m.Type {
		case wire.Update:
			t.update(p.id, m.Frame, m.Poll)
			p.judge(m.Frame, post)
		case wire.Beat:
			post(machine.Beat{ID: p.id, Sick: m.Error})
		case wire.Profiled:
			p.answer(m)
		case wire.Ready:
			post(machine.IsReady{ID: p.id})
		case wire.Replace:
			post(machine.Replace{ID: p.id})
		}
	}
}

// judge tells the machine what of a frame it goes by.
func (p *proc) judge(f *wire.Frame, post func(any)) {
	if f == nil {
		return
	}
	failing := ""
	for _, c := range f.Checks {
		if c.Error != "" {
			failing = c.Name + ": " + c.Error
			break
		}
	}
	if failing != p.failing {
		p.failing = failing
		post(machine.Checks{ID: p.id, Failing: failing})
	}
	if f.RSS != p.memory {
		p.memory = f.RSS
		post(machine.Memory{ID: p.id, Bytes: f.RSS})
	}
}

// ask sends m and waits for the answer.
func (p *proc) ask(ctx context.Context, m wire.Message) (wire.Message, error) {
	answer := make(chan wire.Message, 1)
	p.mu.Lock()
	p.request++
	m.Request = p.request
	if p.answers == nil {
		p.answers = make(map[uint64]chan wire.Message)
	}
	p.answers[m.Request] = answer
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.answers, m.Request)
		p.mu.Unlock()
	}()
	p.order(m)
	select {
	case m := <-answer:
		if m.Error != "" {
			return m, errors.New(m.Error)
		}
		return m, nil
	case <-p.gone:
		return wire.Message{}, errors.New("cluster: the worker has ended")
	case <-ctx.Done():
		return wire.Message{}, errors.New("cluster: the worker does not answer")
	}
}

func (p *proc) answer(m wire.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.answers[m.Request]; c != nil {
		c <- m
		delete(p.answers, m.Request)
	}
}
