package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// command is how a program is run: as the user of the servers, with no more of
// this process's environment than PATH.
type command struct {
	path string
	args []string // args[0] is the program's name; PostgreSQL's find each other by its folder
	dir  string   // a directory below home, so that the watchdog finds the process
}

func (c command) build() *exec.Cmd {
	return &exec.Cmd{
		Path: c.path, Args: c.args, Dir: c.dir,
		Env:         []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"},
		SysProcAttr: serverAttributes(),
	}
}

// run runs the program to its end. The error holds what it printed.
func (c command) run(ctx context.Context) error {
	cmd := c.build()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	stop()
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w\n%s", c.args[0], err, out.String()), ctx.Err())
	}
	return nil
}

// server is a process with its children, all of which have its directory as their
// working directory.
type server struct {
	name string // for errors
	command
	log string // file

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has been waited for
	frozen bool
	closed bool
}

// shut keeps the server from being started again. It is true the first time.
func (s *server) shut() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := !s.closed
	s.closed = true
	return first
}

func (s *server) isShut() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// running returns nil if the process runs. The caller holds mu.
func (s *server) running() error {
	switch {
	case s.closed:
		return ErrClosed
	case !s.aliveLocked():
		return fmt.Errorf("testenv: %s does not run", s.name)
	}
	return nil
}

// start starts the process, which must not run.
func (s *server) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.aliveLocked() {
		return fmt.Errorf("testenv: %s runs already", s.name)
	}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("testenv: %s: %w", s.name, err)
	}
	defer log.Close()
	cmd := s.build()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("testenv: %s: %w", s.name, err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	s.cmd, s.exited, s.frozen = cmd, exited, false
	return nil
}

func (s *server) aliveLocked() bool {
	if s.cmd == nil {
		return false
	}
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// alive reports whether the process runs; it may be frozen.
func (s *server) alive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.aliveLocked()
}

// answers reports whether the process runs and is not frozen.
func (s *server) answers() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.aliveLocked() && !s.frozen
}

// Kill ends all processes of the server at once, as kill -9 does. It returns when
// they are gone. A server that does not run is left alone. [Redis.Start] and
// [Node.Start] start it again.
func (s *server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aliveLocked() {
		// The parent is stopped first, so that it neither replaces its children nor
		// notices and reports that they are gone.
		if err := s.cmd.Process.Signal(stopSignal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("testenv: %s: %w", s.name, err)
		}
		if err := killIn(s.dir, s.cmd.Process.Pid); err != nil {
			return fmt.Errorf("testenv: %s: %w", s.name, err)
		}
		if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("testenv: %s: %w", s.name, err)
		}
		<-s.exited
	}
	s.frozen = false
	if err := killIn(s.dir, 0); err != nil {
		return fmt.Errorf("testenv: %s: %w", s.name, err)
	}
	return nil
}

// Freeze stops all processes of the server where they are, as SIGSTOP does. It
// returns when they have stopped. The kernel still accepts connections and bytes
// for the server. Thaw lets it go on.
func (s *server) Freeze() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.running(); err != nil {
		return err
	}
	s.frozen = true
	if err := freezeIn(s.dir, s.cmd.Process.Pid); err != nil {
		return fmt.Errorf("testenv: %s: %w", s.name, err)
	}
	return nil
}

// Thaw lets a frozen server go on.
func (s *server) Thaw() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.running(); err != nil {
		return err
	}
	s.frozen = false
	if err := thawIn(s.dir, s.cmd.Process.Pid); err != nil {
		return fmt.Errorf("testenv: %s: %w", s.name, err)
	}
	return nil
}

// signal sends a signal to the process itself.
func (s *server) signal(sig os.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.running(); err != nil {
		return err
	}
	if err := s.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("testenv: %s: %w", s.name, err)
	}
	return nil
}

// stop asks the server to end with a signal and waits. When ctx ends first, or a
// minute has passed, the server is killed, and that is an error.
func (s *server) stop(ctx context.Context, sig syscall.Signal) error {
	s.mu.Lock()
	alive, frozen, exited := s.aliveLocked(), s.frozen, s.exited
	s.mu.Unlock()
	switch {
	case !alive:
		return nil
	case frozen:
		return fmt.Errorf("testenv: %s is frozen and cannot stop", s.name)
	}
	if err := s.signal(sig); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-exited:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("testenv: %s did not stop and was killed: %w", s.name, ctx.Err()), s.Kill())
	}
}

// until calls ready every few milliseconds until it is nil, and gives up when ctx
// ends, a minute has passed or the server has ended.
func (s *server) until(ctx context.Context, what string, ready func(context.Context) error) error {
	err := poll(ctx, func(ctx context.Context) error {
		if err := ready(ctx); err == nil || s.alive() {
			return err
		}
		return permanent{errors.New("the process ended")}
	})
	if err != nil {
		return fmt.Errorf("testenv: %s: %s: %w\n%s", s.name, what, err, s.lastWords())
	}
	return nil
}

// lastWords returns the end of the server's log.
func (s *server) lastWords() string {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4096):])
}

// patience bounds every wait for a server, for callers without a deadline.
const patience = time.Minute

// permanent ends a poll.
type permanent struct{ error }

// poll calls f until it returns nil or a permanent error. The error is f's last
// one.
func poll(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for wait := time.Millisecond; ; wait = min(2*wait, 10*time.Millisecond) {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := f(try)
		cancel()
		if err == nil {
			return nil
		}
		if p, ok := errors.AsType[permanent](err); ok {
			return p.error
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(wait):
		}
	}
}
