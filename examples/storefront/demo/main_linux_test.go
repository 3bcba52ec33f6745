package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var binDir string // of the demo and the storefront

func TestMain(m *testing.M) {
	var err error
	if binDir, err = os.MkdirTemp("", "storefront-demo-test"); err == nil {
		args := []string{"build", "-buildvcs=false", "-o", binDir}
		if raceEnabled {
			args = append(args, "-race") // the packages are built already
		}
		build := exec.Command("go", append(args, "..", ".")...)
		build.Stderr = os.Stderr
		err = build.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(binDir)
	os.Exit(status)
}

// demo is a running one. Its temporary files are all below tmp.
type demo struct {
	cmd         *exec.Cmd
	tmp         string
	base, admin string
	control     string
	output      *output
	ended       chan error
}

func startDemo(t *testing.T, env ...string) *demo {
	t.Helper()
	d := &demo{tmp: t.TempDir(), output: new(output), ended: make(chan error, 1)}
	addr, admin := freeAddr(t), freeAddr(t)
	d.base, d.admin = "http://"+addr, "http://"+admin
	d.control = filepath.Join(d.tmp, "control.sock")
	d.cmd = exec.Command(filepath.Join(binDir, "demo"))
	d.cmd.Env = append(os.Environ(), "ADDR="+addr, "ADMIN_ADDR="+admin, "CONTROL="+d.control, "TMPDIR="+d.tmp, "XDG_RUNTIME_DIR=",
		"DATABASE_URL=", "DATABASE_REPLICA_URLS=", "REDIS_URL=", "PRODUCTS=200", "WORKERS=2", "IDLE_GRACE=100ms")
	d.cmd.Env = append(d.cmd.Env, env...)
	d.cmd.Stdout, d.cmd.Stderr = d.output, d.output
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // like a shell: ctrl-C reaches this group
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.ended <- d.cmd.Wait() }()
	t.Cleanup(func() {
		d.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("the demo's output:\n%s", d.output)
		}
	})
	return d
}

func (d *demo) awaitReady(t *testing.T) {
	t.Helper()
	eventually(t, "the demo says that it is ready", func() error {
		select {
		case err := <-d.ended:
			t.Fatalf("the demo ended: %v", err)
		default:
		}
		if !strings.Contains(d.output.String(), "Ctrl-C ends it.") {
			return errors.New("it does not")
		}
		return nil
	})
}

// interrupt is ctrl-C in a terminal: the signal goes to the whole group.
func (d *demo) interrupt(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(-d.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
}

// process is one of the demo's; its start tells it from a later one of the same id.
type process struct{ pid, started, cmdline string }

// processes returns the launcher and everything below it: the watchdog, the servers, the supervisor and its workers.
func (d *demo) processes(t *testing.T) []process {
	t.Helper()
	parents := map[string]string{}
	found := map[string]process{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		pid := filepath.Base(dir)
		if p, parent, ok := lookAt(pid); ok {
			found[pid], parents[pid] = p, parent
		}
	}
	var list []process
	for pid, p := range found {
		for up := pid; up != ""; up = parents[up] {
			if up == strconv.Itoa(d.cmd.Process.Pid) {
				list = append(list, p)
				break
			}
		}
	}
	return list
}

func lookAt(pid string) (p process, parent string, ok bool) {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return process{}, "", false
	}
	cmdline, _ := os.ReadFile("/proc/" + pid + "/cmdline")
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from field 3, the state, on
	return process{pid, fields[19], string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}))}, fields[1], true
}

// nothingLeft looks for what a demo that has ended may have left: its processes, their directories, its sockets.
func (d *demo) nothingLeft(t *testing.T, processes []process) {
	t.Helper()
	eventually(t, "all processes are gone", func() error {
		for _, p := range processes {
			if now, _, ok := lookAt(p.pid); ok && now.started == p.started {
				return fmt.Errorf("left: %+v", now)
			}
		}
		return nil
	})
	for _, p := range processes {
		if _, dir, ok := strings.Cut(p.cmdline, " -D "); ok { // of PostgreSQL; its parent is the directory of all servers
			dir = filepath.Dir(strings.Fields(dir)[0])
			eventually(t, "the servers' directory is gone", func() error {
				if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%s: %v", dir, err)
				}
				return nil
			})
		}
	}
	eventually(t, "all files are gone", func() error {
		return filepath.WalkDir(d.tmp, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && path != d.tmp {
				err = errors.New(path)
			}
			return err
		})
	})
	for _, base := range []string{d.base, d.admin} {
		if conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://")); err == nil {
			conn.Close()
			t.Errorf("%s is still open", base)
		}
	}
}

func TestDemo(t *testing.T) {
	first := startDemo(t)
	first.awaitReady(t)
	firsts := first.processes(t)
	if len(firsts) < 9 { // the search works: launcher, watchdog, supervisor, 2 workers, at least 3 of PostgreSQL, Redis
		t.Fatalf("found only %+v", firsts)
	}
	for _, want := range []string{"200 of 200 (100 %)", first.base, first.admin, first.control, "curl -b jar -c jar -X POST " + first.base + "/login"} {
		if !strings.Contains(first.output.String(), want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	get(t, first.base+"/products/200", http.StatusOK)
	get(t, first.base+"/products/201", http.StatusNotFound)
	get(t, first.admin+"/readyz", http.StatusOK)

	// The same addresses again: a clear message, and no server is started.
	again := startDemo(t, "ADDR="+strings.TrimPrefix(first.base, "http://"), "CONTROL="+first.control)
	if exit, ok := errors.AsType[*exec.ExitError](<-again.ended); !ok || exit.ExitCode() != 1 {
		t.Errorf("a demo on a taken address: %v, want exit status 1", exit)
	}
	for _, want := range []string{"address already in use", first.control + ": in use", "ADDR=127.0.0.1:8081 ADMIN_ADDR="} {
		if !strings.Contains(again.output.String(), want) {
			t.Errorf("the message lacks %q: %s", want, again.output)
		}
	}
	if strings.Contains(again.output.String(), "PostgreSQL") {
		t.Error("it started servers first")
	}

	// A second one side by side.
	second := startDemo(t)
	second.awaitReady(t)
	get(t, second.base+"/products/1", http.StatusOK)
	seconds := second.processes(t)
	second.interrupt(t)
	if err := <-second.ended; err != nil {
		t.Errorf("after ctrl-C: %v", err)
	}
	second.nothingLeft(t, seconds)
	get(t, first.base+"/products/1", http.StatusOK)

	// Ctrl-C with a request in flight: it is answered, then everything goes.
	conn, err := net.Dial("tcp", strings.TrimPrefix(first.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := `{"stock":7}`
	fmt.Fprintf(conn, "PATCH /products/1 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:5])
	eventually(t, "the request is in flight", func() error {
		if got := metric(t, first.admin, "http_server_active_requests"); got < 1 {
			return fmt.Errorf("%v are", got)
		}
		return nil
	})
	first.interrupt(t)
	eventually(t, "the drain has begun", func() error {
		if c, err := net.Dial("tcp", strings.TrimPrefix(first.base, "http://")); err == nil {
			c.Close()
			return errors.New("it accepts")
		}
		return nil
	})
	io.WriteString(conn, body[5:])
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
		t.Errorf("the request in flight: %q, %v", answer, err)
	}
	if err := <-first.ended; err != nil {
		t.Errorf("after ctrl-C: %v", err)
	}
	first.nothingLeft(t, firsts)
}

// Killed, the launcher cannot clean up: the supervisor and the servers notice.
func TestDemoKilled(t *testing.T) {
	d := startDemo(t)
	d.awaitReady(t)
	processes := d.processes(t)
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-d.ended
	d.nothingLeft(t, processes)
}

func TestDemoInterruptedEarly(t *testing.T) {
	d := startDemo(t, "PRODUCTS=50000000") // loads for minutes
	eventually(t, "it loads", func() error {
		if !strings.Contains(d.output.String(), "loading products") {
			return errors.New("not yet")
		}
		return nil
	})
	processes := d.processes(t)
	d.interrupt(t)
	if err := <-d.ended; err != nil {
		t.Errorf("after ctrl-C: %v", err)
	}
	d.nothingLeft(t, processes)
}

func TestBadValues(t *testing.T) {
	d := startDemo(t, "WORKERS=lots", "RATE=fast", "DRAIN_TIMEOUT=0", "PRODUCTS=none")
	if exit, ok := errors.AsType[*exec.ExitError](<-d.ended); !ok || exit.ExitCode() != 2 {
		t.Errorf("%v, want exit status 2", exit)
	}
	for _, want := range []string{"WORKERS = ", "RATE = ", "DRAIN_TIMEOUT = ", "PRODUCTS = "} {
		if !strings.Contains(d.output.String(), "\n"+want) {
			t.Errorf("the message lacks %s: %s", want, d.output)
		}
	}
	d.nothingLeft(t, nil)
}

func get(t *testing.T, url string, status int) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != status {
		t.Errorf("GET %s: %s, want %d", url, resp.Status, status)
	}
}

func metric(t *testing.T, admin, name string) (sum float64) {
	t.Helper()
	resp, err := http.Get(admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, name+"{") {
			v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += v
		}
	}
	return sum
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	var err error
	for backstop := time.Now().Add(2 * time.Minute); time.Now().Before(backstop); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("two minutes passed before %s: %v", what, err)
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ip := net.IPv4(127, byte(1+rand.N(254)), byte(rand.N(255)), byte(1+rand.N(254)))
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: ip})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
