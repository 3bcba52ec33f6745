//go:build linux

package cluster_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead/fairlead/cluster"
)

// manager is systemd's end of NOTIFY_SOCKET.
type manager struct {
	path string
	told lines
}

func startManager(t *testing.T) *manager {
	m := &manager{path: filepath.Join(mkdir(t), "notify")}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			m.told.Write(append(b[:n], '\n'))
		}
	}()
	return m
}

// states are the lines that were sent, without the texts and times in them.
func (m *manager) states() []string {
	return slices.DeleteFunc(strings.Split(strings.TrimSpace(m.told.String()), "\n"), func(l string) bool {
		return l == "" || strings.HasPrefix(l, "STATUS=") || strings.HasPrefix(l, "MONOTONIC") || l == "WATCHDOG=1"
	})
}

func TestSystemdIsTold(t *testing.T) {
	for _, workers := range []int{0, 2} {
		t.Run(fmt.Sprint(workers, " workers"), func(t *testing.T) {
			m := startManager(t)
			t.Setenv("NOTIFY_SOCKET", m.path)
			t.Setenv("WATCHDOG_USEC", "200000")
			o := options(t)
			o.Workers = workers
			s := start(t, o)
			s.eventually("three signs of life", func() bool { return strings.Count(m.told.String(), "WATCHDOG=1") >= 3 })
			if got := m.states(); !slices.Equal(got, []string{"READY=1"}) {
				t.Errorf("told %q", got)
			}
			if workers > 0 {
				s.eventually("told of both workers", func() bool { return strings.Contains(m.told.String(), "STATUS=2 of 2 workers ready\n") })
				_, env := s.get("http://" + s.addr + "/env")
				for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_", "FAIRLEAD_"} {
					if strings.Contains(env, name) {
						t.Errorf("a worker's environment has %s", name)
					}
				}
			}
			want := []string{"READY=1"}
			if workers > 0 {
				if err := s.reload(""); err != "" {
					t.Error(err)
				}
				want = append(want, "RELOADING=1", "READY=1")
				s.eventually("told of the reload", func() bool { return slices.Equal(m.states(), want) })
			}
			s.signal(syscall.SIGTERM)
			if code := s.wait(); code != 0 {
				t.Errorf("exit status %d", code)
			}
			if got := m.states(); !slices.Equal(got, append(want, "STOPPING=1")) {
				t.Errorf("told %q", got)
			}
		})
	}
}

// A supervisor that stands still shows no life.
func TestTheWatchdogAsksTheSupervisorsState(t *testing.T) {
	m := startManager(t)
	t.Setenv("NOTIFY_SOCKET", m.path)
	t.Setenv("WATCHDOG_USEC", "100000")
	s := start(t, options(t))
	s.signal(syscall.SIGSTOP)
	poll(t, "the supervisor stands still", func() bool { return stopped(s.cmd.Process.Pid) })
	count := func() int { return strings.Count(m.told.String(), "WATCHDOG=1") }
	before := count()
	if before == 0 {
		t.Error("no sign of life before")
	}
	s.signal(syscall.SIGCONT)
	poll(t, "it lives again", func() bool { return count() > before })
}

// activated starts a service as systemd does, with sockets that it has bound as descriptors 3 and up, for which the shell
// sets LISTEN_PID to its own process, which becomes the service's.
func activated(t *testing.T, o cluster.Options, names string, sockets ...interface{ File() (*os.File, error) }) *instance {
	t.Helper()
	var files []*os.File
	for _, s := range sockets {
		f, err := s.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	dir := mkdir(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "service")
	text := fmt.Sprintf("#!/bin/sh\nLISTEN_PID=$$ LISTEN_FDS=%d LISTEN_FDNAMES=%s exec '%s'\n", len(files), names, exe)
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return launchWith(t, o, exec.Command(script), "", files)
}

func TestSocketsOfSystemd(t *testing.T) {
	for _, workers := range []int{0, 2} {
		t.Run(fmt.Sprint(workers, " workers"), func(t *testing.T) {
			tcp, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer tcp.Close()
			path := filepath.Join(mkdir(t), "http")
			unix, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close()
			o := options(t)
			o.Workers = workers
			// The address is the one that systemd has bound, not this one.
			o.Listen = []cluster.Listen{{Name: "http", Addr: "192.0.2.1:1", ReusePort: true}, {Name: "local", Addr: "192.0.2.1:1"}}
			s := activated(t, o, "http:local.socket", tcp.(*net.TCPListener), unix.(*net.UnixListener))
			s.eventually("all workers are ready", func() bool { return len(s.pids("ready")) == max(1, workers) })
			for _, ln := range []net.Listener{tcp, unix} {
				c, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
				if b, err := io.ReadAll(c); err != nil || !bytes.HasPrefix(b, []byte("HTTP/1.0 200 ")) {
					t.Errorf("%v: %q, %v", ln.Addr(), b, err)
				}
			}
			s.signal(syscall.SIGTERM)
			if code := s.wait(); code != 0 {
				t.Errorf("exit status %d", code)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("the file of systemd's socket: %v", err)
			}
		})
	}
	t.Run("one that nobody names", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		s := activated(t, options(t), "web", ln.(*net.TCPListener))
		if code := s.wait(); code != 1 || !strings.Contains(s.err.String(), `systemd passes a socket "web", which no Options.Listen names`) {
			t.Errorf("exit status %d: %s", code, s.err)
		}
	})
}

// backlogs are how many connections wait in the queues of the sockets that listen on an address, ascending.
func backlogs(t *testing.T, addr string) []int {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ip := a.IP.To4()
	local := fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], a.Port)
	b, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 4 && f[1] == local && f[3] == "0A" {
			var tx, rx int
			fmt.Sscanf(f[4], "%x:%x", &tx, &rx)
			found = append(found, rx)
		}
	}
	slices.Sort(found)
	return found
}

// New connections do not even reach the queue of a slot that has nobody who serves.
func TestNewConnectionsAreKeptOffSlotsThatDoNotServe(t *testing.T) {
	o := options(t)
	o.Workers = 3
	o.Listen[0].ReusePort = true
	s := start(t, o)
	s.behave("never ready")
	pids := s.pids("ready")
	syscall.Kill(pids[0], syscall.SIGKILL)
	syscall.Kill(pids[2], syscall.SIGKILL)
	s.eventually("they are replaced", func() bool { return len(s.pids("starting")) == 2 })
	syscall.Kill(pids[1], syscall.SIGSTOP)
	poll(t, "the last worker stands still", func() bool { return stopped(pids[1]) })
	const n = 60
	for range n {
		c, err := net.DialTimeout("tcp", s.addr, backstop)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	poll(t, "all connections wait", func() bool {
		got := backlogs(t, s.addr)
		return len(got) == 3 && got[0]+got[1]+got[2] >= n-1 // one may have been accepted as the worker was stopped
	})
	if got := backlogs(t, s.addr); got[0] != 0 || got[1] != 0 {
		t.Errorf("queues %v: all should be in the one of the slot that serves", got)
	}
	syscall.Kill(pids[1], syscall.SIGCONT)
}

func TestPacketSocketsOutliveWorkers(t *testing.T) {
	for _, workers := range []int{0, 2} {
		t.Run(fmt.Sprint(workers, " workers"), func(t *testing.T) {
			o := options(t)
			o.Workers = workers
			probe, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			addr := probe.LocalAddr().String()
			probe.Close()
			o.Listen = append(o.Listen, cluster.Listen{Name: "packets", Addr: "udp:" + addr})
			s := start(t, o)
			c, err := net.Dial("udp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ask := func(text string) {
				t.Helper()
				c.SetDeadline(time.Now().Add(backstop))
				io.WriteString(c, text)
				b := make([]byte, 100)
				if n, err := c.Read(b); err != nil || string(b[:n]) != "echo "+text {
					t.Errorf("asked %q, got %q, %v", text, b[:n], err)
				}
			}
			ask("one")
			if workers == 0 {
				return
			}
			// What waits in the queue while nobody reads is served by whoever comes next.
			pids := s.pids("ready")
			for _, pid := range pids {
				syscall.Kill(pid, syscall.SIGSTOP)
				poll(t, "the worker stands still", func() bool { return stopped(pid) })
			}
			io.WriteString(c, "two")
			for _, pid := range pids {
				syscall.Kill(pid, syscall.SIGKILL)
			}
			b := make([]byte, 100)
			c.SetDeadline(time.Now().Add(backstop))
			if n, err := c.Read(b); err != nil || string(b[:n]) != "echo two" {
				t.Errorf("got %q, %v", b[:n], err)
			}
			if err := s.reload(""); err != "" {
				t.Error(err)
			}
			ask("three")
		})
	}
}
