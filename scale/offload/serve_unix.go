//go:build unix

package offload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/fairlead/fairlead/internal/process"
)

// serve is the life of a process that runs registered functions. It ends with the pipe, which is when the lane closes it or
// the lane's process is gone.
func serve(process.Role) {
	syscall.CloseOnExec(3)
	syscall.CloseOnExec(4)
	in, out := os.NewFile(3, "calls"), os.NewFile(4, "answers")
	// Received and dropped: an init system tells every process of a service, and calls under way shall end in peace.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	// When memory runs out, rather this process than one that serves.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)

	s := &server{out: out}
	for {
		f, err := readFrame(in)
		if err != nil {
			os.Exit(0)
		}
		switch f.kind {
		case kindRun:
			s.run(f)
		case kindCancel:
			s.cancel(f.call)
		}
	}
}

type server struct {
	out *os.File

	mu   sync.Mutex
	call uint32
	end  context.CancelFunc
}

func (s *server) run(f frame) {
	timeout, name, argument, err := parseRun(f.payload)
	if err != nil {
		s.answer(frame{kindError, f.call, []byte(err.Error())})
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), timeout)
	}
	s.mu.Lock()
	s.call, s.end = f.call, cancel
	s.mu.Unlock()
	go func() {
		defer cancel()
		a := frame{kind: kindGoexit, call: f.call}
		defer func() {
			if v := recover(); v != nil {
				a = frame{kindPanic, f.call, panicPayload(fmt.Sprint(v), debug.Stack())}
			}
			s.answer(a)
		}()
		a = result(ctx, f.call, name, argument)
	}()
}

// result runs the function.
func result(ctx context.Context, call uint32, name string, argument []byte) frame {
	registry.Lock()
	fn := registry.functions[name]
	registry.Unlock()
	if fn == nil {
		return frame{kindError, call, []byte("offload: no function is named " + name + " in the new process: Register it in the declaration of a package's variable")}
	}
	value, err := fn(ctx, argument)
	switch {
	case err == nil:
		return frame{kindValue, call, value}
	case errors.Is(err, context.DeadlineExceeded):
		return frame{kindDeadline, call, []byte(err.Error())}
	case errors.Is(err, context.Canceled):
		return frame{kindCanceled, call, []byte(err.Error())}
	}
	return frame{kindError, call, []byte(err.Error())}
}

func (s *server) cancel(call uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.call == call && s.end != nil {
		s.end()
	}
}

// answer writes a frame; the lane reads one for each call.
func (s *server) answer(f frame) {
	if err := f.write(s.out); err != nil {
		os.Exit(1) // the lane is gone
	}
}
