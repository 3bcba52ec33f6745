//go:build !unix

// Package sys is the seam between cluster and the operating system. Where there is no Unix, the app runs in one process
// and only this much is needed.
package sys

import (
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// CanReusePort says whether several sockets of one address share its connections evenly.
const CanReusePort = false

// ReusePort is never called where CanReusePort is false.
func ReusePort(_, _ string, _ syscall.RawConn) error { return nil }

// RSS is not known here.
func RSS() int64 { return 0 }

// CPUTime is not known here.
func CPUTime() time.Duration { return 0 }

// PeerUID is this user: the mode of the socket's file keeps others out.
func PeerUID(net.Conn) (int, error) { return os.Geteuid(), nil }

// StopSignals returns a channel that tells of TERM and INT.
func StopSignals() chan os.Signal {
	c := make(chan os.Signal, 2)
	signal.Notify(c, syscall.SIGTERM, os.Interrupt)
	return c
}

// IsAddrInUse is not known here.
func IsAddrInUse(error) bool { return false }

// IsRefused is not known here.
func IsRefused(error) bool { return false }
