//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
	if code != 0 || !strings.Contains(out, "SLOT  GEN  PID") || !strings.Contains(out, "ready") {
		t.Errorf("ls: %d\n%s%s", code, out, errs)
	}
	code, out, _ = ctl(t, "--control", path, "ls", "--json")
	var rows []worker
	if err := json.Unmarshal([]byte(out), &rows); code != 0 || err != nil || len(rows) != 1 || rows[0].PID != os.Getpid() {
		t.Errorf("ls --json: %d, %v\n%s", code, err, out)
	}
	if code, _, errs = ctl(t, "--control", path, "reload"); code != exitUnsupported {
		t.Errorf("reload: %d %s", code, errs)
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
		{"unknown"}, {"--nonsense"}, {"--control", "x", "ls", "--nonsense"},
	} {
		if code, _, errs := ctl(t, args...); code != exitUsage || errs == "" {
			t.Errorf("%q: %d %q", args, code, errs)
		}
	}
	if code, out, _ := ctl(t); code != 0 || !strings.Contains(out, "reload") {
		t.Errorf("without arguments: %d %q", code, out)
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	table(&b, []worker{
		{Slot: 0, Generation: 12, PID: 4711, State: "ready", Uptime: 90061, Restarts: 1, RSS: 34 << 20, Heap: 5 << 19, Goroutines: 20, Connections: 3, LastExit: "signal: killed"},
		{Slot: 1, State: "backoff", Restarts: 7, LastExit: "exit status 1"},
	})
	want := `SLOT  GEN  PID   STATE    UPTIME  RESTARTS  RSS  HEAP  GOROUTINES  CONNS  LAST EXIT
0     12   4711  ready    1d1h    1         34M  2.5M  20          3      signal: killed
1     -    -     backoff  -       7         -    -     -           -      exit status 1
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}
