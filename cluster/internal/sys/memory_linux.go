package sys

import (
	"os"
	"strconv"
	"strings"

	"github.com/fairlead/fairlead/internal/process"
)

// Room says whether there is memory for need more bytes: in the machine, and under the limit of this process's control
// group. What is not known does not stand in the way.
func Room(need int64) bool {
	info, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemAvailable:" {
			if kb, err := strconv.ParseInt(f[1], 10, 64); err == nil && kb<<10 < need {
				return false
			}
		}
	}
	limit := process.MemoryLimit()
	return limit == 0 || usedMemory()+need <= limit
}

// usedMemory is what the control group uses and cannot give back, 0 if that is not known.
func usedMemory() int64 {
	groups, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(groups)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		dir := "/sys/fs/cgroup" + strings.TrimSuffix(path, "/")
		b, _ := os.ReadFile(dir + "/memory.current")
		used, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		stat, _ := os.ReadFile(dir + "/memory.stat")
		for line := range strings.Lines(string(stat)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "inactive_file" {
				cache, _ := strconv.ParseInt(f[1], 10, 64)
				used -= cache
			}
		}
		return max(0, used)
	}
	return 0
}
