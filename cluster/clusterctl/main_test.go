//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/fairlead/fairlead/cluster"
)

func socketDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "ctl") // t.TempDir is too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func ctl(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	code = run(ctx, append([]string{"clusterctl"}, args...), &out, &errs)
	return code, out.String(), errs.String()
}

// fake is a control socket that answers as its handlers say.
func fake(t *testing.T, handlers map[string]http.HandlerFunc) string {
	path := filepath.Join(socketDir(t), "control")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for pattern, h := range handlers {
		mux.HandleFunc(pattern, h)
	}
	srv := &http.Server{Handler: mux}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return path
}

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		w.Write([]byte(body))
	}
}

func TestAgainstARealService(t *testing.T) {
	path := filepath.Join(socketDir(t), "control")
	done := make(chan error, 1)
	running := make(chan struct{})
	go func() {
		done <- cluster.Run(t.Context(), func(ctx context.Context) error {
			cluster.From(ctx).Ready()
			close(running)
			<-ctx.Done()
			return nil
		}, cluster.Options{Control: path})
	}()
	select {
	case <-running:
	case err := <-done:
		t.Fatal(err)
	}
	code, out, errs := ctl(t, "--control", path, "ls")
	if code != 0 || !strings.HasPrefix(out, "SLOT  GEN") || !strings.Contains(out, "ready") {
		t.Errorf("ls: %d\n%s%s", code, out, errs)
	}
	code, out, _ = ctl(t, "--control", path, "ls", "--json")
	var rows []worker
	if err := json.Unmarshal([]byte(out), &rows); code != 0 || err != nil || len(rows) != 1 || rows[0].PID != os.Getpid() {
		t.Errorf("ls --json: %d, %v\n%s", code, err, out)
	}
	for _, args := range [][]string{{"reload"}, {"scale", "2"}, {"scale", "-1"}, {"upgrade"}, {"logs"}} {
		if code, _, errs = ctl(t, append([]string{"--control", path}, args...)...); code != exitUnsupported || !strings.Contains(errs, "unsupported") {
			t.Errorf("%v: %d %s", args, code, errs)
		}
	}
	if code, out, errs = ctl(t, "--control", path, "ls", "0"); code != 0 || strings.Count(out, "\n") != 2 {
		t.Errorf("ls 0: %d\n%s%s", code, out, errs)
	}
	if code, _, errs = ctl(t, "--control", path, "ls", "1"); code != exitFailed || errs != "clusterctl: there is no slot 1\n" {
		t.Errorf("ls 1: %d %s", code, errs)
	}
	if code, out, _ = ctl(t, "--control", path, "profile", "0", "goroutine"); code != 0 || !strings.HasPrefix(out, "goroutine ") {
		t.Errorf("profile: %d %.100s", code, out)
	}
	file := filepath.Join(t.TempDir(), "heap")
	if code, out, errs = ctl(t, "--control", path, "profile", "0", "heap", "-o", file); code != 0 || !strings.Contains(out, "go tool pprof") {
		t.Errorf("profile: %d %s%s", code, out, errs)
	}
	if b, err := os.ReadFile(file); err != nil || !bytes.HasPrefix(b, []byte("\x1f\x8b")) {
		t.Errorf("the profile: %d bytes, %v", len(b), err)
	}
	t.Setenv("CONTROL", path)
	if code, _, errs = ctl(t, "stop"); code != 0 {
		t.Errorf("stop: %d %s", code, errs)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if code, _, errs = ctl(t, "ls"); code != exitUnreachable || !strings.Contains(errs, "nobody answers on "+path) {
		t.Errorf("ls after the end: %d %s", code, errs)
	}
}

func TestReloadWaitsForTheOutcome(t *testing.T) {
	asked := 0
	path := fake(t, map[string]http.HandlerFunc{
		"POST /v1/reload": says(202, `{"id":"a"}`),
		"GET /v1/operations/a": func(w http.ResponseWriter, r *http.Request) {
			if asked++; asked < 3 {
				w.Write([]byte(`{"id":"a","done":false}`))
				return
			}
			w.Write([]byte(`{"id":"a","done":true,"error":"slot 0: the new worker ended"}`))
		},
	})
	code, _, errs := ctl(t, "--control", path, "reload")
	if code != exitFailed || errs != "clusterctl: reload failed: slot 0: the new worker ended\n" || asked != 3 {
		t.Errorf("%d %q after %d questions", code, errs, asked)
	}
}

func TestWrongUsage(t *testing.T) {
	t.Setenv("CONTROL", "")
	for _, args := range [][]string{
		{"ls"}, {"--control", "x", "reload", "one"}, {"--control", "x", "reload", "1", "2"}, {"--control", "x", "stop", "now"},
		{"--control", "x", "ls", "one"}, {"--control", "x", "ls", "1", "2"}, {"--control", "x", "top"}, {"--control", "x", "top", "--interval", "1ms"},
		{"--control", "x", "logs", "-n", "-1"}, {"--control", "x", "logs", "x"}, {"--control", "x", "profile"}, {"--control", "x", "profile", "0"},
		{"--control", "x", "profile", "0", "block"}, {"--control", "x", "profile", "x", "cpu"},
		{"--control", "x", "scale"}, {"--control", "x", "scale", "0"}, {"--control", "x", "scale", "many"}, {"--control", "x", "scale", "1", "2"},
		{"--control", "x", "upgrade", "now"}, {"unknown"}, {"--nonsense"}, {"--control", "x", "ls", "--nonsense"},
	} {
		if code, _, errs := ctl(t, args...); code != exitUsage || errs == "" {
			t.Errorf("%q: %d %q", args, code, errs)
		}
	}
	if code, out, _ := ctl(t); code != 0 || !strings.Contains(out, "reload") {
		t.Errorf("without arguments: %d %q", code, out)
	}
}

func TestHelpFitsATerminal(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"ls", "--help"}, {"logs", "--help"}, {"profile", "--help"}, {"reload", "--help"}, {"scale", "--help"}} {
		code, out, errs := ctl(t, args...)
		if code != 0 || len(out) < 100 {
			t.Errorf("%v: %d %q %q", args, code, out, errs)
		}
		for line := range strings.Lines(out) {
			if args[0] == "--help" && utf8.RuneCountInString(line) > 81 {
				t.Errorf("too long: %s", line)
			}
		}
	}
}

func TestOperationsAskForWhatIsMeant(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	started := func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.URL.String())
		mu.Unlock()
		w.WriteHeader(http.StatusAccepted)
		w.Write([]byte(`{"id":"a"}`))
	}
	path := fake(t, map[string]http.HandlerFunc{
		"POST /v1/reload": started, "POST /v1/scale": started, "POST /v1/upgrade": started,
		"GET /v1/operations/a": says(200, `{"id":"a","done":true}`),
	})
	for _, args := range [][]string{{"reload", "3"}, {"scale", "6"}, {"scale", "+2"}, {"scale", "-1"}, {"upgrade"}} {
		if code, out, errs := ctl(t, append([]string{"--control", path}, args...)...); code != 0 || !strings.HasPrefix(out, args[0]+" done in ") {
			t.Errorf("%v: %d %q %q", args, code, out, errs)
		}
	}
	want := []string{"/v1/reload?slot=3", "/v1/scale?to=6", "/v1/scale?by=2", "/v1/scale?by=-1", "/v1/upgrade"}
	if !slices.Equal(asked, want) {
		t.Errorf("asked %q", asked)
	}
}

// An upgrade replaces the supervisor: its connections end, and the next one answers for the operation.
func TestAnOperationOutlivesTheConnection(t *testing.T) {
	var asked atomic.Int32
	path := fake(t, map[string]http.HandlerFunc{
		"POST /v1/upgrade": says(202, `{"id":"a"}`),
		"GET /v1/operations/a": func(w http.ResponseWriter, r *http.Request) {
			if asked.Add(1) < 4 {
				c, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
				}
				c.Close()
				return
			}
			w.Write([]byte(`{"id":"a","done":true}`))
		},
	})
	if code, _, errs := ctl(t, "--control", path, "upgrade"); code != 0 {
		t.Errorf("%d %s", code, errs)
	}
}

func TestLogsAreFollowedOverAnUpgrade(t *testing.T) {
	var asked atomic.Int32
	path := fake(t, map[string]http.HandlerFunc{
		"GET /v1/logs": func(w http.ResponseWriter, r *http.Request) {
			switch asked.Add(1) {
			case 1:
				fmt.Fprintf(w, "lines=%s\n", r.FormValue("lines"))
			case 2:
				fmt.Fprintf(w, "then lines=%s\n", r.FormValue("lines"))
			default:
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		},
	})
	code, out, _ := ctl(t, "--control", path, "logs", "-f", "-n", "7")
	if code != exitFailed || out != "lines=7\nthen lines=0\n" {
		t.Errorf("%d %q", code, out)
	}
}

var rows = []worker{
	{Slot: 0, Generation: 12, PID: 1048570, State: "ready", Uptime: 90061, Restarts: 1, CPU: 0.421, RSS: 34 << 20, Heap: 5 << 19, Goroutines: 20,
		SchedP99: 0.0000123, Connections: 3, RPS: 1234.5, LastExit: "signal: killed"},
	{Slot: 1, State: "backoff", Restarts: 7, LastExit: "exit status 1"},
}

func TestTable(t *testing.T) {
	for width, want := range map[int]string{
		0: `
SLOT  GEN      PID  STATE    UPTIME  RESTARTS   CPU  RSS  HEAP  GOROUTINES  SCHED P99  CONNS  REQ/S  LAST EXIT
   0   12  1048570  ready      1d1h         1  0.42  34M  2.5M          20       12µs      3   1234  signal: killed
   1    -        -  backoff       -         7     -    -     -           -          -      -      -  exit status 1
`,
		100: `
SLOT  GEN      PID  STATE    UPTIME  RST   CPU  RSS  HEAP  GORO  SCHED  CONNS  REQ/S  LAST EXIT
   0   12  1048570  ready      1d1h    1  0.42  34M  2.5M    20   12µs      3   1234  signal: killed
   1    -        -  backoff       -    7     -    -     -     -      -      -      -  exit status 1
`,
		80: `
SLOT  GEN      PID  STATE    UPTIME  RST   CPU  RSS  CONNS  REQ/S  LAST EXIT
   0   12  1048570  ready      1d1h    1  0.42  34M      3   1234  killed
   1    -        -  backoff       -    7     -    -      -      -  exit status 1
`,
	} {
		var b strings.Builder
		table(&b, rows, paint{}, width)
		if b.String() != want[1:] {
			t.Errorf("width %d: got\n%swant%s", width, b.String(), want)
		}
		for line := range strings.Lines(b.String()) {
			if n := utf8.RuneCountInString(line) - 1; width > 0 && n > width {
				t.Errorf("width %d: a line of %d", width, n)
			}
		}
	}
}

func TestTopFillsTheScreenAndNoMore(t *testing.T) {
	v := view{path: "/run/shop/control", workers: rows, at: time.Unix(0, 0), rates: []float64{0, 1, 2, 4, 8}}
	for _, size := range [][2]int{{80, 24}, {200, 50}, {80, 6}} {
		frame := string(v.frame(size[0], size[1]))
		lines := strings.Split(frame, "\n")
		if len(lines) != size[1] || lines[len(lines)-1] != "q quits" || !strings.Contains(lines[1], "1 of 2 slots ready") {
			t.Errorf("%v:\n%s", size, frame)
		}
		for _, l := range lines {
			if utf8.RuneCountInString(l) > size[0] {
				t.Errorf("%v: too long: %s", size, l)
			}
		}
	}
	if got := sparkline(v.rates, 3); got != "▂▄█" {
		t.Errorf("sparkline %s", got)
	}
}
