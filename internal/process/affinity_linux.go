package process

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// affinity is how many CPUs this process may run on now; NumCPU tells of its beginning.
func affinity() int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return runtime.NumCPU()
	}
	return min(set.Count(), runtime.NumCPU())
}
