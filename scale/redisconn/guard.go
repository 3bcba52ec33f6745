package redisconn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fairlead/fairlead/scale/breaker"
)

const (
	pingTimeout = 250 * time.Millisecond
	openFor     = 250 * time.Millisecond // between two PINGs of a server that was cut off
	trustFor    = 50 * time.Millisecond  // an answered PING outweighs what fails so soon after it
	idleAfter   = 5 * time.Second        // a server that nobody asks for is left alone
)

// A command that fails, or whose caller's time runs out, says little: the budget may have been small, the pool exhausted, a
// connection old. So commands are never counted. Each such failure starts one PING, on a connection of its own, and only
// PINGs reach the breaker. Success costs three atomic loads, before the command.

func newHosts() (*breaker.Hosts, error) {
	return breaker.PerHost("redis", breaker.Options{
		MinCalls: 1, Probes: 1, OpenFor: openFor, SlowRate: -1, MaxThrottle: -1,
		Logger: slog.New(slog.DiscardHandler), // each PING is a change of state; the guard logs the first and the last
	})
}

// server guards one Redis server.
type server struct {
	addr    string
	breaker *breaker.Breaker
	ping    func(context.Context) error
	began   time.Time
	tripped func() // the breaker opened

	checking atomic.Bool           // a check is under way
	trusted  atomic.Int64          // when a PING was last answered, since began
	asked    atomic.Int64          // when a call was last refused, since began
	cause    atomic.Pointer[error] // what calls get while the server is cut off
	refused  *atomic.Uint64

	life *life
}

// life ends the checks when the Client is closed.
type life struct {
	closed atomic.Bool
	ctx    context.Context
	cancel context.CancelFunc

	mu sync.Mutex // for wg.Add beside Close
	wg sync.WaitGroup
}

func newLife() *life {
	l := new(life)
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

func (l *life) start(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return false
	}
	l.wg.Go(f)
	return true
}

// end returns false if it was called before.
func (l *life) end() bool {
	l.mu.Lock()
	first := !l.closed.Swap(true)
	l.cancel()
	l.mu.Unlock()
	l.wg.Wait()
	return first
}

// admit lets a call pass or refuses it. Where nobody has looked at a server for long, the call waits for the PING that it
// causes, at most as long as its context lasts.
func (s *server) admit(ctx context.Context) error {
	if s.breaker.State() == breaker.Closed || s.life.closed.Load() {
		return nil
	}
	s.asked.Store(int64(time.Since(s.began)))
	if looked := s.check(true); looked != nil {
		select {
		case <-looked:
		case <-ctx.Done():
		}
		if s.breaker.State() == breaker.Closed {
			return nil
		}
	}
	s.refused.Add(1)
	if err := s.cause.Load(); err != nil {
		return *err
	}
	return ErrUnavailable
}

// saw hears of a command that failed.
func (s *server) saw(ctx context.Context, err error) {
	switch {
	case answered(err), errors.Is(err, redis.Nil), errors.Is(err, ErrUnavailable), errors.Is(err, redis.ErrClosed):
		return
	case ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded):
		return // the caller went away
	}
	s.suspect()
}

func (s *server) suspect() {
	at := s.trusted.Load()
	if at != 0 && time.Since(s.began) < time.Duration(at)+trustFor || s.breaker.State() != breaker.Closed {
		return
	}
	s.check(false)
}

// check sees whether the server answers, and goes on until it does or nobody asks for it. It returns a channel that closes
// when the first PING is over, or nil if another check is under way. A server in good standing gets a second PING if the
// first ran out of time: the machine of this process may have been what was slow.
func (s *server) check(cut bool) <-chan struct{} {
	if !s.checking.CompareAndSwap(false, true) {
		return nil
	}
	looked := make(chan struct{})
	ok := s.life.start(func() {
		defer s.checking.Store(false)
		err := s.look(cut)
		close(looked)
		for err != nil {
			select {
			case <-time.After(openFor):
			case <-s.life.ctx.Done():
				return
			}
			if time.Since(s.began)-time.Duration(s.asked.Load()) >= idleAfter {
				return
			}
			err = s.look(true)
		}
	})
	if !ok {
		s.checking.Store(false)
		return nil
	}
	return looked
}

// look is one call of the breaker.
func (s *server) look(cut bool) error {
	_, err := breaker.Do(s.life.ctx, s.breaker, func(ctx context.Context) (struct{}, error) {
		err := s.pingOnce(ctx)
		if err != nil && !cut && isTimeout(err) {
			err = s.pingOnce(ctx)
		}
		if err == nil {
			s.trusted.Store(max(1, int64(time.Since(s.began))))
			return struct{}{}, nil
		}
		s.refuseWith(err)
		return struct{}{}, err
	})
	if err == nil {
		if cut {
			slog.Info("redisconn: the server answers again", "server", s.addr)
		}
		return nil
	}
	if !cut && s.life.ctx.Err() == nil {
		s.asked.Store(int64(time.Since(s.began)))
		slog.Warn("redisconn: the server does not answer and is cut off until it does", "server", s.addr, "error", err)
	}
	if s.tripped != nil && s.life.ctx.Err() == nil {
		s.tripped()
	}
	return err
}

func (s *server) pingOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	return s.ping(ctx)
}

// refuseWith sets what calls get from now on. The PING's own error is there as text only: go-redis would take a dial's for
// one worth another attempt.
func (s *server) refuseWith(err error) {
	open := &breaker.OpenError{Name: "redis/" + s.addr, State: breaker.Open, Calls: 1, Failures: 1, NextProbe: time.Now().Add(openFor)}
	cause := fmt.Errorf("%w: PING: %s: %w", ErrUnavailable, err.Error(), error(open))
	s.cause.Store(&cause)
}

func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// DialHook hears of connections that cannot be made at once; the command itself is tried again by go-redis first.
func (s *server) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if err != nil {
			s.saw(ctx, err)
		}
		return conn, err
	}
}

// ProcessHook guards a command.
func (s *server) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := s.admit(ctx); err != nil {
			cmd.SetErr(err)
			return err
		}
		err := next(ctx, cmd)
		if err != nil {
			s.saw(ctx, err)
		}
		return err
	}
}

// ProcessPipelineHook guards a pipeline or transaction, on Cluster the part of it that goes to this server.
func (s *server) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if err := s.admit(ctx); err != nil {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
			return err
		}
		err := next(ctx, cmds)
		if err != nil {
			s.saw(ctx, err)
			for _, cmd := range cmds {
				if e := cmd.Err(); e != nil {
					s.saw(ctx, e)
				}
			}
		}
		return err
	}
}

// guard puts a server's guard into client, one of a single server or of a node of a Cluster.
func (c *Client) guard(client *redis.Client, tripped func()) {
	o := *client.Options()
	o.PoolSize, o.MinIdleConns, o.MaxIdleConns, o.PipelinePoolSize = 1, 0, 0, -1
	o.MaxRetries, o.DialerRetries, o.DisableIdentity, o.ContextTimeoutEnabled = -1, 1, true, true
	o.Limiter, o.PushNotificationProcessor, o.MaintNotificationsConfig = nil, nil, nil
	dial := o.Dialer
	client.AddHook(&server{
		addr: o.Addr, breaker: c.hosts.For(o.Addr), began: time.Now(), tripped: tripped, refused: &c.refused, life: c.life,
		ping: func(ctx context.Context) error {
			// A client a PING: a connection kept from before a failover would answer for the wrong server. It gets one that is
			// there already, or go-redis would log each that is refused.
			conn, err := dialWithin(ctx, func() (net.Conn, error) { return dial(ctx, o.Network, o.Addr) })
			if err != nil {
				return err
			}
			defer conn.Close()
			o := o
			o.Dialer = func(context.Context, string, string) (net.Conn, error) { return conn, nil }
			p := redis.NewClient(&o)
			defer p.Close()
			return p.Ping(ctx).Err()
		},
	})
}

// dialWithin keeps a dial to its context, which go-redis's own dialer forgets under TLS.
func dialWithin(ctx context.Context, dial func() (net.Conn, error)) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	dialled := make(chan result, 1)
	go func() {
		conn, err := dial()
		dialled <- result{conn, err}
	}()
	select {
	case r := <-dialled:
		return r.conn, r.err
	case <-ctx.Done():
		go func() {
			if r := <-dialled; r.conn != nil {
				r.conn.Close()
			}
		}()
		return nil, ctx.Err()
	}
}
