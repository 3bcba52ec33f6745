package process

import (
	"context"
	"errors"
	"slices"
	"testing"
)

func TestProcs(t *testing.T) {
	for _, c := range []struct{ def, workers, want int }{
		{8, 0, 8}, {8, 1, 8}, {8, 2, 4}, {8, 3, 3}, {2, 8, 1}, {1, 1, 1},
	} {
		if got := Procs(c.def, c.workers); got != c.want {
			t.Errorf("Procs(%d, %d) = %d, want %d", c.def, c.workers, got, c.want)
		}
	}
}

func TestEnvironKeepsTheUsersAndDropsWhatWasForThisProcess(t *testing.T) {
	got := Environ([]string{"A=1", "NOTIFY_SOCKET=x", "LISTEN_FDS=2", "FAIRLEAD_ROLE=old", "FAIRLEAD_ROLES=mine", "GOMAXPROCS=3"},
		Role{Name: RoleWorker, Workers: 2, Config: "{}"})
	want := []string{"A=1", "FAIRLEAD_ROLES=mine", "GOMAXPROCS=3", "FAIRLEAD_ROLE=worker", "FAIRLEAD_WORKERS=2", "FAIRLEAD_WORKER={}"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestMemoryLimit(t *testing.T) {
	files := map[string]string{
		"/a/b/memory.max":                 "max\n",
		"/a/memory.max":                   "1073741824\n",
		"/memory/d/memory.limit_in_bytes": "536870912\n",
		"/memory/memory.limit_in_bytes":   "9223372036854771712\n",
	}
	read := func(p string) (string, error) {
		if s, ok := files[p]; ok {
			return s, nil
		}
		return "", errors.New("no file")
	}
	for _, c := range []struct {
		groups string
		want   int64
	}{
		{"0::/a/b\n", 1 << 30},
		{"0::/\n", 0},
		{"5:memory:/d\n4:cpu:/a\n", 512 << 20},
		{"5:cpu,memory:/d/e\n", 512 << 20},
		{"garbage", 0},
	} {
		if got := memoryLimit(c.groups, read); got != c.want {
			t.Errorf("memoryLimit(%q) = %d, want %d", c.groups, got, c.want)
		}
	}
}

func TestMemoryShare(t *testing.T) {
	for _, c := range []struct {
		limit int64
		n     int
		want  int64
	}{
		{0, 1, 0}, {1 << 30, 0, 0}, {1000 << 20, 2, (900<<20 - 64<<20) / 2}, {100 << 20, 4, 0},
	} {
		if got := MemoryShare(c.limit, c.n); got != c.want {
			t.Errorf("MemoryShare(%d, %d) = %d, want %d", c.limit, c.n, got, c.want)
		}
	}
}

func TestNoWorkerInAContext(t *testing.T) {
	if w := WorkerFrom(context.Background()); w != nil {
		t.Fatalf("got %v", w)
	}
}
