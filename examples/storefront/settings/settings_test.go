package settings

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead/fairlead/ratelimit"
)

// needed is the least that must be set.
var needed = map[string]string{
	"DATABASE_URL": "postgres://shop@127.0.0.1:5432/shop",
	"REDIS_URL":    "redis://127.0.0.1:6379/0",
	"CONTROL":      "/run/shop.sock",
}

func parse(t *testing.T, args []string, more ...string) (Settings, error) {
	t.Helper()
	env := map[string]string{}
	for k, v := range needed {
		env[k] = v
	}
	for i := 0; i < len(more); i += 2 {
		env[more[i]] = more[i+1]
	}
	return Parse(args, func(name string) string { return env[name] }, io.Discard)
}

func TestDefaults(t *testing.T) {
	s, err := parse(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Addr != "127.0.0.1:8080" || s.AdminAddr != "127.0.0.1:9090" || s.Workers != 2 || s.DrainTimeout != 20*time.Second ||
		s.IdleGrace != 2*time.Second || len(s.ReplicaURLs) != 0 || !s.Rate.On {
		t.Errorf("got %+v", s)
	}
	if got, want := s.Rate.Limit.String(), ratelimit.Per(200, time.Second).Burst(400).String(); got != want {
		t.Errorf("rate = %s, want %s", got, want)
	}
}

func TestFlagsBeforeEnvironment(t *testing.T) {
	s, err := parse(t, []string{"-addr", "127.0.0.1:1", "--idle-grace=3s"}, "ADDR", "127.0.0.1:2", "ADMIN_ADDR", "127.0.0.1:3", "IDLE_GRACE", "never",
		"DATABASE_REPLICA_URLS", "postgres://a/shop, postgres://b/shop")
	if err != nil {
		t.Fatal(err)
	}
	if s.Addr != "127.0.0.1:1" || s.AdminAddr != "127.0.0.1:3" || s.IdleGrace != 3*time.Second || len(s.ReplicaURLs) != 2 {
		t.Errorf("got %+v", s)
	}
}

func TestEveryBadValueIsNamed(t *testing.T) {
	_, err := parse(t, nil, "ADDR", "8080", "WORKERS", "many", "RATE", "fast", "DRAIN_TIMEOUT", "-1s", "IDLE_GRACE", "2",
		"DATABASE_URL", "host=db", "DATABASE_REPLICA_URLS", "postgres://u:secret@h:x/d", "REDIS_URL", "http://u:secret@h", "ADMIN_ADDR", "0.0.0.0:9090")
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	for i, want := range []string{
		`ADDR = "8080": must be host:port`,
		`WORKERS = "many": must be a number from 0 to 256`,
		`DATABASE_URL: must be a URL: postgres://`,
		`DATABASE_REPLICA_URLS: must be a URL: postgres://`,
		`REDIS_URL: must be a URL, such as redis://`,
		`RATE = "fast": must be a rate`,
		`DRAIN_TIMEOUT = "-1s": must be a duration above 0`,
		`IDLE_GRACE = "2": must be a duration above 0`,
		`ADMIN_TOKEN: must be set, because ADMIN_ADDR = "0.0.0.0:9090" is not a loopback address`,
	} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Errorf("line %d of %q: want %q", i, lines, want)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("a password is in: %v", err)
	}
}

func TestWhatMustBeSet(t *testing.T) {
	_, err := parse(t, nil, "DATABASE_URL", "", "REDIS_URL", "")
	if err == nil || !strings.Contains(err.Error(), "DATABASE_URL: must be set") || !strings.Contains(err.Error(), "REDIS_URL: must be set") {
		t.Errorf("err = %v", err)
	}
}

func TestRate(t *testing.T) {
	for text, want := range map[string]string{
		"off":             "",
		"50":              ratelimit.Per(50, time.Second).Burst(100).String(),
		"50/s":            ratelimit.Per(50, time.Second).Burst(100).String(),
		"1000/h burst 10": ratelimit.Per(1000, time.Hour).Burst(10).String(),
		"60/m":            ratelimit.Per(60, time.Minute).Burst(120).String(),
	} {
		r, err := parseRate(text)
		got := ""
		if r.On {
			got = r.Limit.String()
		}
		if err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1/s", "5/d", "5/s burst 0", "5/s burst", "on", "1.5/s"} {
		if _, err := parseRate(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

func TestControl(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/1")
	s, err := parse(t, nil, "CONTROL", "")
	if err != nil || s.Control != "/run/user/1/storefront.sock" {
		t.Errorf("%s, %v", s.Control, err)
	}
	t.Setenv("XDG_RUNTIME_DIR", "")
	if s, err = parse(t, nil, "CONTROL", ""); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(s.Control)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("reading the settings has made %s: %v", dir, err)
	}
	for range 2 {
		if err := s.MakeControlDir(); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", info, err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.MakeControlDir(); err == nil {
		t.Error("a directory that others can look into was taken")
	}
	s.RemoveControlDir()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}

	other := Settings{Control: filepath.Join(t.TempDir(), "mine.sock")}
	other.RemoveControlDir()
	if _, err := os.Stat(filepath.Dir(other.Control)); err != nil {
		t.Errorf("a directory of the user's was removed: %v", err)
	}
}
