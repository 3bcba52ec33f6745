package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
)

type workerRow struct {
	Slot, Generation, PID int
	State                 string
}

func (s *storefront) workers(t *testing.T) []workerRow {
	t.Helper()
	var list struct{ Workers []workerRow }
	s.controlCall(t, "GET", "/v1/workers", &list)
	return list.Workers
}

func testReload(t *testing.T, s *storefront) {
	before := s.workers(t)
	stop := s.load(t, 8)
	for range 2 {
		s.reload(t)
	}
	sent, failed := stop()
	t.Logf("%d requests over two reloads", sent)
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed: %s", len(failed), sent, failed[0])
	}
	eventually(t, "the old workers are gone", func() error { // a reload is over when the new ones serve
		for _, w := range s.workers(t) {
			for _, old := range before {
				if w.PID == old.PID {
					return fmt.Errorf("worker %+v is still there", w)
				}
			}
		}
		return nil
	})
}

// A kill costs at most the requests that the worker had accepted: no more than there are clients, who have one each.
func testKill(t *testing.T, s *storefront) {
	const clients = 8
	stop := s.load(t, clients)
	a := s.client(t).do(http.StatusOK, "GET", "/products/1", "")
	worker := strings.Split(a.worker(), "/")
	pid, err := strconv.Atoi(worker[2])
	if err != nil {
		t.Fatal(err)
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the worker is back", func() error {
		for _, w := range s.workers(t) {
			if strconv.Itoa(w.Slot) == worker[0] && w.PID != pid && w.State == "ready" {
				return nil
			}
		}
		return errors.New("not ready")
	})
	eventually(t, "it answers", func() error {
		a, err := s.client(t).try("GET", "/products/1", "")
		if err == nil && (!strings.HasPrefix(a.worker(), worker[0]+"/") || strings.HasSuffix(a.worker(), "/"+worker[2])) {
			err = errors.New("another worker did")
		}
		return err
	})
	sent, failed := stop()
	t.Logf("%d requests around the kill, %d failed", sent, len(failed))
	if len(failed) > clients {
		t.Errorf("%d of %d requests failed, want at most %d: %s", len(failed), sent, clients, failed[0])
	}
}
