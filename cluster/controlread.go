package cluster

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

const defaultLogLines = 20

func (c *control) exits(w http.ResponseWriter, r *http.Request) {
	slot, err := number(r, "slot", -1)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	answer(w, http.StatusOK, map[string]any{"exits": c.c.readExits(slot)})
}

func (c *control) logs(w http.ResponseWriter, r *http.Request) {
	slot, err := number(r, "slot", -1)
	n, nErr := number(r, "lines", defaultLogLines)
	if err = errors.Join(err, nErr); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	l, err := c.c.readLogs()
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	follow := r.URL.Query().Get("follow") != ""
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	lines, f := l.last(n, slot, follow)
	for _, line := range lines {
		w.Write(line.text)
	}
	if f == nil {
		return
	}
	defer l.leave(f)
	flush := http.NewResponseController(w)
	for {
		if len(f.lines) == 0 && flush.Flush() != nil {
			return
		}
		select {
		case line, ok := <-f.lines:
			if !ok {
				return
			}
			if n := l.missed(f); n > 0 {
				fmt.Fprintf(w, "[cluster] %d lines left out here: this reader is too slow\n", n)
			}
			if slot < 0 || line.slot == slot {
				w.Write(line.text)
			}
		case <-r.Context().Done():
			return
		}
	}
}

func (c *control) profile(w http.ResponseWriter, r *http.Request) {
	slot, err := number(r, "slot", 0)
	seconds, sErr := number(r, "seconds", int(defaultProfile/time.Second))
	kind := r.URL.Query().Get("kind")
	if kind != profileCPU && kind != profileHeap && kind != profileGoroutines {
		err = errors.Join(err, fmt.Errorf("profile %q: must be cpu, heap or goroutine", kind))
	}
	d := time.Duration(seconds) * time.Second
	if seconds < 1 || d > longestProfile {
		sErr = errors.Join(sErr, fmt.Errorf("seconds %d: must be 1 to %d", seconds, longestProfile/time.Second))
	}
	if err = errors.Join(err, sErr); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	b, err := c.c.profile(r.Context(), slot, kind, d)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, errors.New(strings.TrimPrefix(err.Error(), "cluster: ")))
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Write(b)
}
