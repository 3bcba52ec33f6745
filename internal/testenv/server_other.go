//go:build !linux

package testenv

import (
	"os"
	"syscall"
)

const stopSignal = syscall.SIGKILL

func supported() error { return ErrUnsupported }

func serverAttributes() *syscall.SysProcAttr { return nil }
func chownToServer(string) error             { return ErrUnsupported }
func tempDir() string                        { return os.TempDir() }
func killIn(string, int) error               { return ErrUnsupported }
func freezeIn(string, int) error             { return ErrUnsupported }
func thawIn(string, int) error               { return ErrUnsupported }
func sweep(string) error                     { return ErrUnsupported }
func removeSharedMemory(string)              {}

type watchdog struct{}

func startWatchdog(string) (*watchdog, error) { return nil, ErrUnsupported }
func (*watchdog) dismiss() error              { return nil }
