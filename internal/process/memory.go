package process

import (
	"math"
	"os"
	"strconv"
	"strings"
)

const (
	memReserve = 64 << 20 // for what is not Go heap: the supervisor, stacks of cgo, the page tables
	memFloor   = 32 << 20 // a smaller share would only make the collector spin
)

// MemoryShare is the GOMEMLIMIT of one of n processes that share a memory limit of limit bytes:
// (0.9 × limit − 64 MB) ÷ n. It is 0, meaning none, without a limit or when the share would be under 32 MB.
func MemoryShare(limit int64, n int) int64 {
	if limit <= 0 || n < 1 {
		return 0
	}
	share := (int64(float64(limit)*0.9) - memReserve) / int64(n)
	if share < memFloor {
		return 0
	}
	return share
}

// MemoryLimit is the memory limit of this process's control group in bytes, the smallest one of the group and its
// parents; 0 when there is none or it is not known.
func MemoryLimit() int64 {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0
	}
	return memoryLimit(string(groups), func(path string) (string, error) {
		b, err := os.ReadFile("/sys/fs/cgroup" + path)
		return string(b), err
	})
}

// memoryLimit reads the format of /proc/PID/cgroup: lines of hierarchy:controllers:path, version 2 as "0::/path".
func memoryLimit(groups string, read func(path string) (string, error)) int64 {
	limit := int64(math.MaxInt64)
	take := func(path string) {
		s, err := read(path)
		if err != nil {
			return
		}
		// "max" in version 2; version 1 says 2^63 rounded down to a page for none.
		if n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64); err == nil && n > 0 && n < 1<<60 {
			limit = min(limit, n)
		}
	}
	for line := range strings.SplitSeq(groups, "\n") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 {
			continue
		}
		prefix, file := "", "/memory.max"
		if parts[1] != "" {
			if !strings.Contains(","+parts[1]+",", ",memory,") {
				continue
			}
			prefix, file = "/memory", "/memory.limit_in_bytes"
		}
		for dir := strings.TrimSuffix(parts[2], "/"); ; {
			take(prefix + dir + file)
			if dir == "" {
				break
			}
			dir = dir[:max(0, strings.LastIndexByte(dir, '/'))]
		}
	}
	if limit == math.MaxInt64 {
		return 0
	}
	return limit
}

// InKubernetes says whether this process runs in a pod.
func InKubernetes() bool { return os.Getenv("KUBERNETES_SERVICE_HOST") != "" }
