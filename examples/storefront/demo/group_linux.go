package main

import (
	"os/exec"
	"runtime"
	"syscall"
)

// The signal below comes when the *thread* that started the supervisor ends. The main goroutine keeps the first one.
func init() { runtime.LockOSThread() }

// ownGroup keeps ctrl-C away from the supervisor, and has it stop when the launcher is killed.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
