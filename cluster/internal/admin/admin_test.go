package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/fairlead/fairlead/internal/telemetry"
)

type fakeSource struct {
	alive  error
	health Health
}

func (f *fakeSource) Alive(context.Context) error       { return f.alive }
func (f *fakeSource) Health() Health                    { return f.health }
func (f *fakeSource) Snapshot(context.Context) Snapshot { return f.Latest() }
func (f *fakeSource) Latest() Snapshot {
	return Snapshot{Workers: []Worker{{Slot: 1, State: "ready"}}, Samples: []telemetry.Sample{{Name: "a.b", Kind: telemetry.Counter, Value: 3}}}
}

func ask(h http.Handler, path string, header ...string) (int, string) {
	r := httptest.NewRequest("GET", path, nil)
	if len(header) > 0 {
		r.Header.Set("Authorization", header[0])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestProbesFollowTheSource(t *testing.T) {
	src := &fakeSource{}
	h := New(src, nil)
	defer h.Close()
	want := func(path string, code int, text string) {
		t.Helper()
		if c, body := ask(h, path); c != code || !strings.Contains(body, text) {
			t.Errorf("%s: %d %q, want %d %q", path, c, body, code, text)
		}
	}
	want("/livez", 200, "ok")
	want("/startupz", 503, "no worker has been ready yet")
	src.health = Health{Started: true, Reason: "check failed: db", Checks: []Check{{Slot: 1, Name: "db", Error: "no route"}}}
	want("/startupz", 200, "ok")
	want("/readyz", 503, "check failed: db")
	want("/readyz?verbose", 503, "[-] slot 1 db: no route")
	if _, body := ask(h, "/readyz"); strings.Contains(body, "no route") {
		t.Error("the text of an error is told without being asked for")
	}
	src.health = Health{Started: true, Ready: true}
	want("/readyz", 200, "ok")
	src.alive = errors.New("stuck")
	want("/livez", 503, "stuck")
	want("/metrics", 200, "a_b_total 3")
	var snap Snapshot
	if _, body := ask(h, "/api/snapshot"); json.Unmarshal([]byte(body), &snap) != nil || len(snap.Workers) != 1 {
		t.Errorf("/api/snapshot: %s", body)
	}
}

func TestAuthGuardsEverythingButTheProbes(t *testing.T) {
	h := New(&fakeSource{health: Health{Started: true, Ready: true}}, func(r *http.Request) error {
		if r.Header.Get("Authorization") != "secret" {
			return errors.New("who is that?")
		}
		return nil
	})
	defer h.Close()
	for _, path := range []string{"/livez", "/startupz", "/readyz"} {
		if code, _ := ask(h, path); code != 200 {
			t.Errorf("%s: %d", path, code)
		}
	}
	for _, path := range []string{"/metrics", "/api/snapshot"} {
		if code, body := ask(h, path); code != 401 || strings.Contains(body, "who") {
			t.Errorf("%s without: %d %s", path, code, body)
		}
		if code, _ := ask(h, path, "secret"); code != 200 {
			t.Errorf("%s with: %d", path, code)
		}
	}
}
