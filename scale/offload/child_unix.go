//go:build unix

package offload

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fairlead/fairlead/internal/process"
)

const hasProcesses = true

// child is a process that runs registered functions, seen from the lane.
type child struct {
	proc     *os.Process
	to, from *os.File
	writing  sync.Mutex
	seq      uint32
	rest     *time.Timer // ends it if it stays idle

	gone   chan struct{} // closed when it has ended
	status string        // then
}

// startChild starts one. It is a fork with bare descriptors, like that of cluster's workers: nothing but the two pipes and
// the output reaches the process.
func startChild(maxMemory int64) (*child, error) {
	path, err := executable()
	if err != nil {
		return nil, fmt.Errorf("offload: this program: %w", err)
	}
	theirIn, to, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("offload: %w", err)
	}
	defer theirIn.Close()
	from, theirOut, err := os.Pipe()
	if err != nil {
		to.Close()
		return nil, fmt.Errorf("offload: %w", err)
	}
	defer theirOut.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		to.Close()
		from.Close()
		return nil, fmt.Errorf("offload: %w", err)
	}
	defer null.Close()

	attr := &syscall.ProcAttr{Env: childEnv(maxMemory), Sys: &syscall.SysProcAttr{Setpgid: true}}
	pid, err := fork(path, attr, null, theirIn, theirOut)
	if err != nil {
		to.Close()
		from.Close()
		return nil, fmt.Errorf("offload: starting a process: %w", err)
	}
	proc, err := os.FindProcess(pid)
	if err != nil {
		to.Close()
		from.Close()
		return nil, fmt.Errorf("offload: %w", err)
	}
	c := &child{proc: proc, to: to, from: from, gone: make(chan struct{})}
	go func() {
		state, err := proc.Wait()
		c.status = "unknown"
		if err == nil {
			c.status = state.String()
		}
		close(c.gone)
	}()
	return c, nil
}

// executable is this program, also after it was replaced on disk.
func executable() (string, error) {
	if runtime.GOOS == "linux" {
		return "/proc/self/exe", nil
	}
	return os.Executable()
}

// childEnv makes a process compute on one processor, so that it is one of the lane's workers and no more.
func childEnv(maxMemory int64) []string {
	var env []string
	for _, kv := range process.Environ(os.Environ(), process.Role{Name: roleTask}) {
		if !strings.HasPrefix(kv, "GOMAXPROCS=") && (maxMemory == 0 || !strings.HasPrefix(kv, "GOMEMLIMIT=")) {
			env = append(env, kv)
		}
	}
	env = append(env, "GOMAXPROCS=1")
	if maxMemory > 0 {
		env = append(env, "GOMEMLIMIT="+strconv.FormatInt(maxMemory/10*9, 10))
	}
	return env
}

// fork starts the process from a thread that has been niced already, so that all its threads are; the thread then ends.
func fork(path string, attr *syscall.ProcAttr, null, in, out *os.File) (pid int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		niced := niceThread() == nil
		err = withFDs(func(fds []uintptr) error {
			attr.Files = []uintptr{fds[0], 1, 2, fds[1], fds[2]}
			pid, err = syscall.ForkExec(path, os.Args[:1], attr) //nolint:gosec // this very program
			return err
		}, null, in, out)
		if err == nil && !niced {
			_ = syscall.Setpriority(syscall.PRIO_PROCESS, pid, niceness)
		}
	}()
	<-done
	return pid, err
}

// withFDs is for descriptors what File.Fd is, without making them block.
func withFDs(f func([]uintptr) error, files ...*os.File) error {
	fds := make([]uintptr, 0, len(files))
	var next func() error
	next = func() error {
		if len(fds) == len(files) {
			return f(fds)
		}
		raw, err := files[len(fds)].SyscallConn()
		if err != nil {
			return err
		}
		var inner error
		if err := raw.Control(func(fd uintptr) {
			fds = append(fds, fd)
			inner = next()
		}); err != nil {
			return err
		}
		return inner
	}
	return next()
}

type asked struct {
	frame frame
	err   error
}

// ask sends a call, and later its answer. An error says that the process is of no more use.
func (c *child) ask(payload []byte) <-chan asked {
	c.seq++
	seq := c.seq
	answers := make(chan asked, 1)
	go func() {
		c.writing.Lock()
		err := frame{kindRun, seq, payload}.write(c.to)
		c.writing.Unlock()
		if err != nil {
			answers <- asked{err: err}
			return
		}
		f, err := readFrame(c.from)
		if err == nil && f.call != seq {
			err = errFrame
		}
		answers <- asked{f, err}
	}()
	return answers
}

// cancel ends the context of the call that was asked last.
func (c *child) cancel() {
	seq := c.seq
	go func() { // the pipe may be full, until the process reads or is killed
		c.writing.Lock()
		defer c.writing.Unlock()
		_ = frame{kindCancel, seq, nil}.write(c.to)
	}()
}

func (c *child) kill() { _ = c.proc.Kill() }

func (c *child) alive() bool {
	select {
	case <-c.gone:
		return false
	default:
		return true
	}
}

// end waits for a process whose pipe has ended, and says how it ended.
func (c *child) end() string {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-c.gone:
	case <-timer.C: // it lives, but does not speak as it should
		c.kill()
		<-c.gone
	}
	return c.status
}

// close ends the process: it sees the end of its pipe.
func (c *child) close() {
	c.to.Close()
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-c.gone:
	case <-timer.C:
		c.kill()
		<-c.gone
	}
	c.from.Close()
}

// memory is the resident set in bytes; 0 where it is not known.
func (c *child) memory() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", c.proc.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
