package process

import (
	"os"
	"runtime/debug"
)

// Resize gives a worker another share of the machine: of the processors as one of so many, and a limit of memory in bytes if
// that is not 0. Neither overrides what the user has set.
func Resize(workers int, memory int64) {
	if workers > 0 && os.Getenv("GOMAXPROCS") == "" {
		p := &procs
		p.mu.Lock()
		p.workers, p.follows = workers, true
		setBase(Procs(defaultProcs(), workers))
		followQuota()
		p.mu.Unlock()
	}
	if memory > 0 {
		debug.SetMemoryLimit(memory)
	}
}

// LimitMemory gives a process that runs alone its share of the control group's memory as Go's soft limit, unless the user
// has set GOMEMLIMIT. It returns the limit in bytes, or 0 if it set none.
func LimitMemory() int64 {
	share := MemoryShare(MemoryLimit(), 1)
	if share == 0 || os.Getenv("GOMEMLIMIT") != "" {
		return 0
	}
	debug.SetMemoryLimit(share)
	return share
}
