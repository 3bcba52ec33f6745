package sys

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A packet socket: what the other side has not read is lost as a whole, never by half.
const pairType = unix.SOCK_SEQPACKET | unix.SOCK_CLOEXEC

// Subreaper makes orphaned descendants children of this process.
func Subreaper() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// Executable holds on to one version of a program: what it spawns stays the same when the file is replaced.
type Executable struct {
	Path string
	fd   int
}

// executableFDs keeps the descriptor out of the way of those that a child gets as 0, 1, 2 and so on, which are put in
// place before it is executed: the first of these that the limit of open files allows, or above.
var executableFDs = []int{2048, 512}

// ThisExecutable is the program of this process, even if its file has been replaced since.
func ThisExecutable() (*Executable, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return openExecutable("/proc/self/exe", strings.TrimSuffix(path, " (deleted)"))
}

// OpenExecutable is the program that is at path now.
func OpenExecutable(path string) (*Executable, error) { return openExecutable(path, path) }

func openExecutable(open, path string) (*Executable, error) {
	low, err := unix.Open(open, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(low)
	for _, above := range executableFDs {
		var fd int
		if fd, err = unix.FcntlInt(uintptr(low), unix.F_DUPFD_CLOEXEC, above); err == nil {
			return &Executable{path, fd}, nil
		}
	}
	return nil, fmt.Errorf("open %s: %w", path, err)
}

// SpawnPath is the path to give to Spawn.
func (e *Executable) SpawnPath() string { return fmt.Sprintf("/proc/self/fd/%d", e.fd) }

// Close lets the version go.
func (e *Executable) Close() { unix.Close(e.fd) }

// SetName gives this process the name of its program in ps and top; one that was executed through a descriptor would be
// called by its number.
func SetName() {
	os.WriteFile("/proc/self/comm", []byte(filepath.Base(os.Args[0])), 0)
}

// CrashFile is a file without a name, in memory.
func CrashFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("crash", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd: %w", err)
	}
	return os.NewFile(uintptr(fd), "crash"), nil
}

// RSS is the resident memory of this process in bytes, 0 if not known.
func RSS() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(b)
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(string(fields[1]), 10, 64)
	return pages * int64(os.Getpagesize())
}

// PeerUID is the user at the other end of a unix connection.
func PeerUID(c net.Conn) (int, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("%T is no unix connection", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}
