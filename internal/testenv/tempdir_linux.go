package testenv

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// enoughMemory is what must be free for servers to keep their files in memory. The
// files of a primary with two replicas begin with 80 MB and seldom pass 1 GB.
const enoughMemory = 8 << 30

// tempDir returns a directory for temporary files that the user that servers run
// as can reach: TMPDIR if it is set, else memory if there is plenty, since a
// PostgreSQL server begins with a thousand files, else /tmp.
func tempDir() string {
	const memory = "/dev/shm"
	dir := os.TempDir()
	if os.Getenv("TMPDIR") == "" && freeIn(memory) >= enoughMemory && availableMemory() >= enoughMemory {
		dir = memory
	}
	if account() == nil {
		return dir
	}
	for d := dir; d != "/" && d != "."; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err != nil || info.Mode().Perm()&0o001 == 0 {
			return "/tmp"
		}
	}
	return dir
}

// freeIn returns the bytes free in a file system in memory that this process may
// write to, or 0.
func freeIn(dir string) uint64 {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil || fs.Type != unix.TMPFS_MAGIC || unix.Access(dir, unix.W_OK) != nil {
		return 0
	}
	return fs.Bavail * uint64(fs.Bsize)
}

// availableMemory returns the bytes of memory that the kernel could give away.
func availableMemory() uint64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		if f := bytes.Fields(line); len(f) >= 2 && string(f[0]) == "MemAvailable:" {
			kilobytes, _ := strconv.ParseUint(string(f[1]), 10, 64)
			return kilobytes << 10
		}
	}
	return 0
}
