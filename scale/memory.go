package scale

import (
	"math"
	"os"
	"runtime/debug"

	"github.com/fairlead/fairlead/internal/process"
)

// limitMemory tells the collector of the control group's limit, which the runtime does not look at: without it the process
// grows until the kernel ends it, while most of what it holds is garbage.
func limitMemory() {
	if limit := memoryLimit(os.Getenv("GOMEMLIMIT"), debug.SetMemoryLimit(-1), process.MemoryLimit()); limit > 0 {
		debug.SetMemoryLimit(limit)
	}
}

// memoryLimit is what to set, or 0 for nothing.
func memoryLimit(env string, set, group int64) int64 {
	if env != "" || set != math.MaxInt64 {
		return 0
	}
	return process.MemoryShare(group, 1)
}
