package process

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
)

// The environment by which a process tells the copy of itself that it starts what that copy is to be.
const (
	EnvRole    = "FAIRLEAD_ROLE"    // RoleWorker, or one that Handle knows; absent in a process that a person or an init system started
	EnvWorkers = "FAIRLEAD_WORKERS" // how many workers share the machine
	EnvWorker  = "FAIRLEAD_WORKER"  // the worker's own description, read by cluster
)

// RoleWorker is the role of a cluster's worker.
const RoleWorker = "worker"

// Role is what the process that started this one meant it to be.
type Role struct {
	Name    string // "" for an ordinary process
	Workers int    // workers on this machine, 0 when unknown
	Config  string // the value of EnvWorker
}

var (
	handlersMu sync.Mutex
	handlers   = map[string]func(Role){}
	taken      atomic.Bool
)

// Handle says what a process with the given role does: TakeRole calls run, and the process ends when it returns. Call it
// before main begins; a later one of the same name replaces the former.
func Handle(role string, run func(Role)) {
	handlersMu.Lock()
	defer handlersMu.Unlock()
	handlers[role] = run
}

// Taken says whether TakeRole was called: only then would a copy of this program take the role that it is started for.
func Taken() bool { return taken.Load() }

// TakeRole returns this process's role. The first call removes the role from the environment, so that programs the app
// starts do not take themselves for workers, and gives a worker its share of the processors (see Procs). In a process whose
// role Handle knows it does not return. It is called first thing in cluster.Main, cluster.Run and offload.Main, never from
// init.
func TakeRole() Role {
	r := takeRole()
	handlersMu.Lock()
	run := handlers[r.Name]
	handlersMu.Unlock()
	if run != nil {
		run(r)
		os.Exit(0)
	}
	return r
}

var takeRole = sync.OnceValue(func() Role {
	taken.Store(true)
	r := Role{Name: os.Getenv(EnvRole), Config: os.Getenv(EnvWorker)}
	r.Workers, _ = strconv.Atoi(os.Getenv(EnvWorkers))
	for _, name := range []string{EnvRole, EnvWorkers, EnvWorker} {
		os.Unsetenv(name)
	}
	if r.Name == RoleWorker && r.Workers > 1 && os.Getenv("GOMAXPROCS") == "" {
		shareProcs(r.Workers)
	}
	return r
})

// Procs is a worker's GOMAXPROCS: its share of the runtime's default, rounded up, at least 1.
func Procs(def, workers int) int {
	if workers < 1 {
		return def
	}
	return max(1, (def+workers-1)/workers)
}

// Environ returns env for a copy of this program with the given role: without what was meant for this process alone (the
// notification, watchdog and socket activation variables of systemd, an older role) and with the role and its settings.
func Environ(env []string, r Role) []string {
	drop := []string{EnvRole, EnvWorkers, EnvWorker, "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC",
		"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}
	out := make([]string, 0, len(env)+3)
next:
	for _, kv := range env {
		for _, name := range drop {
			if len(kv) > len(name) && kv[len(name)] == '=' && kv[:len(name)] == name {
				continue next
			}
		}
		out = append(out, kv)
	}
	return append(out, EnvRole+"="+r.Name, fmt.Sprintf("%s=%d", EnvWorkers, r.Workers), EnvWorker+"="+r.Config)
}
