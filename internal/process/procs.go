package process

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// procs owns GOMAXPROCS from the first time that this package sets it: from then on the runtime no longer follows a changed
// quota, so that it is looked at here.
var procs struct {
	mu      sync.Mutex
	base    int           // GOMAXPROCS without what AddProcs has added
	added   int           // by AddProcs
	follows bool          // base is this process's share of the runtime's default, nobody's choice
	workers int           // that share the machine
	stop    chan struct{} // of the poll; nil: it does not run
}

// pollProcs is how often a changed quota or affinity is looked for.
const pollProcs = 30 * time.Second

// AddProcs raises GOMAXPROCS by n until release is called: for threads that give way to all others, so that they may run
// beside those that serve. Release may be called several times; it and AddProcs are safe for concurrent use.
func AddProcs(n int) (release func()) {
	p := &procs
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop == nil {
		p.base = runtime.GOMAXPROCS(0)
		p.follows = os.Getenv("GOMAXPROCS") == "" && p.base == Procs(defaultProcs(), p.workers)
	}
	changeProcs(n)
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		changeProcs(-n)
	})
}

// shareProcs gives this process its share of the machine, which it keeps to.
func shareProcs(workers int) {
	p := &procs
	p.mu.Lock()
	defer p.mu.Unlock()
	p.workers, p.follows, p.base = workers, true, runtime.GOMAXPROCS(0)
	setBase(Procs(p.base, workers))
	followQuota()
}

func changeProcs(n int) {
	p := &procs
	if p.added > 0 {
		// Somebody else may have set it meanwhile, who did not know what was added.
		if now := runtime.GOMAXPROCS(0); now != p.base+p.added {
			p.base, p.follows = max(1, now-p.added), false
		}
	}
	p.added += n
	if p.added == 0 && p.workers <= 1 {
		if p.stop != nil {
			close(p.stop)
			p.stop = nil
		}
		if p.follows {
			runtime.SetDefaultGOMAXPROCS() // and the runtime follows the quota again
			return
		}
	}
	runtime.GOMAXPROCS(p.base + p.added)
	if p.added > 0 {
		followQuota()
	}
}

func setBase(n int) {
	p := &procs
	if n != p.base {
		p.base = n
		runtime.GOMAXPROCS(p.base + p.added)
	}
}

// followQuota starts the loop that adapts the base to a changed quota or affinity.
func followQuota() {
	p := &procs
	if p.stop != nil {
		return
	}
	stop := make(chan struct{})
	p.stop = stop
	go func() {
		tick := time.NewTicker(pollProcs)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				p.mu.Lock()
				if p.follows && p.stop == stop {
					setBase(Procs(defaultProcs(), p.workers))
				}
				p.mu.Unlock()
			}
		}
	}()
}

// BaseProcs is GOMAXPROCS without what AddProcs has added.
func BaseProcs() int {
	p := &procs
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(1, runtime.GOMAXPROCS(0)-p.added)
}

// ProcsLimit says why this process must not use more processors at a time than GOMAXPROCS; it is empty if nothing but the
// machine, or an equal share of it, sets the bound. Under a quota what runs beyond it brings forward the moment from which
// everything stands still, whatever its priority.
func ProcsLimit() string {
	def, cpus := defaultProcs(), runtime.NumCPU()
	p := &procs
	p.mu.Lock()
	base, workers := max(1, runtime.GOMAXPROCS(0)-p.added), p.workers
	p.mu.Unlock()
	switch value := os.Getenv("GOMAXPROCS"); {
	case def < cpus:
		return fmt.Sprintf("a quota or affinity allows %d of %d CPUs", def, cpus)
	case value != "" && base < cpus:
		return fmt.Sprintf("GOMAXPROCS=%s is set, of %d CPUs", value, cpus)
	case base < Procs(cpus, workers):
		return fmt.Sprintf("GOMAXPROCS is %d of %d CPUs", base, cpus)
	}
	return ""
}

// defaultProcs is what the runtime would take for GOMAXPROCS if nobody had said anything: the CPUs that this process may run
// on, and at most its control group's quota, rounded up, of which it takes 2 at least.
func defaultProcs() int {
	n := affinity()
	if quota := cpuQuota(); quota > 0 {
		n = min(n, max(2, int(math.Ceil(quota))))
	}
	return n
}

// cpuQuota is how many CPUs' time the control group of this process may use, the smallest of the group and its parents; 0
// when nothing bounds it or it is not known.
func cpuQuota() float64 {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0
	}
	return quotaIn(string(groups), func(path string) (string, error) {
		b, err := os.ReadFile("/sys/fs/cgroup" + path)
		return string(b), err
	})
}

// quotaIn reads the format of /proc/PID/cgroup, as memoryLimit does.
func quotaIn(groups string, read func(path string) (string, error)) float64 {
	quota := math.Inf(1)
	for line := range strings.SplitSeq(groups, "\n") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 {
			continue
		}
		v1 := parts[1] != ""
		if v1 && !strings.Contains(","+parts[1]+",", ",cpu,") {
			continue
		}
		for dir := strings.TrimSuffix(parts[2], "/"); ; dir = dir[:max(0, strings.LastIndexByte(dir, '/'))] {
			var max, period string
			if v1 {
				max, _ = read("/cpu" + dir + "/cpu.cfs_quota_us")
				period, _ = read("/cpu" + dir + "/cpu.cfs_period_us")
			} else {
				both, _ := read(dir + "/cpu.max")
				max, period, _ = strings.Cut(strings.TrimSpace(both), " ")
			}
			m, err1 := strconv.ParseFloat(strings.TrimSpace(max), 64) // "max", or -1 in version 1, is none
			p, err2 := strconv.ParseFloat(strings.TrimSpace(period), 64)
			if err1 == nil && err2 == nil && m > 0 && p > 0 {
				quota = math.Min(quota, m/p)
			}
			if dir == "" {
				break
			}
		}
	}
	if math.IsInf(quota, 1) {
		return 0
	}
	return quota
}
