//go:build unix

package offload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

type question struct {
	Do   string
	N    int
	Data []byte
}

type reply struct {
	PID   int
	Nice  int
	Procs int
	N     int
	Data  []byte
	Env   []string
}

var work = Register("work", func(ctx context.Context, q question) (reply, error) {
	r := reply{PID: os.Getpid(), Procs: runtime.GOMAXPROCS(0), N: q.N + 1, Data: q.Data}
	switch q.Do {
	case "nice":
		raw, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
		r.Nice = 20 - raw
		return r, err
	case "env":
		r.Env = os.Environ()
	case "fail":
		return r, errors.New("failed as asked")
	case "panic":
		panic("as asked")
	case "goexit":
		runtime.Goexit()
	case "exit":
		os.Exit(q.N)
	case "crash": // as by the kernel when memory has run out
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "wait":
		<-ctx.Done()
		return r, fmt.Errorf("as asked: %w", ctx.Err())
	case "ignore":
		for {
			time.Sleep(time.Hour)
		}
	case "allocate":
		var hold [][]byte
		for range q.N {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = byte(i)
			}
			hold = append(hold, b)
			time.Sleep(time.Millisecond)
		}
		r.N = len(hold)
	}
	return r, nil
})

func processLane(t *testing.T, o Options) *Lane {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	l, err := New("test", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestARegisteredFunctionRunsInAnotherProcess(t *testing.T) {
	l := processLane(t, Options{Workers: 2})
	data := []byte(strings.Repeat("data", 300_000)) // more than a pipe holds
	procs := runtime.GOMAXPROCS(0)
	first, err := work(t.Context(), l, question{N: 41, Data: data})
	if err != nil || first.N != 42 || string(first.Data) != string(data) || first.PID == os.Getpid() || first.Procs != 1 {
		t.Fatalf("%v: process %d, GOMAXPROCS %d, %d, %d bytes", err, first.PID, first.Procs, first.N, len(first.Data))
	}
	for range 5 {
		if again, err := work(t.Context(), l, question{Do: "nice"}); err != nil || again.PID != first.PID || runtime.GOOS == "linux" && again.Nice != niceness {
			t.Errorf("%v: process %d after %d, nice %d", err, again.PID, first.PID, again.Nice)
		}
	}
	r, err := work(t.Context(), l, question{Do: "env"})
	for _, kv := range r.Env {
		if strings.HasPrefix(kv, "FAIRLEAD_") {
			t.Errorf("%v: the function's programs would see %s", err, kv)
		}
	}
	if n := runtime.GOMAXPROCS(0); n != procs {
		t.Errorf("GOMAXPROCS %d, was %d: processes need no more here", n, procs)
	}
	if s := l.Stats(); s.Processes != 1 || s.Ran != 7 {
		t.Errorf("%+v", s)
	}
	l.Close()
	if err := syscall.Kill(first.PID, 0); err != syscall.ESRCH {
		t.Errorf("the process after Close: %v", err)
	}
	if _, err := work(t.Context(), l, question{}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestProcessesRunNoMoreThanWorkersAtATime(t *testing.T) {
	l := processLane(t, Options{Workers: 2, QueueTimeout: time.Minute})
	var mu sync.Mutex
	pids := map[int]int{}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			r, err := work(t.Context(), l, question{})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			pids[r.PID]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(pids) > 2 || l.Stats().Processes > 2 {
		t.Errorf("%d processes for 2 workers: %v", l.Stats().Processes, pids)
	}
}

func TestErrorsOfAnotherProcess(t *testing.T) {
	l := processLane(t, Options{Workers: 1})
	pid := 0
	for _, test := range []struct {
		do    string
		check func(error) bool
	}{
		{"", func(err error) bool { return err == nil }},
		{"fail", func(err error) bool { return err.Error() == "failed as asked" }},
		{"panic", func(err error) bool {
			p, ok := errors.AsType[*PanicError](err)
			return ok && p.Value == "as asked" && strings.Contains(string(p.Stack), "process_unix_test.go")
		}},
		{"goexit", func(err error) bool { p, ok := errors.AsType[*PanicError](err); return ok && p.Value == nil }},
		{"", func(err error) bool { return err == nil }},
	} {
		r, err := work(t.Context(), l, question{Do: test.do})
		if !test.check(err) {
			t.Errorf("%s: %v", test.do, err)
		}
		if pid == 0 {
			pid = r.PID
		}
		if err == nil && r.PID != pid {
			t.Errorf("%s: a new process", test.do)
		}
	}
	if n := l.Stats().Panics; n != 2 {
		t.Errorf("%d panics", n)
	}
}

func TestAProcessThatExitsOrCrashesIsReplaced(t *testing.T) {
	l := processLane(t, Options{Workers: 1})
	for _, test := range []struct {
		question
		status string
	}{
		{question{Do: "exit", N: 3}, "exit status 3"},
		{question{Do: "exit", N: 0}, "exit status 0"},
		{question{Do: "crash"}, "signal: killed"},
	} {
		_, err := work(t.Context(), l, test.question)
		e, ok := errors.AsType[*ExitError](err)
		if !ok || e.Status != test.status || e.Killed != "" || e.Task != "work" {
			t.Errorf("%s: %v", test.Do, err)
		}
		if r, err := work(t.Context(), l, question{N: 1}); err != nil || r.N != 2 {
			t.Errorf("after %s: %v", test.Do, err)
		}
	}
	// One that is killed while it has nothing to do is not noticed by a caller.
	r, _ := work(t.Context(), l, question{})
	syscall.Kill(r.PID, syscall.SIGKILL)
	for deadline := time.Now().Add(time.Minute); l.children.idle[0].alive(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the end of the process was not noticed")
		}
	}
	if again, err := work(t.Context(), l, question{}); err != nil || again.PID == r.PID {
		t.Errorf("after a kill while idle: %v", err)
	}
	if s := l.Stats(); s.Exits != 3 || s.Processes != 1 {
		t.Errorf("%+v", s)
	}
}

func eventuallyGone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); syscall.Kill(pid, 0) != syscall.ESRCH; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d lives on", pid)
		}
	}
}

func TestTheEndOfTheContextReachesTheProcess(t *testing.T) {
	l := processLane(t, Options{Workers: 1, Grace: time.Minute})
	r, err := work(t.Context(), l, question{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := work(ctx, l, question{Do: "wait"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	go func() { time.Sleep(30 * time.Millisecond); cancel() }()
	if _, err := work(ctx, l, question{Do: "wait"}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancel: %v", err)
	}
	again, err := work(t.Context(), l, question{})
	if err != nil || again.PID != r.PID {
		t.Errorf("a process that heeds its context lives on: %v", err)
	}
}

func TestAProcessThatIgnoresItsContextIsKilled(t *testing.T) {
	l := processLane(t, Options{Workers: 1, Grace: 50 * time.Millisecond, RunTimeout: time.Second, QueueTimeout: time.Minute})
	r, err := work(t.Context(), l, question{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := work(t.Context(), l, question{Do: "ignore"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	again, err := work(t.Context(), l, question{}) // waits for the worker, which is free when the process has been killed
	if err != nil || again.PID == r.PID {
		t.Errorf("%v, process %d after %d", err, again.PID, r.PID)
	}
	if s := l.Stats(); s.KilledTime != 1 || s.Abandoned != 0 || s.Exits != 0 {
		t.Errorf("%+v", s)
	}
}

func TestAProcessThatTakesTooMuchMemoryIsKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Log("only GOMEMLIMIT bounds it here")
		return
	}
	l := processLane(t, Options{Workers: 1, MaxMemory: 128 << 20})
	_, err := work(t.Context(), l, question{Do: "allocate", N: 4000})
	if e, ok := errors.AsType[*ExitError](err); !ok || e.Killed != "memory" {
		t.Errorf("%v", err)
	}
	if r, err := work(t.Context(), l, question{Do: "allocate", N: 10}); err != nil || r.N != 10 {
		t.Errorf("afterwards, with little: %v", err)
	}
	if s := l.Stats(); s.KilledMemory != 1 || s.Exits != 0 {
		t.Errorf("%+v", s)
	}
}

func TestIdleProcessesEnd(t *testing.T) {
	l := processLane(t, Options{Workers: 1, IdleTimeout: 10 * time.Millisecond})
	r, err := work(t.Context(), l, question{})
	if err != nil {
		t.Fatal(err)
	}
	eventuallyGone(t, r.PID)
	if again, err := work(t.Context(), l, question{}); err != nil || again.PID == r.PID {
		t.Errorf("%v", err)
	}
}

func TestProcessesEndWithTheirParent(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run", "^TestHelperParent$")
	cmd.Env = append(os.Environ(), "OFFLOAD_PARENT=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscanf(out, "%d\n", &pid); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	// An orphan's end may leave a zombie, if nobody here reaps it.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if syscall.Kill(pid, 0) == syscall.ESRCH || err == nil && strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d lives on", pid)
		}
	}
}

func TestHelperParent(t *testing.T) {
	if os.Getenv("OFFLOAD_PARENT") == "" {
		return
	}
	l := processLane(t, Options{})
	r, err := work(context.Background(), l, question{})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(r.PID)
	select {} // until killed
}

var (
	_     = Register("twice", func(context.Context, int) (int, error) { return 1, nil })
	twice = Register("twice", func(context.Context, int) (int, error) { return 2, nil })
	empty = Register("", func(context.Context, int) (int, error) { return 2, nil })
	odd   = Register("odd", func(context.Context, chan int) (int, error) { return 0, nil })
)

func TestWrongRegistrations(t *testing.T) {
	l := processLane(t, Options{})
	for want, f := range map[string]func() error{
		"two functions are named twice":  func() error { _, err := twice(t.Context(), l, 1); return err },
		"the name must have":             func() error { _, err := empty(t.Context(), l, 1); return err },
		"offload: the argument of odd: ": func() error { _, err := odd(t.Context(), l, make(chan int)); return err },
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %s", err, want)
		}
	}
}

func FuzzFrames(f *testing.F) {
	var b strings.Builder
	frame{kindRun, 1, runPayload(time.Second, "name", []byte("argument"))}.write(&b)
	f.Add([]byte(b.String()))
	f.Add(append([]byte{0, 0, 0, 9, 'P', 0, 0, 0, 1}, panicPayload("text", []byte("stack"))...))
	f.Add([]byte{255, 255, 255, 255, 'R', 0, 0, 0, 0})
	f.Add([]byte{0x3f, 255, 255, 255, 'V', 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		fr, err := readFrame(strings.NewReader(string(in)))
		if err != nil {
			return
		}
		if len(fr.payload) > len(in) {
			t.Fatalf("%d bytes of %d", len(fr.payload), len(in))
		}
		answer(fr)
		if timeout, name, argument, err := parseRun(fr.payload); err == nil {
			if string(runPayload(timeout, name, argument)) != string(fr.payload) {
				t.Fatalf("%q", fr.payload)
			}
		}
	})
}
