//go:build unix

package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead/fairlead/cluster"
	"github.com/fairlead/fairlead/internal/process"
	"github.com/fairlead/fairlead/internal/telemetry"
	"github.com/fairlead/fairlead/scale/drain"
)

// The tests start this test binary again as a service: its supervisor, and through that its workers, come here before
// any test.
func TestMain(m *testing.M) {
	if setup := os.Getenv("CLUSTER_TEST_SERVICE"); setup != "" {
		var p portable
		if err := json.Unmarshal([]byte(setup), &p); err != nil {
			panic(err)
		}
		if os.Getenv("CLUSTER_TEST_NOTIFY") != "" {
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
			defer stop()
			if err := cluster.Run(ctx, service, p.options()); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
		cluster.Main(service, p.options())
	}
	os.Exit(m.Run())
}

// portable is what of the options can travel to another process.
type portable struct {
	Workers                                                    int
	Listen                                                     []cluster.Listen
	Admin, Control                                             string
	ReadyTimeout, MinHealthy, DrainTimeout, IdleGrace, PreStop time.Duration
}

func (p portable) options() cluster.Options {
	return cluster.Options{Workers: p.Workers, Listen: p.Listen, Admin: cluster.Admin{Addr: p.Admin}, Control: p.Control,
		ReadyTimeout: p.ReadyTimeout, MinHealthy: p.MinHealthy, DrainTimeout: p.DrainTimeout, IdleGrace: p.IdleGrace, PreStop: p.PreStop}
}

// service behaves as the file named by CLUSTER_TEST_BEHAVIOR says at its start.
func service(ctx context.Context) error {
	behavior, _ := os.ReadFile(os.Getenv("CLUSTER_TEST_BEHAVIOR"))
	w := cluster.From(ctx)
	switch string(behavior) {
	case "exit":
		return errors.New("this version exits")
	case "panic":
		panic("this version panics")
	case "never ready":
		<-ctx.Done()
		return nil
	case "dies just after":
		w.Ready()
		return errors.New("this version exits once it is ready")
	}
	pw := process.WorkerFrom(ctx)
	pw.AddCheck("flag", func(context.Context) error {
		_, err := os.Stat(os.Getenv("CLUSTER_TEST_BEHAVIOR") + ".sick")
		if err == nil {
			return errors.New("sick")
		}
		return nil
	})
	var served atomic.Uint64
	pw.AddSamples(func() iter.Seq[telemetry.Sample] {
		return telemetry.Samples(struct {
			Served uint64 `metric:"test.served,counter"`
		}{served.Load()})
	})
	if string(behavior) == "blocking source" {
		pw.AddSamples(func() iter.Seq[telemetry.Sample] { select {} })
	}
	fmt.Printf("hello from %d\n", w.Slot())
	fmt.Printf(`{"msg":"hello"}` + "\n")
	var servers []drain.Server
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		served.Add(1)
		rw.Header().Set("Worker", w.InstanceID())
		fmt.Fprintf(rw, "%d %d %d %s", w.Slot(), w.Generation(), os.Getpid(), behavior)
	})
	mux.HandleFunc("/env", func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, os.Environ()) })
	mux.HandleFunc("/crash", func(rw http.ResponseWriter, r *http.Request) {
		for range 3000 {
			go func() { select {} }()
		}
		go panic("this worker crashes")
		<-r.Context().Done()
	})
	if c, err := w.PacketConn("packets"); err == nil {
		go echo(c)
	}
	srv := &http.Server{Handler: mux}
	for _, name := range strings.Split(os.Getenv("CLUSTER_TEST_LISTENERS"), ",") {
		ln, err := w.Listener(name)
		if err != nil {
			return err
		}
		servers = append(servers, drain.HTTP(srv, ln))
	}
	told := make(chan struct{})
	context.AfterFunc(ctx, func() {
		file := fmt.Sprintf("%s.%d", os.Getenv("CLUSTER_TEST_BEHAVIOR"), os.Getpid())
		os.WriteFile(file, []byte(context.Cause(ctx).Error()), 0o600)
		os.Rename(file, file+".cause")
		close(told)
	})
	err := drain.Serve(ctx, drain.Options{}, servers...)
	<-told
	return err
}

// echo answers packets until its socket is closed.
func echo(c net.PacketConn) {
	b := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		c.WriteTo(append([]byte("echo "), b[:n]...), from)
	}
}

const backstop = 60 * time.Second

// instance is a running service.
type instance struct {
	t        *testing.T
	cmd      *exec.Cmd
	dir      string
	addr     string // of the listener "http"
	admin    string
	out, err *lines
	done     chan struct{} // closed when the supervisor has ended
	client   *http.Client
	control  *http.Client
}

type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }
func (l *lines) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// freeAddr is an address that was free a moment ago, on a loopback address of this process so that others do not take it.
func freeAddr(t *testing.T) string {
	t.Helper()
	host := "127.0.0.1"
	if runtime.GOOS == "linux" {
		host = fmt.Sprintf("127.%d.%d.1", 1+os.Getpid()>>8&0x7f, os.Getpid()&0xff)
	}
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func options(t *testing.T) cluster.Options {
	return cluster.Options{
		Workers:    2,
		Listen:     []cluster.Listen{{Name: "http", Addr: freeAddr(t)}},
		Admin:      cluster.Admin{Addr: freeAddr(t)},
		MinHealthy: 50 * time.Millisecond,
		IdleGrace:  time.Second,
	}
}

// launch starts a service without waiting for it.
func launch(t *testing.T, o cluster.Options) *instance {
	t.Helper()
	return launchAs(t, o, "")
}

func launchAs(t *testing.T, o cluster.Options, behavior string) *instance {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return launchProgram(t, o, exe, behavior)
}

func launchProgram(t *testing.T, o cluster.Options, exe, behavior string) *instance {
	t.Helper()
	return launchWith(t, o, exec.Command(exe), behavior, nil)
}

// launchWith starts cmd, which becomes a service, with files as its descriptors 3 and up.
func launchWith(t *testing.T, o cluster.Options, cmd *exec.Cmd, behavior string, files []*os.File) *instance {
	t.Helper()
	dir, err := os.MkdirTemp("", "cl")
	if err != nil {
		t.Fatal(err)
	}
	s := &instance{
		t: t, dir: dir, out: &lines{}, err: &lines{}, done: make(chan struct{}),
		client: &http.Client{Timeout: backstop, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	if o.Control == "" {
		o.Control = filepath.Join(dir, "control")
	}
	s.control = &http.Client{Timeout: backstop, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", o.Control)
		},
	}}
	var names []string
	for _, l := range o.Listen {
		if l.Name != "unused" && !strings.HasPrefix(l.Addr, "udp:") {
			names = append(names, l.Name)
		}
		if l.Name == "http" {
			s.addr = l.Addr
		}
	}
	s.admin = o.Admin.Addr
	setup, err := json.Marshal(portable{o.Workers, o.Listen, o.Admin.Addr, o.Control,
		o.ReadyTimeout, o.MinHealthy, o.DrainTimeout, o.IdleGrace, o.PreStop})
	if err != nil {
		t.Fatal(err)
	}
	s.behave(behavior)
	s.cmd = cmd
	s.cmd.ExtraFiles = files
	// GORACE: else a process that is built with -race sleeps for a second at its end.
	s.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "CLUSTER_TEST_SERVICE="+string(setup), "CLUSTER_TEST_BEHAVIOR="+s.file("behavior"),
		"CLUSTER_TEST_LISTENERS="+strings.Join(names, ","))
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.err
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		s.cmd.Process.Kill() // the workers follow
		<-s.done
		os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("stdout:\n%s\nstderr:\n%s", s.out, s.err)
		}
	})
	return s
}

func start(t *testing.T, o cluster.Options) *instance {
	t.Helper()
	s := launch(t, o)
	s.eventually("all workers are ready", func() bool { return len(s.pids("ready")) == max(1, o.Workers) })
	return s
}

func (s *instance) file(name string) string { return filepath.Join(s.dir, name) }

func (s *instance) behave(as string) {
	s.t.Helper()
	if err := os.WriteFile(s.file("behavior"), []byte(as), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// eventually waits for something of a service that runs.
func (s *instance) eventually(what string, ok func() bool) {
	s.t.Helper()
	poll(s.t, what, func() bool {
		select {
		case <-s.done:
			s.t.Fatalf("the service has ended, before: %s", what)
		default:
		}
		return ok()
	})
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(backstop); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// causes are why the contexts of workers ended, each once.
func (s *instance) causes() []string {
	files, _ := filepath.Glob(s.file("behavior.*.cause"))
	var causes []string
	for _, f := range files {
		b, _ := os.ReadFile(f)
		causes = append(causes, string(b))
	}
	slices.Sort(causes)
	return slices.Compact(causes)
}

// wait waits for the supervisor's end and returns its exit status.
func (s *instance) wait() int {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(backstop):
		s.t.Fatal("the service does not end")
	}
	return s.cmd.ProcessState.ExitCode()
}

func (s *instance) signal(sig syscall.Signal) { s.cmd.Process.Signal(sig) }

type workerRow struct {
	Slot, Generation, PID, Restarts int
	State                           string
	LastExit                        string `json:"last_exit"`
	Connections                     int
}

func (s *instance) workers() []workerRow {
	var res struct{ Workers []workerRow }
	resp, err := s.control.Get("http://control/v1/workers")
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	json.NewDecoder(resp.Body).Decode(&res)
	return res.Workers
}

// pids are the processes in a state, or in all, by the order of their slots.
func (s *instance) pids(state string) []int {
	var pids []int
	for _, w := range s.workers() {
		if w.PID != 0 && (state == "" || w.State == state) {
			pids = append(pids, w.PID)
		}
	}
	return pids
}

// reload asks for a reload over the control socket and waits for its outcome, "" if it went well.
func (s *instance) reload(query string) string {
	s.t.Helper()
	var op struct {
		ID, Error string
		Done      bool
	}
	decode := func(resp *http.Response, err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&op); err != nil {
			s.t.Fatal(err)
		}
	}
	decode(s.control.Post("http://control/v1/reload"+query, "", nil))
	if op.ID == "" {
		return op.Error
	}
	for end := time.Now().Add(backstop); !op.Done; {
		if time.Now().After(end) {
			s.t.Fatal("the reload does not end")
		}
		decode(s.control.Get("http://control/v1/operations/" + op.ID))
	}
	return op.Error
}

func (s *instance) get(url string) (int, string) {
	resp, err := s.client.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// metric is the value of a line of /metrics.
func (s *instance) metric(series string) float64 {
	_, body := s.get("http://" + s.admin + "/metrics")
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			var v float64
			fmt.Sscan(rest, &v)
			return v
		}
	}
	return -1
}

// stopped says whether a process has been halted by SIGSTOP.
func stopped(pid int) bool {
	if runtime.GOOS != "linux" {
		out, _ := exec.Command("ps", "-o", "stat=", "-p", fmt.Sprint(pid)).Output()
		return bytes.HasPrefix(out, []byte("T"))
	}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return strings.Contains(string(b), ") T ")
}

func gone(pid int) bool {
	if runtime.GOOS == "linux" {
		// A zombie of another parent would still answer to kill.
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(b), ") Z ")
	}
	return syscall.Kill(pid, 0) != nil
}
