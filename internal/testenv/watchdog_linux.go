package testenv

import (
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// watchdogVariable tells a process that it is a watchdog, and for which home.
const watchdogVariable = "FAIRLEAD_TESTENV_WATCHDOG"

func init() {
	if dir := os.Getenv(watchdogVariable); dir != "" {
		watch(dir, os.Stdin)
		os.Exit(0)
	}
}

// watch returns when the other end of alive was closed and nothing is left of the
// home. A byte read means that its owner has seen to that itself.
func watch(dir string, alive io.Reader) {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if n, _ := alive.Read(make([]byte, 1)); n > 0 {
		return
	}
	// A child that the owner was just starting may not work in the home yet, and a
	// server may create files while the directory is removed.
	deadline := time.Now().Add(2 * time.Minute)
	for clean := 0; clean < 5 && time.Now().Before(deadline); {
		if err := sweep(dir); err == nil {
			clean++
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// watchdog is the process that outlives this one to clean up.
type watchdog struct {
	cmd   *exec.Cmd
	alive io.WriteCloser
}

func startWatchdog(dir string) (*watchdog, error) {
	// The link works even if the file was removed, as go test does with binaries.
	cmd := exec.Command("/proc/self/exe")
	cmd.Args[0] = "fairlead-testenv-watchdog"
	cmd.Dir = "/"
	// A binary with the race detector sleeps for a second when it exits, by default.
	cmd.Env = []string{watchdogVariable + "=" + dir, "GOMAXPROCS=1", "GORACE=atexit_sleep_ms=0"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	alive, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &watchdog{cmd: cmd, alive: alive}, nil
}

// dismiss ends the watchdog without a sweep.
func (w *watchdog) dismiss() error {
	_, err := w.alive.Write([]byte{1})
	w.alive.Close()
	if err != nil {
		return err
	}
	return w.cmd.Wait()
}
