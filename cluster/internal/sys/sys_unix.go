//go:build unix

// Package sys is the seam between cluster and the operating system.
package sys

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Spawn executes a program in a process group of its own. files become its descriptors 0, 1, 2 and so on.
//
// It is syscall.ForkExec with raw descriptors and never os/exec: that calls File.Fd, which clears O_NONBLOCK on the open
// file description that supervisor and workers share, and waits for its process by itself.
func Spawn(path string, argv, env []string, files []int) (pid int, err error) {
	attr := &syscall.ProcAttr{Env: env, Sys: &syscall.SysProcAttr{Setpgid: true}}
	for _, fd := range files {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	return syscall.ForkExec(path, argv, attr) //nolint:gosec // the supervisor executes its own program
}

// Pipe returns a pipe whose reading end is for this process and whose writing end is a descriptor for a child.
func Pipe() (*os.File, int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	var p [2]int
	if err := syscall.Pipe(p[:]); err != nil {
		return nil, 0, fmt.Errorf("pipe: %w", err)
	}
	syscall.CloseOnExec(p[0])
	syscall.CloseOnExec(p[1])
	if err := syscall.SetNonblock(p[0], true); err != nil {
		return nil, 0, err
	}
	return os.NewFile(uintptr(p[0]), "pipe"), p[1], nil
}

// SocketPair returns a connection for this process and the descriptor of its other end for a child.
func SocketPair() (net.Conn, int, error) {
	syscall.ForkLock.RLock()
	p, err := unix.Socketpair(unix.AF_UNIX, pairType, 0)
	if err == nil {
		syscall.CloseOnExec(p[0])
		syscall.CloseOnExec(p[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, 0, fmt.Errorf("socketpair: %w", err)
	}
	c, err := InheritedConn(p[0])
	if err != nil {
		unix.Close(p[1])
		return nil, 0, err
	}
	return c, p[1], nil
}

// InheritedConn takes over the descriptor of a connected socket.
func InheritedConn(fd int) (net.Conn, error) {
	f := inherited(fd)
	defer f.Close()
	return net.FileConn(f)
}

// InheritedListener takes over the descriptor of a listening socket.
func InheritedListener(fd int) (net.Listener, error) {
	f := inherited(fd)
	defer f.Close()
	return net.FileListener(f)
}

// BorrowListener is a listener over the socket of a descriptor that stays open.
func BorrowListener(fd int) (net.Listener, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("dup: %w", err)
	}
	return InheritedListener(dup)
}

// InheritedPacketConn takes over the descriptor of a packet socket.
func InheritedPacketConn(fd int) (net.PacketConn, error) {
	f := inherited(fd)
	defer f.Close()
	return net.FilePacketConn(f)
}

func inherited(fd int) *os.File {
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "inherited")
}

// Detach turns a listener or packet socket into a bare descriptor, which keeps the socket open but no longer wakes this
// process up when something arrives. ln is closed; the file of a unix socket stays.
func Detach(ln io.Closer) (int, error) {
	defer ln.Close()
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	sc, ok := ln.(syscall.Conn)
	if !ok {
		return 0, fmt.Errorf("%T has no descriptor", ln)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, err
	}
	fd := -1
	var dupErr error
	err = raw.Control(func(p uintptr) { fd, dupErr = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 3) })
	if err = errors.Join(err, dupErr); err != nil {
		return 0, fmt.Errorf("dup: %w", err)
	}
	return fd, nil
}

// Dup is another descriptor of the same file.
func Dup(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3) }

// CloseFD closes a bare descriptor.
func CloseFD(fd int) { unix.Close(fd) }

// DevNull opens the null device for a child's standard input.
func DevNull() (int, error) { return unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0) }

// Exit is the end of a child.
type Exit struct {
	PID    int
	Status string // "exit status 1", "signal: killed"
	OK     bool   // exit status 0
}

// Reap collects all children that have ended, also orphans that this process has adopted. It does not block.
func Reap() []Exit {
	var exits []Exit
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil || pid <= 0:
			return exits
		case ws.Exited():
			exits = append(exits, Exit{pid, fmt.Sprintf("exit status %d", ws.ExitStatus()), ws.ExitStatus() == 0})
		case ws.Signaled():
			s := "signal: " + ws.Signal().String()
			if ws.CoreDump() {
				s += " (core dumped)"
			}
			exits = append(exits, Exit{pid, s, false})
		}
	}
}

// Kill ends a process at once.
func Kill(pid int) { syscall.Kill(pid, syscall.SIGKILL) }

// Quit has a process of Go write down what its goroutines do and end.
func Quit(pid int) { syscall.Kill(pid, syscall.SIGQUIT) }

// WorkerSignals makes this process ignore what Ctrl-C sends to a whole terminal, keeps it alive when the reader of its
// output has gone, and returns a channel that tells of TERM.
func WorkerSignals() <-chan os.Signal {
	// Received and dropped, not ignored: programs that the app starts would inherit that.
	discard(syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	return term
}

// discard takes signals that nobody acts on, on a channel of its own where they crowd out no others.
func discard(signals ...os.Signal) { signal.Notify(make(chan os.Signal, 1), signals...) }

// SupervisorSignals returns the signals that a supervisor acts on.
func SupervisorSignals() chan os.Signal {
	c := make(chan os.Signal, 16)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR2, syscall.SIGTTIN, syscall.SIGTTOU)
	discard(syscall.SIGPIPE) // each line that is logged to a reader that has gone is one
	return c
}

// ChildSignal returns a channel that tells that children may have ended. One notice may stand for several.
func ChildSignal() chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGCHLD)
	return c
}

// IsReload reports whether a signal asks a supervisor to reload.
func IsReload(s os.Signal) bool { return s == syscall.SIGHUP }

// IsUpgrade reports whether a signal asks a supervisor to upgrade itself.
func IsUpgrade(s os.Signal) bool { return s == syscall.SIGUSR2 }

// IsScale returns how many workers more or less a signal asks for, or 0.
func IsScale(s os.Signal) int {
	switch s {
	case syscall.SIGTTIN:
		return 1
	case syscall.SIGTTOU:
		return -1
	}
	return 0
}

// IsStop reports whether a signal asks a supervisor to stop.
func IsStop(s os.Signal) bool { return s == syscall.SIGTERM || s == syscall.SIGINT }

// StopSignals returns a channel that tells of TERM and INT.
func StopSignals() chan os.Signal {
	c := make(chan os.Signal, 2)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	return c
}

// IsAddrInUse says whether an address could not be bound because somebody else has it.
func IsAddrInUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }

// IsRefused says whether nobody listens where a connection was tried.
func IsRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// CPUTime is what this process has used of processors.
func CPUTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
