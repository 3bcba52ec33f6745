package offload

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// nicedThreads counts the threads of a process by their nice value.
func nicedThreads(t *testing.T, pid string) map[int]int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/" + pid + "/task/*/stat")
	if err != nil || len(tasks) == 0 {
		t.Fatal(tasks, err)
	}
	count := map[int]int{}
	for _, path := range tasks {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		n, err := strconv.Atoi(strings.Fields(rest)[16])
		if err != nil {
			t.Fatal(err)
		}
		count[n]++
	}
	return count
}

// eventually waits for what the kernel does a moment later.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("a minute later still not: %s", what)
		}
	}
}

// wholeMachine undoes -cpu, which a lane takes for a quota.
func wholeMachine(t *testing.T) {
	before := runtime.GOMAXPROCS(runtime.NumCPU())
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

func TestThreadsAreNicedAndGoMaxProcsIsRestored(t *testing.T) {
	wholeMachine(t)
	procs := runtime.GOMAXPROCS(0)
	eventually(t, "threads of earlier tests have ended", func() bool { return nicedThreads(t, "self")[niceness] == 0 })
	l, err := New("test", Options{Workers: 3})
	if err != nil {
		t.Fatal(err)
	}
	if s := l.Stats(); s.Workers != 3 || s.Effective != "3 niced threads" {
		t.Fatalf("%+v", s)
	}
	if n := runtime.GOMAXPROCS(0); n != procs {
		t.Errorf("GOMAXPROCS %d before anything runs, was %d", n, procs)
	}
	one, err := Do(t.Context(), l, func(context.Context) (int, error) {
		return syscall.Getpriority(syscall.PRIO_PROCESS, syscall.Gettid())
	})
	if err != nil || 20-one != niceness {
		t.Errorf("in a task nice is %d, %v", 20-one, err)
	}
	if n := runtime.GOMAXPROCS(0); n != procs+1 {
		t.Errorf("GOMAXPROCS %d with one worker, was %d", n, procs)
	}
	free := occupy(t, l)
	// The thread in which New tried it may be about to end.
	eventually(t, "three niced threads are there, one a worker", func() bool { return nicedThreads(t, "self")[niceness] == 3 })
	if n := runtime.GOMAXPROCS(0); n != procs+3 {
		t.Errorf("GOMAXPROCS %d with three workers, was %d", n, procs)
	}
	free()
	// Other goroutines run on other threads, also those that a task starts.
	other, err := Do(t.Context(), l, func(context.Context) (int, error) {
		got := make(chan int)
		go func() {
			raw, _ := syscall.Getpriority(syscall.PRIO_PROCESS, syscall.Gettid())
			got <- 20 - raw
		}()
		return <-got, nil
	})
	if err != nil || other >= niceness {
		t.Errorf("nice %d in a goroutine of a task's, %v", other, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n := runtime.GOMAXPROCS(0); n != procs {
		t.Errorf("GOMAXPROCS %d afterwards, was %d", n, procs)
	}
	eventually(t, "the niced threads have ended", func() bool { return nicedThreads(t, "self")[niceness] == 0 })
}

func TestAGoexitTakesItsThreadAlong(t *testing.T) {
	wholeMachine(t)
	procs := runtime.GOMAXPROCS(0)
	eventually(t, "threads of earlier tests have ended", func() bool { return nicedThreads(t, "self")[niceness] == 0 })
	l, err := New("test", Options{Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		Do(t.Context(), l, func(context.Context) (int, error) { runtime.Goexit(); return 0, nil })
	}
	free := occupy(t, l)
	eventually(t, "two niced threads are there", func() bool { return nicedThreads(t, "self")[niceness] == 2 })
	if n := runtime.GOMAXPROCS(0); n != procs+2 {
		t.Errorf("GOMAXPROCS %d, was %d", n, procs)
	}
	free()
	l.Close()
	if n := runtime.GOMAXPROCS(0); n != procs {
		t.Errorf("GOMAXPROCS %d afterwards, was %d", n, procs)
	}
}
