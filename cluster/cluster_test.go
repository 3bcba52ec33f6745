//go:build unix

package cluster_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead/fairlead/cluster"
)

// load sends requests from clients that never retry until end is closed, half of them over new connections and half over
// kept ones, and reports what failed. Each kept connection asks again well within the IdleGrace.
type load struct {
	answered, failed atomic.Int64
	mu               sync.Mutex
	errs             []error
	end              chan struct{}
	wg               sync.WaitGroup
}

func (l *load) fail(err error) {
	l.failed.Add(1)
	l.mu.Lock()
	l.errs = append(l.errs, err)
	l.mu.Unlock()
}

func startLoad(network, addr string, clients int) *load {
	l := &load{end: make(chan struct{})}
	for i := range clients {
		keep := i%2 == 0
		l.wg.Go(func() {
			var c net.Conn
			var br *bufio.Reader
			var asked time.Time
			defer func() {
				if c != nil {
					c.Close()
				}
			}()
			for n := 0; ; n++ {
				select {
				case <-l.end:
					return
				default:
				}
				if c == nil {
					var err error
					if c, err = net.DialTimeout(network, addr, backstop); err != nil {
						l.fail(fmt.Errorf("dial: %w", err))
						return
					}
					c.SetDeadline(time.Now().Add(5 * backstop))
					br = bufio.NewReader(c)
					asked = time.Now()
				}
				// A client that was not scheduled for so long may find its connection closed, and rightly.
				idle := time.Since(asked)
				_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				var resp *http.Response
				if err == nil {
					resp, err = http.ReadResponse(br, nil)
				}
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
				}
				if err != nil {
					if idle < idleGrace-500*time.Millisecond {
						l.fail(fmt.Errorf("client %d, request %d, idle for %v: %w", i, n, idle, err))
					}
					c.Close()
					c = nil
					continue
				}
				asked = time.Now()
				l.answered.Add(1)
				if resp.Close || !keep {
					c.Close()
					c = nil
				}
			}
		})
	}
	return l
}

func (l *load) stop() {
	close(l.end)
	l.wg.Wait()
}

const idleGrace = 5 * time.Second // far beyond what a client pauses, so that a busy machine fails nobody

func TestReloadsUnderLoadLoseNothing(t *testing.T) {
	for _, c := range []struct {
		name      string
		reusePort bool
		unix      bool
	}{{name: "shared"}, {name: "reuseport", reusePort: true}, {name: "unix", unix: true}} {
		t.Run(c.name, func(t *testing.T) {
			o := options(t)
			o.IdleGrace = idleGrace
			o.Listen[0].ReusePort = c.reusePort
			network, addr := "tcp", o.Listen[0].Addr
			if c.unix {
				dir, err := os.MkdirTemp("", "cl")
				if err != nil {
					t.Fatal(err)
				}
				defer os.RemoveAll(dir)
				network, addr = "unix", filepath.Join(dir, "http")
				o.Listen[0].Addr = "unix:" + addr
			}
			s := start(t, o)
			l := startLoad(network, addr, 8)
			for reload := range 5 {
				want := l.answered.Load() + 400
				s.eventually("requests go on", func() bool { return l.answered.Load() > want || l.failed.Load() > 0 })
				if err := s.reload(""); err != "" {
					t.Errorf("reload %d: %s", reload, err)
				}
			}
			want := l.answered.Load() + 400
			s.eventually("requests go on", func() bool { return l.answered.Load() > want || l.failed.Load() > 0 })
			l.stop()
			t.Logf("%d answered, %d failed", l.answered.Load(), l.failed.Load())
			for _, err := range l.errs {
				t.Error(err)
			}
			for _, w := range s.workers() {
				if w.State == "ready" && w.Generation != 6 {
					t.Errorf("slot %d has generation %d, want 6", w.Slot, w.Generation)
				}
			}
			s.signal(syscall.SIGTERM)
			if code := s.wait(); code != 0 {
				t.Errorf("exit status %d", code)
			}
			if c.unix {
				if _, err := os.Lstat(addr); !os.IsNotExist(err) {
					t.Errorf("the socket's file is left: %v", err)
				}
			}
		})
	}
}

func TestBothWorkersServeTheirReusePortSockets(t *testing.T) {
	o := options(t)
	o.Listen[0].ReusePort = true
	s := start(t, o)
	seen := make(map[string]bool)
	s.eventually("both slots have answered", func() bool {
		_, body := s.get("http://" + s.addr)
		seen[strings.Fields(body + " ?")[0]] = true
		return seen["0"] && seen["1"]
	})
}

func TestAKilledWorkerIsReplacedAndTheTotalsKeepItsCounts(t *testing.T) {
	s := start(t, options(t))
	const requests = 50
	for range requests {
		if code, body := s.get("http://" + s.addr); code != 200 {
			t.Fatal(code, body)
		}
	}
	s.eventually("all requests are counted", func() bool { return s.metric("test_served_total") == requests })
	before := s.pids("ready")
	// Totals are read all the time from here to the end.
	end, lowest := make(chan struct{}), make(chan float64)
	go func() {
		low := float64(requests)
		for {
			select {
			case <-end:
				lowest <- low
				return
			default:
				low = min(low, s.metric("test_served_total"))
			}
		}
	}()
	if err := syscall.Kill(before[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.eventually("the worker is replaced", func() bool {
		now := s.pids("ready")
		return len(now) == 2 && now[0] != before[0] && now[1] == before[1]
	})
	if err := s.reload(""); err != "" {
		t.Error(err)
	}
	s.eventually("the old ones have ended", func() bool { return len(s.workers()) == 2 })
	close(end)
	if low := <-lowest; low != requests {
		t.Errorf("the total fell to %v", low)
	}
	s.eventually("all requests are still counted", func() bool { return s.metric("test_served_total") == requests })
	if got := s.metric("fairlead_cluster_restarts_total"); got != 1 {
		t.Errorf("restarts %v, want 1", got)
	}
	if w := s.workers()[0]; w.Restarts != 1 || w.Generation != 3 {
		t.Errorf("got %+v", w)
	}
}

func TestAKillFailsOnlyWhatTheWorkerHadAccepted(t *testing.T) {
	for _, reusePort := range []bool{false, true} {
		t.Run(fmt.Sprint("reuseport ", reusePort), func(t *testing.T) { testKill(t, reusePort) })
	}
}

func testKill(t *testing.T, reusePort bool) {
	o := options(t)
	o.Listen[0].ReusePort = reusePort
	s := start(t, o)
	s.behave("never ready") // so that nobody but the other worker can answer
	pids := s.pids("ready")
	for _, pid := range pids {
		syscall.Kill(pid, syscall.SIGSTOP)
		poll(t, "the worker stands still", func() bool { return stopped(pid) })
	}
	// Nobody accepts: these wait in the socket's queue.
	var conns []net.Conn
	for range 100 {
		c, err := net.DialTimeout("tcp", s.addr, backstop)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(backstop))
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		conns = append(conns, c)
	}
	syscall.Kill(pids[0], syscall.SIGKILL)
	syscall.Kill(pids[1], syscall.SIGCONT)
	for i, c := range conns {
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		if resp.StatusCode != 200 {
			t.Errorf("connection %d: %s", i, resp.Status)
		}
	}
}

func TestABadVersionKeepsTheOldWorkers(t *testing.T) {
	for _, behavior := range []string{"exit", "panic", "never ready", "dies just after"} {
		t.Run(behavior, func(t *testing.T) {
			t.Parallel() // one of them waits for long
			o := options(t)
			o.MinHealthy = 300 * time.Millisecond
			if behavior == "dies just after" {
				o.MinHealthy = 10 * time.Second // its death is to be noticed before
			}
			var s *instance
			if behavior == "never ready" {
				o.ReadyTimeout = 5 * time.Second
				s = startSlowly(t, o)
			} else {
				s = start(t, o)
			}
			before := s.pids("ready")
			s.behave(behavior)
			if err := s.reload(""); err == "" {
				t.Error("the reload reports success")
			}
			s.behave("")
			if code, body := s.get("http://" + s.addr); code != 200 {
				t.Errorf("%d %s", code, body)
			}
			s.eventually("the new one has gone", func() bool { return len(s.pids("")) == 2 })
			if now := s.pids("ready"); !slices.Equal(now, before) {
				t.Errorf("workers %v, were %v", now, before)
			}
			if o.ReadyTimeout > 0 || o.MinHealthy > time.Second {
				return // a good version might not make it either, or takes long
			}
			if err := s.reload(""); err != "" {
				t.Errorf("and a good version: %s", err)
			}
		})
	}
}

// startSlowly starts a service whose ReadyTimeout is so short that a very busy machine may need several attempts.
func startSlowly(t *testing.T, o cluster.Options) *instance {
	t.Helper()
	for range 10 {
		s := launch(t, o)
		ended := func() bool {
			select {
			case <-s.done:
				return true
			default:
				return false
			}
		}
		poll(t, "ready, or ended", func() bool { return ended() || len(s.pids("ready")) == o.Workers })
		if !ended() {
			return s
		}
	}
	t.Fatal("does not start")
	return nil
}

func TestAServiceThatCannotBootEnds(t *testing.T) {
	for _, behavior := range []string{"exit", "never ready"} {
		t.Run(behavior, func(t *testing.T) {
			o := options(t)
			o.ReadyTimeout = time.Second
			s := launchAs(t, o, behavior)
			if code := s.wait(); code != 1 {
				t.Errorf("exit status %d, want 1", code)
			}
			if !strings.Contains(s.err.String(), "before any was ready") {
				t.Errorf("standard error: %s", s.err)
			}
		})
	}
}

func TestTheSupervisorsDeathEndsTheWorkers(t *testing.T) {
	s := start(t, options(t))
	pids := s.pids("ready")
	s.signal(syscall.SIGKILL)
	s.wait()
	poll(t, "the workers have ended", func() bool { return !slices.ContainsFunc(pids, func(p int) bool { return !gone(p) }) })
	if got := s.causes(); !slices.Equal(got, []string{cluster.ErrOrphaned.Error()}) {
		t.Errorf("their contexts ended for %q", got)
	}
	ln, err := net.Listen("tcp", s.addr)
	if err != nil {
		t.Fatalf("the port is not free: %v", err)
	}
	ln.Close()
}

func TestASecondSupervisorIsRefused(t *testing.T) {
	for _, reusePort := range []bool{false, true} {
		t.Run(fmt.Sprint("reuseport ", reusePort), func(t *testing.T) {
			o := options(t)
			o.Listen[0].ReusePort = reusePort
			start(t, o)
			second := o
			second.Admin.Addr = freeAddr(t)
			s := launch(t, second)
			if code := s.wait(); code != 1 {
				t.Errorf("exit status %d, want 1", code)
			}
			if want := o.Listen[0].Addr + " is in use: is another instance of this service running?"; !strings.Contains(s.err.String(), want) {
				t.Errorf("standard error: %s", s.err)
			}
		})
	}
}

func TestASecondControlSocketIsRefusedAndAStaleOneReplaced(t *testing.T) {
	o := options(t)
	o.Control = filepath.Join(mkdir(t), "control")
	first := start(t, o)
	second := options(t)
	second.Control = o.Control
	s := launch(t, second)
	if code := s.wait(); code != 1 || !strings.Contains(s.err.String(), "is in use") {
		t.Errorf("exit status %d, standard error: %s", code, s.err)
	}
	first.signal(syscall.SIGKILL) // leaves the file
	first.wait()
	if _, err := os.Stat(o.Control); err != nil {
		t.Fatal(err)
	}
	start(t, second)
	if info, err := os.Stat(o.Control); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("control socket: %v, %v", info, err)
	}
}

func mkdir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "cl") // t.TempDir is too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestSignals(t *testing.T) {
	s := start(t, options(t))
	before := s.pids("ready")
	s.signal(syscall.SIGHUP)
	s.eventually("reloaded", func() bool {
		now := s.pids("ready")
		return len(now) == 2 && now[0] != before[0] && now[1] != before[1]
	})
	// What Ctrl-C and a hang-up send to everybody in the terminal does nothing to a worker; TERM has it replaced.
	s.eventually("only the new ones are left", func() bool { return len(s.pids("")) == 2 })
	pids := s.pids("ready")
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP, syscall.SIGTERM} {
		syscall.Kill(pids[1], sig)
	}
	s.eventually("the worker is replaced", func() bool {
		now := s.pids("")
		return len(now) == 2 && now[0] == pids[0] && now[1] != pids[1]
	})
	if got := s.workers()[1].Restarts; got != 0 {
		t.Errorf("a replacement counts as %d restarts", got)
	}
	if pgid, err := syscall.Getpgid(pids[0]); err != nil || pgid != pids[0] {
		t.Errorf("process group of worker %d: %d, %v", pids[0], pgid, err)
	}
	s.signal(syscall.SIGINT)
	if code := s.wait(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if got := s.causes(); !slices.Equal(got, []string{cluster.ErrDraining.Error()}) {
		t.Errorf("the workers' contexts ended for %q", got)
	}
}

func TestAStopServesWhatIsUnderWayAndASecondOneDoesNotWait(t *testing.T) {
	for _, reusePort := range []bool{false, true} {
		t.Run(fmt.Sprint("reuseport ", reusePort), func(t *testing.T) { testStop(t, reusePort) })
	}
}

// silent opens a connection, which is accepted and then silent for longer than the drain waits.
func (s *instance) silent() net.Conn {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	s.eventually("accepted", func() bool { return s.metric("fairlead_drain_connections") == 1 })
	return c
}

// notReady waits until the service says that it stops.
func (s *instance) notReady() {
	s.t.Helper()
	s.eventually("not ready", func() bool { code, _ := s.get("http://" + s.admin + "/readyz"); return code == 503 })
}

// lastRequest is answered over a silent connection while the service drains, which then ends well.
func (s *instance) lastRequest(c net.Conn) {
	s.t.Helper()
	c.SetDeadline(time.Now().Add(backstop))
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != 200 || !resp.Close {
		s.t.Errorf("%v, %v", resp, err)
	}
	if code := s.wait(); code != 0 {
		s.t.Errorf("exit status %d", code)
	}
}

func (s *instance) refuses(addr string) {
	s.t.Helper()
	s.eventually("new connections to "+addr+" are refused", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
}

func testStop(t *testing.T, reusePort bool) {
	o := options(t)
	o.IdleGrace, o.DrainTimeout = 10*backstop, 10*backstop
	o.Listen = append(o.Listen, cluster.Listen{Name: "unused", Addr: freeAddr(t)})
	for i := range o.Listen {
		o.Listen[i].ReusePort = reusePort
	}
	s := start(t, o)
	c := s.silent()
	s.signal(syscall.SIGTERM)
	s.notReady()
	if code, _ := s.get("http://" + s.admin + "/livez"); code != 200 {
		t.Errorf("/livez during the drain: %d", code)
	}
	for _, l := range o.Listen {
		s.refuses(l.Addr)
	}
	s.lastRequest(c)

	s = start(t, o)
	s.silent()
	s.signal(syscall.SIGTERM)
	s.notReady()
	s.signal(syscall.SIGTERM)
	if code := s.wait(); code != 1 {
		t.Errorf("exit status %d", code)
	}
}

func TestOnlyASecondSignalMeansAtOnce(t *testing.T) {
	for _, workers := range []int{0, 2} {
		t.Run(fmt.Sprint(workers, " workers, a context that ends at the signal"), func(t *testing.T) {
			t.Setenv("CLUSTER_TEST_NOTIFY", "1")
			o := options(t)
			o.Workers, o.IdleGrace, o.DrainTimeout = workers, 10*backstop, 10*backstop
			s := start(t, o)
			if workers > 0 {
				// Nor does the context that main made drain a worker that is told to go: its replacement comes first.
				before := s.pids("ready")
				s.behave("never ready")
				syscall.Kill(before[1], syscall.SIGTERM)
				s.eventually("a replacement starts", func() bool { return len(s.pids("starting")) == 1 })
				if now := s.pids("ready"); !slices.Equal(now, before) || len(s.causes()) > 0 {
					t.Errorf("workers %v, were %v; contexts ended for %q", now, before, s.causes())
				}
			}
			c := s.silent()
			s.signal(syscall.SIGTERM)
			s.notReady()
			s.refuses(s.addr)
			s.lastRequest(c)
		})
		t.Run(fmt.Sprint(workers, " workers, a stop by the control socket before"), func(t *testing.T) {
			o := options(t)
			o.Workers, o.IdleGrace, o.DrainTimeout = workers, 10*backstop, 10*backstop
			s := start(t, o)
			c := s.silent()
			resp, err := s.control.Post("http://control/v1/stop", "", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			s.notReady()
			s.signal(syscall.SIGTERM)
			s.refuses(s.addr)
			s.eventually("the signal is noticed", func() bool { return strings.Contains(s.err.String(), "signal=terminated") })
			s.lastRequest(c)
		})
	}
}

func TestASourceThatBlocksHoldsUpNeitherReadinessNorADrain(t *testing.T) {
	s := launchAs(t, options(t), "blocking source")
	s.eventually("ready", func() bool { return len(s.pids("ready")) == 2 })
	s.signal(syscall.SIGTERM)
	if code := s.wait(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

func TestProbes(t *testing.T) {
	for _, workers := range []int{0, 2} {
		t.Run(fmt.Sprint(workers, " workers"), func(t *testing.T) {
			o := options(t)
			o.Workers = workers
			s := start(t, o)
			for _, path := range []string{"/livez", "/startupz", "/readyz"} {
				s.eventually(path+" is 200", func() bool { code, _ := s.get("http://" + s.admin + path); return code == 200 })
			}
			verbose := func(want string) {
				t.Helper()
				s.eventually("/readyz?verbose says "+want, func() bool {
					_, body := s.get("http://" + s.admin + "/readyz?verbose")
					return strings.Contains(body, want)
				})
			}
			verbose("[+] slot 0 flag ok")
			if err := os.WriteFile(s.file("behavior.sick"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			s.eventually("/readyz is 503", func() bool { code, _ := s.get("http://" + s.admin + "/readyz"); return code == 503 })
			verbose("[-] slot 0 flag: sick")
			if code, _ := s.get("http://" + s.admin + "/livez"); code != 200 {
				t.Errorf("/livez: %d", code)
			}
			if code, body := s.get("http://" + s.admin + "/api/snapshot"); code != 200 || !strings.Contains(body, `"instance_id"`) {
				t.Errorf("/api/snapshot: %d %s", code, body)
			}
		})
	}
}

func TestInOneProcess(t *testing.T) {
	o := options(t)
	o.Workers = 0
	s := start(t, o)
	if code, body := s.get("http://" + s.addr); code != 200 || !strings.HasPrefix(body, fmt.Sprintf("0 1 %d", s.cmd.Process.Pid)) {
		t.Errorf("%d %s", code, body)
	}
	if got := s.metric("test_served_total"); got != 1 {
		t.Errorf("test_served_total %v", got)
	}
	if err := s.reload(""); !strings.Contains(err, "unsupported") {
		t.Errorf("reload: %q", err)
	}
	resp, err := s.control.Post("http://control/v1/stop", "", nil)
	if err != nil || resp.StatusCode != 202 {
		t.Error(resp, err)
	}
	if code := s.wait(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

func TestOutputIsTaggedWithItsSlot(t *testing.T) {
	s := start(t, options(t))
	for _, want := range []string{"[0] hello from 0\n", "[1] hello from 1\n", `{"slot":0,"msg":"hello"}` + "\n", `{"slot":1,"msg":"hello"}` + "\n"} {
		s.eventually("output "+want, func() bool { return strings.Contains(s.out.String(), want) })
	}
}

func TestAReplacedExecutableIsWhatAReloadRunsAndACrashDoesNot(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Log("without /proc a restart runs what is at the path")
		return
	}
	o := options(t)
	bin := filepath.Join(mkdir(t), "service")
	copyFile(t, bin)
	s := launchProgram(t, o, bin, "")
	s.eventually("ready", func() bool { return len(s.pids("ready")) == 2 })
	// A deploy by rename whose new file is no program at all.
	if err := os.WriteFile(bin+".new", []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(bin+".new", bin); err != nil {
		t.Fatal(err)
	}
	before := s.pids("ready")
	syscall.Kill(before[0], syscall.SIGKILL)
	s.eventually("the crashed one is back, of the old program", func() bool {
		now := s.pids("ready")
		return len(now) == 2 && now[0] != before[0]
	})
	if err := s.reload(""); !strings.Contains(err, "exec format error") {
		t.Errorf("reload: %q", err)
	}
	copyFile(t, bin+".new")
	os.Rename(bin+".new", bin)
	if err := s.reload(""); err != "" {
		t.Errorf("reload of a good one: %q", err)
	}
}

func copyFile(t *testing.T, to string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestWrongOptionsAreAllReportedAndExitWith2(t *testing.T) {
	s := launch(t, cluster.Options{
		Listen:       []cluster.Listen{{Name: "a", Addr: "127.0.0.1:0"}, {Name: "a", Addr: "nonsense"}},
		Admin:        cluster.Admin{Addr: ":9090"},
		DrainTimeout: -time.Second,
	})
	if code := s.wait(); code != 2 {
		t.Errorf("exit status %d", code)
	}
	want := `cluster: Options.Listen[1].Name = "a": must be unique and not empty
cluster: Options.Listen[1].Addr = "nonsense": must be host:port, udp:host:port or unix:/path
cluster: Options.Admin.Addr = ":9090": must be a loopback address, or Admin.Auth be set
cluster: Options.DrainTimeout = -1s: must be >= 0 (0 means 20s)
`
	if s.err.String() != want {
		t.Errorf("got\n%swant\n%s", s.err, want)
	}
}
