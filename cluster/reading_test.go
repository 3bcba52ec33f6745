//go:build unix

package cluster_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

type exitRow struct {
	Slot, Generation, PID int
	Status, Reason        string
	Crash, Stderr, Tail   string
	OK                    bool
}

func (s *instance) exits(slot int) []exitRow {
	s.t.Helper()
	var res struct{ Exits []exitRow }
	_, body := s.ask(fmt.Sprint("/v1/exits?slot=", slot))
	json.Unmarshal([]byte(body), &res)
	return res.Exits
}

// ask reads from the control socket.
func (s *instance) ask(path string) (int, string) {
	s.t.Helper()
	resp, err := s.control.Get("http://control" + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// A crash with 3000 goroutines writes megabytes; the reason must be there, and the end of standard error.
func TestLastWordsOfACrash(t *testing.T) {
	s := start(t, options(t))
	s.get("http://" + s.addr + "/crash")
	s.eventually("a crash is recorded", func() bool { return len(s.exits(0))+len(s.exits(1)) > 0 })
	e := append(s.exits(0), s.exits(1)...)[0]
	if e.Status != "exit status 2" || e.Reason != "panic: this worker crashes" || e.OK {
		t.Errorf("%s, reason %q", e.Status, e.Reason)
	}
	for what, text := range map[string]string{"crash": e.Crash, "stderr": e.Stderr} {
		if !strings.HasPrefix(text, "panic: this worker crashes\n") || !strings.Contains(text, "goroutine ") {
			t.Errorf("%s: %.200q", what, text)
		}
	}
	if len(e.Tail) == 0 || len(e.Tail) > 16<<10 || len(e.Crash) > 64<<10 || len(e.Stderr) > 16<<10 {
		t.Errorf("%d, %d and %d bytes", len(e.Crash), len(e.Stderr), len(e.Tail))
	}
	s.eventually("the reason is logged", func() bool { return strings.Contains(s.err.String(), "panic: this worker crashes\"") })
}

func TestLastWordsOfASignalAndOfAReload(t *testing.T) {
	s := start(t, options(t))
	syscall.Kill(s.pids("ready")[1], syscall.SIGQUIT)
	s.eventually("the end is recorded", func() bool { return len(s.exits(1)) > 0 })
	if e := s.exits(1)[0]; e.Reason != "SIGQUIT: quit" || !strings.Contains(e.Crash, "goroutine ") {
		t.Errorf("reason %q, %d bytes", e.Reason, len(e.Crash))
	}
	s.eventually("it is back", func() bool { return len(s.pids("ready")) == 2 })
	if err := s.reload("?slot=0"); err != "" {
		t.Error(err)
	}
	s.eventually("the end is recorded", func() bool { return len(s.exits(0)) > 0 })
	if e := s.exits(0)[0]; !e.OK || e.Crash+e.Stderr+e.Tail != "" {
		t.Errorf("got %+v", e)
	}
}

func TestLogsCanBeReadAndFollowed(t *testing.T) {
	s := start(t, options(t))
	s.eventually("the latest lines", func() bool {
		_, body := s.ask("/v1/logs?slot=1")
		return body == "[1] hello from 1\n"+`{"slot":1,"msg":"hello"}`+"\n"
	})
	s.eventually("the supervisor's are among them", func() bool {
		_, body := s.ask("/v1/logs?lines=100")
		return strings.Contains(body, "[cluster] INFO worker ready slot=0 generation=1") && strings.Contains(body, "[0] hello from 0\n")
	})
	resp, err := s.control.Get("http://control/v1/logs?follow=1&lines=0&slot=0")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	if err := s.reload(""); err != "" {
		t.Error(err)
	}
	for _, want := range []string{"[0] hello from 0", `{"slot":0,"msg":"hello"}`} {
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("got %q, want %q", lines.Text(), want)
		}
	}
	s.signal(syscall.SIGTERM)
	for lines.Scan() { // ends with the service
	}
	if code := s.wait(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

func TestProfiles(t *testing.T) {
	for _, workers := range []int{0, 2} {
		t.Run(fmt.Sprint(workers, " workers"), func(t *testing.T) {
			o := options(t)
			o.Workers = workers
			s := start(t, o)
			slot := max(0, workers-1)
			for kind, starts := range map[string]string{"cpu": "\x1f\x8b", "heap": "\x1f\x8b", "goroutine": "goroutine "} {
				code, body := s.ask(fmt.Sprintf("/v1/profile?slot=%d&kind=%s&seconds=1", slot, kind))
				if code != 200 || !strings.HasPrefix(body, starts) {
					t.Errorf("%s: %d %.80q", kind, code, body)
				}
			}
			for query, want := range map[string]int{"slot=7&kind=heap": 503, "slot=x&kind=heap": 400, "kind=block": 400, "kind=cpu&seconds=0": 400} {
				if code, body := s.ask("/v1/profile?" + query); code != want {
					t.Errorf("%s: %d %s", query, code, body)
				}
			}
			if workers == 0 {
				if code, body := s.ask("/v1/logs"); code != http.StatusNotImplemented {
					t.Errorf("logs: %d %s", code, body)
				}
				if code, body := s.ask("/v1/exits"); code != 200 || body != "{\"exits\":[]}\n" {
					t.Errorf("exits: %d %s", code, body)
				}
			}
		})
	}
}
