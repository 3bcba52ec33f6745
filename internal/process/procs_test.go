package process

import (
	"errors"
	"runtime"
	"testing"
)

func TestQuota(t *testing.T) {
	files := map[string]string{
		"/a/b/cpu.max":             "max 100000\n",
		"/a/cpu.max":               "150000 100000\n",
		"/cpu/d/cpu.cfs_quota_us":  "50000\n",
		"/cpu/d/cpu.cfs_period_us": "100000\n",
		"/cpu/cpu.cfs_quota_us":    "-1\n",
		"/cpu/cpu.cfs_period_us":   "100000\n",
		"/odd/cpu.max":             "a lot\n",
	}
	read := func(p string) (string, error) {
		if s, ok := files[p]; ok {
			return s, nil
		}
		return "", errors.New("no file")
	}
	for _, c := range []struct {
		groups string
		want   float64
	}{
		{"0::/a/b\n", 1.5},
		{"0::/\n", 0},
		{"0::/odd\n", 0},
		{"5:cpu,cpuacct:/d/e\n4:memory:/a\n", 0.5},
		{"5:cpuset:/d\n", 0},
		{"garbage", 0},
	} {
		if got := quotaIn(c.groups, read); got != c.want {
			t.Errorf("quotaIn(%q) = %v, want %v", c.groups, got, c.want)
		}
	}
}

func TestAddedProcsAreGivenBack(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	one := AddProcs(1)
	two := AddProcs(2)
	if got := runtime.GOMAXPROCS(0); got != before+3 {
		t.Errorf("GOMAXPROCS %d with 3 more than %d", got, before)
	}
	if got := BaseProcs(); got != before {
		t.Errorf("base %d, want %d", got, before)
	}
	one()
	one()
	if got := runtime.GOMAXPROCS(0); got != before+2 {
		t.Errorf("GOMAXPROCS %d with 2 more than %d", got, before)
	}
	two()
	if got := runtime.GOMAXPROCS(0); got != before {
		t.Errorf("GOMAXPROCS %d afterwards, was %d", got, before)
	}
}

// Who sets GOMAXPROCS while some are added means what the program shall have.
func TestSomebodyElseSetsGOMAXPROCS(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	release := AddProcs(1)
	runtime.GOMAXPROCS(before + 5)
	release()
	if got := runtime.GOMAXPROCS(0); got != before+4 {
		t.Errorf("GOMAXPROCS %d, want what was set less what was added, %d", got, before+4)
	}
}

func TestAHandledRoleIsNoRoleOfTheApps(t *testing.T) {
	Handle("test-role", func(Role) { t.Error("called in a process of another role") })
	if r := TakeRole(); r.Name != "" || !Taken() {
		t.Errorf("role %+v, taken %v", r, Taken())
	}
}
