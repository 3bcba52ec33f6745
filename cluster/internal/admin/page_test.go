package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead/fairlead/internal/telemetry"
)

// moving is a source whose snapshot a test changes.
type moving struct{ now atomic.Pointer[Snapshot] }

func (m *moving) Alive(context.Context) error       { return nil }
func (m *moving) Health() Health                    { return Health{Started: true, Ready: true} }
func (m *moving) Snapshot(context.Context) Snapshot { return m.Latest() }
func (m *moving) Latest() Snapshot {
	s := *m.now.Load()
	s.Time = time.Now()
	return s
}

func moved(s Snapshot) *moving {
	m := new(moving)
	m.now.Store(&s)
	return m
}

func served(n uint64, status, route string) telemetry.Sample {
	var h telemetry.DurationHistogram
	for range n {
		h.Record(3 * time.Millisecond)
	}
	b := h.Snapshot()
	return telemetry.Sample{Name: requests, Kind: telemetry.Histogram, Unit: "s", Buckets: &b, Attrs: []telemetry.Attr{
		{Key: "service", Value: "shop"}, {Key: "http.request.method", Value: "GET"}, {Key: "http.route", Value: route}, {Key: classAttr, Value: status}}}
}

func two(samples ...telemetry.Sample) Snapshot {
	return Snapshot{Ready: true, Samples: samples, Workers: []Worker{
		{Slot: 0, Generation: 1, PID: 10, State: "ready"}, {Slot: 1, Generation: 1, PID: 11, State: "ready"}}}
}

func TestTheVerdictSaysWhatIsWrong(t *testing.T) {
	breakerOpen := telemetry.Sample{Name: "fairlead.breaker.state", Kind: telemetry.Max, Value: 2, Attrs: []telemetry.Attr{{Key: "breaker", Value: "stock"}}}
	for _, c := range []struct {
		name    string
		now     Snapshot
		level   level
		verdict string
		reasons []string
	}{
		{"healthy", two(), fine, "healthy: 2/2 workers, 0 rps", nil},
		{"breaker", two(breakerOpen), bad, "in trouble: 2/2 workers, 0 rps, 1 breaker open", []string{"breaker stock is open"}},
		{"one slot", func() Snapshot { s := two(); s.Workers[1].State = "starting"; return s }(), warn, "degraded: 1/2 workers, 0 rps", []string{"1 of 2 slots have no ready worker"}},
		{"none", func() Snapshot {
			s := two()
			s.Ready = false
			s.Workers = s.Workers[:1]
			s.Workers[0].State = "starting"
			return s
		}(), bad, "in trouble: 0/1 workers, 0 rps", []string{"no worker is ready"}},
		{"hung", func() Snapshot { s := two(); s.Workers[1].State = "hung"; return s }(), bad, "in trouble: 1/2 workers, 0 rps", []string{"slot 1 is hung", "1 of 2 slots have no ready worker"}},
		{"check", func() Snapshot { s := two(); s.Checks = []Check{{Slot: 1, Name: "db", Error: "refused"}}; return s }(), bad, "in trouble: 2/2 workers, 0 rps", []string{"check db fails in slot 1"}},
		{"new worker", func() Snapshot { s := two(); s.Checks = []Check{{Slot: 1, Name: "db", Error: NotChecked}}; return s }(), fine, "healthy: 2/2 workers, 0 rps", nil},
		{"stopping", func() Snapshot { s := two(); s.Ready, s.Stopping = false, true; return s }(), warn, "stopping: 2/2 workers, 0 rps", []string{"the service is stopping"}},
	} {
		v := newView(c.now, Snapshot{}, nil, nil)
		if v.level != c.level || v.verdict != c.verdict || strings.Join(v.reasons, "|") != strings.Join(c.reasons, "|") {
			t.Errorf("%s: %s %q %q, want %s %q %q", c.name, v.level, v.verdict, v.reasons, c.level, c.verdict, c.reasons)
		}
	}
}

func TestRatesComeFromTwoSnapshots(t *testing.T) {
	at := time.Unix(1000, 0)
	before, now := two(served(100, "2xx", "/a")), two(served(150, "2xx", "/a"), served(50, "5xx", "/b"))
	before.Time, now.Time = at, at.Add(5*time.Second)
	f := newFigures(now, before)
	p := newPoint(now, f)
	if p.rps != 20 || p.errors != 0.5 || p.p99 < 0.003 || p.p99 > 0.00375 {
		t.Errorf("rps %v, errors %v, p99 %v; want 20, 0.5 and 3 ms within 25 %%", p.rps, p.errors, p.p99)
	}
	routes := newRoutes(f)
	if len(routes) != 2 || routes[0].pattern != "/a" || routes[0].rps != 10 || routes[1].errors != 1 {
		t.Errorf("routes: %+v", routes)
	}
	// A worker that died takes gauges with it and no counter; should one shrink all the same, nothing is negative.
	back := newPoint(before, newFigures(before, now))
	if back.rps != 0 {
		t.Errorf("rps of a shrinking total: %v", back.rps)
	}
}

func TestEvents(t *testing.T) {
	with := func(change func(*Snapshot)) Snapshot {
		s := two(telemetry.Sample{Name: "fairlead.pool.failover", Kind: telemetry.Counter, Value: 1, Attrs: []telemetry.Attr{{Key: "pool", Value: "pg"}}},
			telemetry.Sample{Name: "fairlead.pool.replica.lag", Kind: telemetry.Max, Attrs: []telemetry.Attr{{Key: "pool", Value: "pg"}, {Key: "node", Value: "b"}, {Key: "role", Value: "replica"}}})
		s.Checks = []Check{{Slot: 0, Name: "db"}}
		change(&s)
		return s
	}
	calm := with(func(*Snapshot) {})
	for _, c := range []struct {
		name        string
		before, now Snapshot
		want        string // kind level text, joined
	}{
		{"nothing", calm, calm, ""},
		{"reload", calm, with(func(s *Snapshot) {
			s.Workers[0].State = "draining"
			s.Workers = append(s.Workers, Worker{Slot: 0, Generation: 2, PID: 12, State: "ready"})
		}), "worker ok slot 0: generation 1 is draining|reload ok slot 0: generation 2 starts beside the one that serves|worker ok slot 0: generation 2 is ready"},
		{"crash", calm, with(func(s *Snapshot) {
			s.Workers[1] = Worker{Slot: 1, Generation: 2, PID: 13, State: "starting", Restarts: 1, LastExit: "signal: killed"}
		}), "crash bad slot 1: the worker ended by itself: signal: killed|worker ok slot 1: generation 2 is starting"},
		{"hung", calm, with(func(s *Snapshot) { s.Workers[1].State = "hung" }), "worker bad slot 1: generation 1 is hung"},
		{"check", calm, with(func(s *Snapshot) { s.Checks[0].Error = "refused" }), "check bad slot 0: check db fails: refused"},
		{"check of a new worker", calm, with(func(s *Snapshot) { s.Checks[0].Error = NotChecked }), ""},
		{"check passes again", with(func(s *Snapshot) { s.Checks[0].Error = "refused" }), calm, "check ok slot 0: check db passes"},
		{"failover", calm, with(func(s *Snapshot) { s.Samples[0].Value = 2 }), "pool warn pool pg has another primary, or the old one restarted"},
		{"lag", calm, with(func(s *Snapshot) { s.Samples[1].Value = 7 }), "pool warn pool pg node b lags"},
		{"lag and role", with(func(s *Snapshot) { s.Samples[1].Value = 7 }), with(func(s *Snapshot) { s.Samples[1].Attrs[2].Value = "primary" }), "pool ok pool pg node b has caught up"},
		{"stopping", calm, with(func(s *Snapshot) { s.Stopping, s.Ready = true, false }), "worker warn the service is stopping"},
	} {
		var got []string
		for _, e := range eventsBetween(c.before, c.now) {
			got = append(got, e.kind+" "+string(e.level)+" "+e.text)
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("%s:\n got %q\nwant %q", c.name, strings.Join(got, "|"), c.want)
		}
	}
}

func TestWhatComesFromOutsideIsEscaped(t *testing.T) {
	const evil = `"><script>alert(1)</script>`
	now := two(served(9, "2xx", evil), telemetry.Sample{Name: "my." + evil, Kind: telemetry.Gauge, Value: 1, Attrs: []telemetry.Attr{{Key: "x", Value: evil}}})
	now.Workers[0].LastExit, now.Workers[0].State = evil, evil
	now.Checks = []Check{{Slot: 1, Name: evil, Error: evil}}
	now.Time = time.Unix(1005, 0)
	before := two()
	before.Time = time.Unix(1000, 0)
	v := newView(now, before, []point{{at: now.Time}}, []event{{now.Time, bad, "reload", evil}})
	for id, html := range v.sections([]point{{at: now.Time}}) {
		if strings.Contains(html, "<script") {
			t.Errorf("%s is not escaped: %s", id, html)
		}
	}
}

func TestPageCarriesItsPolicyAndStaysSmall(t *testing.T) {
	s := New(moved(two(served(1, "2xx", "/a"))), nil)
	defer s.Close()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	body := w.Body.String()
	if w.Code != 200 || w.Header().Get("Content-Security-Policy") != policy || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	for _, text := range []string{"healthy: 2/2 workers", "<th scope=\"col\"", "assets/page.js?" + jsHash, `data-key="p99"`} {
		if !strings.Contains(body, text) {
			t.Errorf("the first paint lacks %q", text)
		}
	}
	if strings.Contains(body, "{{") || strings.Contains(body, "style=") {
		t.Error("a placeholder is left, or a style that the policy forbids")
	}
	if size := len(pageHTML) + len(pageCSS) + len(pageJS) + len(iconSVG); size > 60_000 {
		t.Errorf("the assets have %d bytes, want at most 60,000", size)
	}
	for _, path := range []string{"/assets/page.css?" + cssHash, "/assets/page.js?" + jsHash, "/assets/icon.svg?" + iconHash} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != 200 || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
	}
	w = httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/assets/page.css?old", nil))
	if w.Header().Get("Cache-Control") != "no-store" {
		t.Error("an asset under another hash would be kept for ever")
	}
}

// Whoever opens the page just after the service has become ready does not see it as it was a second before.
func TestThePageIsOfThisMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := moved(Snapshot{})
		s := New(src, nil)
		defer s.Close()
		ready := two()
		src.now.Store(&ready) // and no look since
		for _, path := range []string{"/", "/top"} {
			if _, body := ask(s, path); !strings.Contains(body, "healthy: 2/2 workers") {
				t.Errorf("%s is of the last look", path)
			}
		}
	})
}

func TestTopIsThePageAsText(t *testing.T) {
	s := New(moved(two(served(3, "2xx", "/a"))), nil)
	defer s.Close()
	_, body := ask(s, "/top")
	for _, text := range []string{"shop  healthy: 2/2 workers", "SLOT", "ready"} {
		if !strings.Contains(body, text) {
			t.Errorf("/top lacks %q:\n%s", text, body)
		}
	}
}

func TestScalingIsFiniteWhateverIsKnown(t *testing.T) {
	src := moved(two())
	s := New(src, nil)
	defer s.Close()
	var got map[string]float64
	if _, body := ask(s, "/api/scaling"); json.Unmarshal([]byte(body), &got) != nil || got["saturation"] != 0 {
		t.Errorf("%v", got)
	}
	src.now.Store(func() *Snapshot {
		s := two(telemetry.Sample{Name: "fairlead.overload.saturation", Kind: telemetry.Max, Value: 0.75},
			telemetry.Sample{Name: "db.client.connection.pending_requests", Kind: telemetry.Gauge, Value: 3})
		return &s
	}())
	s.hub.look()
	if _, body := ask(s, "/api/scaling"); json.Unmarshal([]byte(body), &got) != nil || got["saturation"] != 0.75 || got["pool_waiting"] != 3 {
		t.Errorf("%v", got)
	}
}

func TestAViewerGetsWhatChangedAndEndsWithTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := moved(two())
		h := newHub(src)
		sent := make(chan map[string]string, 10)
		frame := func() map[string]string {
			synctest.Wait()
			select {
			case f := <-sent:
				return f
			default:
				t.Fatal("no frame")
				return nil
			}
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			h.watch(t.Context(), func(changed map[string]string) error {
				sent <- changed
				return nil
			})
		}()
		if f := frame(); len(f) != 6 {
			t.Fatalf("the first frame has %d sections, want them all", len(f))
		}
		time.Sleep(time.Second)
		if f := frame(); f["workers"] != "" || f["events"] != "" {
			t.Fatalf("sections that did not change were sent: %v", f)
		}
		s := two()
		s.Workers[1].State = "draining"
		src.now.Store(&s)
		time.Sleep(time.Second)
		if f := frame(); !strings.Contains(f["workers"], "draining") || !strings.Contains(f["events"], "is draining") {
			t.Fatalf("a change does not show: %v", f)
		}
		h.close()
		<-ended
		if h.viewers != 0 {
			t.Errorf("%d viewers are left", h.viewers)
		}
	})
}

func TestHistoryAndEventsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := moved(two())
		h := newHub(src)
		defer h.close()
		for i := range 300 {
			s := two()
			s.Workers[0].Generation = i + 2
			src.now.Store(&s)
			time.Sleep(time.Second)
			synctest.Wait()
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.history) != historyLen || len(h.events) != shownEvents || len(h.recent) > int(rateSpan/time.Second)+1 {
			t.Errorf("%d points, %d events, %d snapshots", len(h.history), len(h.events), len(h.recent))
		}
	})
}

// A stream over HTTP: an event a second, each on one line.
func TestStream(t *testing.T) {
	s := New(moved(two(served(1, "2xx", "/a\nb"))), nil)
	srv := httptest.NewServer(s)
	defer srv.Close()
	resp, err := http.Get(srv.URL + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type %q", got)
	}
	lines := bufio.NewReader(resp.Body)
	line, err := lines.ReadString('\n')
	var sections map[string]string
	if err != nil || json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &sections) != nil || sections["verdict"] == "" {
		t.Fatalf("%q: %v", line, err)
	}
	s.Close()
	if _, err := io.Copy(io.Discard, lines); err != nil {
		t.Errorf("the stream did not end with the server: %v", err)
	}
}

func TestFormat(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{number(0), "0"}, {number(0.416), "0.42"}, {number(7.1), "7.1"}, {number(42.04), "42.0"}, {number(999), "999"}, {number(1234), "1234"},
		{number(12_400), "12.4k"}, {number(1_230_000), "1.23M"}, {number(math.NaN()), none}, {number(9.999), "10.0"},
		{duration(0.0000042), "4.2 µs"}, {duration(0.0081), "8.1 ms"}, {duration(2.5), "2.5 s"}, {duration(130), "2 min 10 s"}, {duration(math.NaN()), none},
		{age(26 * time.Hour), "1 d 02 h"}, {age(3700 * time.Second), "1 h 01 min"}, {age(5 * time.Second), "5 s"},
		{percent(0.0001), "<0.1"}, {percent(0.982), "98.2"}, {percent(1), "100"}, {percent(0), "0"}, {percent(math.NaN()), none},
		{bytes(19_369_984), "19.4 MB"}, {bytes(512), "512 B"}, {bytes(2e9), "2 GB"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

// What two routes that came and went leave: series of one name with other attributes do not mix.
func TestUnknownComponentsGetACard(t *testing.T) {
	now := two(telemetry.Sample{Name: "shop.basket.items", Kind: telemetry.Gauge, Value: 12, Attrs: []telemetry.Attr{{Key: "basket", Value: "eu"}}},
		telemetry.Sample{Name: "shop.basket.sold", Kind: telemetry.Counter, Value: 30, Attrs: []telemetry.Attr{{Key: "basket", Value: "eu"}, {Key: "kind", Value: "books"}}})
	before := two(telemetry.Sample{Name: "shop.basket.sold", Kind: telemetry.Counter, Value: 20, Attrs: []telemetry.Attr{{Key: "basket", Value: "eu"}, {Key: "kind", Value: "books"}}})
	before.Time = time.Unix(1000, 0)
	now.Time = before.Time.Add(5 * time.Second)
	cards := newCards(newFigures(now, before))
	if len(cards) != 1 || cards[0].kind != "shop.basket" || cards[0].name != "eu" {
		t.Fatalf("%+v", cards)
	}
	if got := fmt.Sprintf("%s=%s %s=%s", cards[0].rows[0].label, cards[0].rows[0].value, cards[0].rows[1].label, cards[0].rows[1].value); got != "items=12 sold books=2/s" {
		t.Errorf("%s", got)
	}
}
