// Package admin serves what the outside may know of a cluster: probes, metrics, a snapshot, and the page for people.
package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/fairlead/fairlead/internal/telemetry"
)

// Source is the cluster that is served.
type Source interface {
	// Alive returns nil if whatever decides in the cluster still answers.
	Alive(ctx context.Context) error
	Health() Health
	// Snapshot asks the workers anew; Latest takes what they said last, at once.
	Snapshot(ctx context.Context) Snapshot
	Latest() Snapshot
}

// Health is what the probes go by.
type Health struct {
	Started bool // some worker has been ready since the start
	Ready   bool // some worker is ready, its checks pass, and the service is not stopping
	Reason  string
	Checks  []Check
}

// Check is the latest result of a named check in one worker.
type Check struct {
	Slot  int    `json:"slot"`
	Name  string `json:"name"`
	Error string `json:"error,omitempty"` // "" means it passed
}

// NotChecked is the error of a check that has not ended once.
const NotChecked = "not checked yet"

// Snapshot is the answer of /api/snapshot.
type Snapshot struct {
	Time     time.Time          `json:"time"`
	Ready    bool               `json:"ready"`
	Stopping bool               `json:"stopping"`
	Workers  []Worker           `json:"workers"`
	Checks   []Check            `json:"checks"`
	Samples  []telemetry.Sample `json:"samples"` // merged over all workers, also those that are gone
}

// Worker is one process, or a slot that waits for its next one.
type Worker struct {
	Slot        int       `json:"slot"`
	Generation  int       `json:"generation"`
	PID         int       `json:"pid,omitempty"`
	InstanceID  string    `json:"instance_id,omitempty"`
	State       string    `json:"state"` // starting, ready, draining, backoff
	Started     time.Time `json:"started,omitzero"`
	Uptime      float64   `json:"uptime_seconds"`
	Restarts    int       `json:"restarts"`            // of the slot, after crashes
	CPU         float64   `json:"cpu_cores"`           // processors in use, over the last frames
	SchedP99    float64   `json:"sched_p99_seconds"`   // how long goroutines that could run waited for a processor, over the last frames
	RPS         float64   `json:"requests_per_second"` // over the last frames
	RSS         int64     `json:"rss_bytes"`
	Heap        uint64    `json:"heap_bytes"`
	Goroutines  int64     `json:"goroutines"`
	Connections int64     `json:"connections"`
	LastExit    string    `json:"last_exit,omitempty"` // of the slot
}

const aliveTimeout = 5 * time.Second

// Server serves a cluster. It looks at it each second until Close.
type Server struct {
	http.Handler
	hub *hub
}

// New serves src. auth, if not nil, guards everything but the probes.
func New(src Source, auth func(*http.Request) error) *Server {
	s := &Server{hub: newHub(src)}
	s.Handler = s.routes(src, auth)
	return s
}

// Close ends the streams to the page and returns when the last look at the cluster is over.
func (s *Server) Close() { s.hub.close() }

func (s *Server) routes(src Source, auth func(*http.Request) error) http.Handler {
	guarded := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if auth != nil {
				if err := auth(r); err != nil {
					// A browser asks for a password then; whether it counts is up to auth.
					w.Header().Set("WWW-Authenticate", `Basic realm="admin", charset="UTF-8"`)
					http.Error(w, "unauthorized", http.StatusUnauthorized)
					return
				}
			}
			h(w, r)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), aliveTimeout)
		defer cancel()
		reason := ""
		if err := src.Alive(ctx); err != nil {
			reason = err.Error()
		}
		probe(w, r, reason, nil)
	})
	mux.HandleFunc("GET /startupz", func(w http.ResponseWriter, r *http.Request) {
		reason := ""
		if !src.Health().Started {
			reason = "no worker has been ready yet"
		}
		probe(w, r, reason, nil)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		h := src.Health()
		reason := h.Reason
		if h.Ready {
			reason = ""
		}
		probe(w, r, reason, h.Checks)
	})
	mux.HandleFunc("GET /metrics", guarded(func(w http.ResponseWriter, r *http.Request) {
		samples := src.Snapshot(r.Context()).Samples
		w.Header().Set("Content-Type", telemetry.TextContentType)
		telemetry.WriteText(w, samples)
	}))
	mux.HandleFunc("GET /api/snapshot", guarded(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		json.NewEncoder(w).Encode(src.Snapshot(r.Context()))
	}))
	mux.HandleFunc("GET /api/scaling", guarded(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		json.NewEncoder(w).Encode(s.hub.scaling())
	}))
	mux.HandleFunc("GET /top", guarded(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		v, _ := s.hub.fresh()
		v.writeTop(w)
	}))
	mux.HandleFunc("GET /{$}", guarded(s.servePage))
	mux.HandleFunc("GET /stream", guarded(s.serveStream))
	mux.HandleFunc("GET /assets/page.css", guarded(asset("text/css; charset=utf-8", pageCSS, cssHash)))
	mux.HandleFunc("GET /assets/page.js", guarded(asset("text/javascript; charset=utf-8", pageJS, jsHash)))
	mux.HandleFunc("GET /assets/icon.svg", guarded(asset("image/svg+xml", iconSVG, iconHash)))
	return mux
}

// probe answers 200 if reason is empty and 503 with it otherwise. With ?verbose the checks follow; what a failing one
// says may name internals, so it takes that too.
func probe(w http.ResponseWriter, r *http.Request, reason string, checks []Check) {
	var b strings.Builder
	if reason == "" {
		b.WriteString("ok\n")
	} else {
		b.WriteString(reason + "\n")
	}
	if r.URL.Query().Has("verbose") {
		for _, c := range checks {
			if c.Error == "" {
				fmt.Fprintf(&b, "[+] slot %d %s ok\n", c.Slot, c.Name)
			} else {
				fmt.Fprintf(&b, "[-] slot %d %s: %s\n", c.Slot, c.Name, c.Error)
			}
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if reason != "" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprint(w, b.String())
}
