package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const stopSignal = syscall.SIGSTOP

func supported() error { return nil }

// account is the user that servers run as, or nil for the user of this process.
// PostgreSQL refuses to run as root and needs a user that has a name.
var account = sync.OnceValue(func() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	return nil
})

// serverAttributes puts a server into a process group of its own, out of ctrl-C's
// reach.
func serverAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: account()}
}

// chownToServer gives a file to the user that servers run as.
func chownToServer(path string) error {
	if c := account(); c != nil {
		return os.Lchown(path, int(c.Uid), int(c.Gid))
	}
	return nil
}

// processesIn returns the processes that work in dir or below it, except one.
// Zombies work nowhere.
func processesIn(dir string, except int) []int {
	names, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return nil
	}
	var pids []int
	for _, name := range names {
		cwd, err := os.Readlink(name)
		if err != nil {
			continue // gone, or another user's
		}
		cwd = strings.TrimSuffix(cwd, " (deleted)")
		if cwd != dir && !strings.HasPrefix(cwd, dir+"/") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err == nil && pid != except {
			pids = append(pids, pid)
		}
	}
	return pids
}

// killIn kills the processes that work in dir, except one, and returns when they
// are gone.
func killIn(dir string, except int) error {
	return settle(func() (bool, error) {
		pids := processesIn(dir, except)
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
				return false, err
			}
		}
		return len(pids) == 0, nil
	})
}

// freezeIn stops the processes that work in dir, parent first, so that it starts
// no new ones meanwhile.
func freezeIn(dir string, parent int) error {
	if err := unix.Kill(parent, unix.SIGSTOP); err != nil {
		return err
	}
	if err := settle(func() (bool, error) { return stopped(parent), nil }); err != nil {
		return err
	}
	return settle(func() (bool, error) {
		all := true
		for _, pid := range processesIn(dir, parent) {
			if stopped(pid) {
				continue
			}
			all = false
			if err := unix.Kill(pid, unix.SIGSTOP); err != nil && err != unix.ESRCH {
				return false, err
			}
		}
		return all, nil
	})
}

// thawIn is the reverse of freezeIn.
func thawIn(dir string, parent int) error {
	for _, pid := range append(processesIn(dir, parent), parent) {
		if err := unix.Kill(pid, unix.SIGCONT); err != nil && err != unix.ESRCH {
			return err
		}
	}
	return nil
}

// settle calls f until it reports true.
func settle(f func() (bool, error)) error {
	deadline := time.Now().Add(patience)
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		done, err := f()
		if done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("processes do not obey signals")
		}
		time.Sleep(wait)
	}
}

// stopped reports whether a process is stopped or gone.
func stopped(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	// The state follows the name, which may hold anything, parentheses included.
	_, state, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	return strings.HasPrefix(state, "T") || strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X")
}

// sweep kills what works in a home, removes the shared memory of its PostgreSQL
// servers and then the directory.
func sweep(dir string) error {
	if !strings.HasPrefix(filepath.Base(dir), homePrefix) {
		return fmt.Errorf("testenv: %s is not a directory of servers", dir)
	}
	if err := killIn(dir, 0); err != nil {
		return err
	}
	data, err := filepath.Glob(filepath.Join(dir, "*", "postmaster.pid"))
	if err != nil {
		return err
	}
	for _, file := range data {
		removeSharedMemory(file)
	}
	return os.RemoveAll(dir)
}

// removeSharedMemory removes the System V shared memory segment that a killed
// PostgreSQL server left, and its lock file, which names the segment in line 7.
func removeSharedMemory(lockFile string) {
	b, err := os.ReadFile(lockFile)
	if err != nil {
		return // stopped in order, or killed before it had one
	}
	if lines := strings.Split(string(b), "\n"); len(lines) >= 7 {
		if f := strings.Fields(lines[6]); len(f) == 2 {
			if id, err := strconv.Atoi(f[1]); err == nil {
				_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
			}
		}
	}
	_ = os.Remove(lockFile)
}
