//go:build !linux

package offload

import (
	"errors"
	"runtime"
)

var errNoThreads = errors.New("threads have no priority of their own on " + runtime.GOOS)

func niceThread() error { return errNoThreads }
