package testenv

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// homePrefix begins the name of the directory that holds the files of a process's
// servers. The watchdog removes no other.
const homePrefix = "fairlead-testenv-"

// home is the directory of all servers of this process, and the watchdog that
// removes it. It exists while a server does.
type home struct {
	dir      string
	watchdog *watchdog

	mu      sync.Mutex
	entries int
	initdb  onceErr // the directory template, from which data directories are copied
}

var homes struct {
	sync.Mutex
	current *home
	users   int
}

// openHome returns the home of this process. Every call is paired with one of
// close.
func openHome() (*home, error) {
	homes.Lock()
	defer homes.Unlock()
	if homes.current == nil {
		h, err := newHome()
		if err != nil {
			return nil, err
		}
		homes.current = h
	}
	homes.users++
	return homes.current, nil
}

func newHome() (*home, error) {
	dir, err := os.MkdirTemp(tempDir(), homePrefix)
	if err != nil {
		return nil, fmt.Errorf("testenv: %w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil { // as the kernel will name it
		return nil, fmt.Errorf("testenv: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // servers may run as another user
		return nil, fmt.Errorf("testenv: %w", err)
	}
	w, err := startWatchdog(dir)
	if err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("testenv: watchdog: %w", err)
	}
	return &home{dir: dir, watchdog: w}, nil
}

// close takes the home down with its last user.
func (h *home) close() error {
	homes.Lock()
	defer homes.Unlock()
	if homes.users--; homes.users > 0 {
		return nil
	}
	homes.current = nil
	err := sweep(h.dir)
	return errors.Join(err, h.watchdog.dismiss())
}

// mkdir makes a directory, owned by the user that servers run as, whose name
// begins with name.
func (h *home) mkdir(name string) (string, error) {
	h.mu.Lock()
	h.entries++
	n := h.entries
	h.mu.Unlock()
	dir := filepath.Join(h.dir, fmt.Sprintf("%s-%d", name, n))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	return dir, chownToServer(dir)
}

// onceErr runs a function until it succeeds once.
type onceErr struct {
	mu   sync.Mutex
	done bool
}

func (o *onceErr) do(f func() error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.done {
		return nil
	}
	err := f()
	o.done = err == nil
	return err
}
