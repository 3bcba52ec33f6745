//go:build unix && !linux

package sys

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const pairType = unix.SOCK_STREAM

// CanReusePort says whether several sockets of one address share its connections evenly.
const CanReusePort = false

// ReusePort is never called where CanReusePort is false.
func ReusePort(_, _ string, _ syscall.RawConn) error { return nil }

// Steer is never called where CanReusePort is false.
func Steer(int, []int) error { return nil }

// Subreaper does nothing here: orphans go to init.
func Subreaper() error { return nil }

// Executable is a program; without /proc, whatever is at its path when it is spawned.
type Executable struct{ Path string }

// ThisExecutable is the program of this process.
func ThisExecutable() (*Executable, error) {
	path, err := os.Executable()
	return &Executable{path}, err
}

// OpenExecutable is the program that is at path.
func OpenExecutable(path string) (*Executable, error) {
	_, err := os.Stat(path)
	return &Executable{path}, err
}

// SpawnPath is the path to give to Spawn.
func (e *Executable) SpawnPath() string { return e.Path }

// Close does nothing.
func (e *Executable) Close() {}

// SetName does nothing: the name is right already.
func SetName() {}

// CrashFile is a file without a name.
func CrashFile() (*os.File, error) {
	f, err := os.CreateTemp("", "crash")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	return f, nil
}

// RSS is not known here.
func RSS() int64 { return 0 }

// PeerUID is this user: the mode of the socket's file keeps others out.
func PeerUID(net.Conn) (int, error) { return os.Geteuid(), nil }

// Room says yes: how much memory is left is not known here.
func Room(int64) bool { return true }
