package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

	"github.com/fairlead/fairlead/examples/storefront/catalog"
	"github.com/fairlead/fairlead/internal/testenv"
)

// With STOREFRONT_TEST set the test binary is the storefront: supervisor and workers are copies of it.
func TestMain(m *testing.M) {
	if os.Getenv("STOREFRONT_TEST") != "" {
		main()
	}
	os.Exit(m.Run())
}

const (
	productCount = 3000
	applyDelay   = 500 * time.Millisecond // how far the second replica is behind
	busDelay     = 300 * time.Millisecond // how late invalidations are heard
)

// storefront is a running one, with everything it stands on.
type storefront struct {
	base, admin string
	control     *http.Client // to the control socket
	pg          *testenv.Postgres
	db          string
	proxies     []*testenv.Proxy // in front of the nodes: primary, replica, the replica that is late
	bus         *busProxy        // in front of Redis
	output      *output
	cmd         *exec.Cmd
	ended       chan error
}

// start runs the storefront as its users do, with the environment as its only input.
func start(t *testing.T) *storefront {
	t.Helper()
	ctx := t.Context()
	s := &storefront{output: new(output), ended: make(chan error, 1)}
	var err error
	s.pg, err = testenv.StartPostgres(ctx, testenv.PostgresOptions{Replicas: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.pg.Close() })
	redis, err := testenv.StartRedis(ctx, testenv.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { redis.Close() })
	if s.db, err = s.pg.CreateDatabase(ctx); err != nil {
		t.Fatal(err)
	}
	if err := catalog.Load(ctx, s.pg.Primary.URL(s.db), productCount, nil); err != nil {
		t.Fatal(err)
	}
	var urls []string
	for _, node := range append([]*testenv.Node{s.pg.Primary}, s.pg.Replicas...) {
		p, err := testenv.StartProxy(node.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		s.proxies = append(s.proxies, p)
		urls = append(urls, testenv.PostgresURL(p.Addr(), s.db))
	}
	for _, node := range s.pg.Replicas {
		if err := node.WaitReplayed(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.pg.Replicas[1].SetApplyDelay(ctx, applyDelay); err != nil {
		t.Fatal(err)
	}
	s.bus = startBusProxy(t, redis.Addr())

	addr, adminAddr := freeAddr(t), freeAddr(t)
	control := filepath.Join(t.TempDir(), "control.sock")
	s.base, s.admin = "http://"+addr, "http://"+adminAddr
	s.control = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", control)
		},
		DisableKeepAlives: true,
	}}
	s.cmd = exec.Command(os.Args[0])
	s.cmd.Env = append(os.Environ(), "STOREFRONT_TEST=1", "RATE=off", "WORKERS=2", "IDLE_GRACE=500ms",
		"ADDR="+addr, "ADMIN_ADDR="+adminAddr, "CONTROL="+control, "REDIS_URL=redis://"+s.bus.addr+"/0",
		"DATABASE_URL="+urls[0], "DATABASE_REPLICA_URLS="+urls[1]+","+urls[2])
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.ended <- s.cmd.Wait() }()
	t.Cleanup(func() {
		s.cmd.Process.Kill() // if it is still there; its workers follow
		if t.Failed() {
			t.Logf("the storefront's output:\n%s", s.output)
		}
	})
	eventually(t, "the storefront is ready", func() error {
		select {
		case err := <-s.ended:
			t.Fatalf("the storefront ended: %v", err)
		default:
		}
		resp, err := http.Get(s.admin + "/readyz")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
	return s
}

// client is one of the storefront's clients. Each request is a new connection, and so may meet another worker. It keeps all
// cookies but one, and is used by one goroutine.
type client struct {
	t       *testing.T
	s       *storefront
	cookies map[string]string
	drop    string // the cookie that it does not keep
	headers map[string]string
	once    bool // do not repeat what was answered 503
	repeats int  // of requests that were answered 503, and may have done their work all the same
}

func (s *storefront) client(t *testing.T) *client {
	return &client{t: t, s: s, cookies: map[string]string{}}
}

// copy returns a client that begins with the same cookies.
func (c *client) copy() *client {
	d := *c
	d.cookies = map[string]string{}
	for k, v := range c.cookies {
		d.cookies[k] = v
	}
	return &d
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

// worker is slot/generation/pid.
func (a answer) worker() string { return a.header.Get("Worker") }

func (a answer) decode(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Errorf("%s: %v", a.body, err)
	}
}

var transport = &http.Transport{DisableKeepAlives: true}

// try sends a request and returns the error of a connection that failed.
func (c *client) try(method, path, body string) (answer, error) {
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.s.base+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for name, value := range c.cookies {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	for name, value := range c.headers {
		req.Header.Set(name, value)
	}
	resp, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	for _, cookie := range resp.Cookies() {
		switch {
		case cookie.Name == c.drop:
		case cookie.MaxAge < 0:
			delete(c.cookies, cookie.Name)
		default:
			c.cookies[cookie.Name] = cookie.Value
		}
	}
	return answer{resp.StatusCode, resp.Header, b}, nil
}

// do sends a request that must get an answer of that status. As clients should, it repeats what was answered 503: on a
// machine that is busy with other things Redis may take longer to answer than the parts wait for it.
func (c *client) do(status int, method, path, body string) answer {
	c.t.Helper()
	a, err := c.try(method, path, body)
	for n := 0; err == nil && a.status == http.StatusServiceUnavailable && status != a.status && n < 60 && !c.once; n++ {
		c.t.Logf("%s %s: %s; again", method, path, a.body)
		time.Sleep(100 * time.Millisecond)
		c.repeats++
		a, err = c.try(method, path, body)
	}
	if err != nil {
		c.t.Errorf("%s %s: %v", method, path, err)
		return answer{header: http.Header{}}
	}
	if a.status != status {
		c.t.Errorf("%s %s: %d %s, want %d", method, path, a.status, a.body, status)
	}
	if a.worker() == "" {
		c.t.Errorf("%s %s: no Worker header", method, path)
	}
	if a.status >= 400 && a.header.Get("Content-Type") != "application/problem+json" {
		c.t.Errorf("%s %s: %d as %q, want a problem", method, path, a.status, a.header.Get("Content-Type"))
	}
	return a
}

// login makes a client that is logged in.
func (s *storefront) login(t *testing.T, user string) *client {
	t.Helper()
	c := s.client(t)
	c.do(http.StatusOK, "POST", "/login", fmt.Sprintf(`{"user":%q}`, user))
	return c
}

// queries counts the statements that were completed on some nodes.
func (s *storefront) queries(t *testing.T, like string, nodes ...*testenv.Node) (sum int64) {
	t.Helper()
	for _, node := range nodes {
		n, err := node.QueryCount(t.Context(), s.db, like)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// metric is the sum of a metric's series on /metrics.
func (s *storefront) metric(t *testing.T, name string) (sum float64) {
	t.Helper()
	resp, err := http.Get(s.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if series, value, ok := strings.Cut(lines.Text(), " "); ok && (series == name || strings.HasPrefix(series, name+"{")) {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += v
		}
	}
	return sum
}

// load sends requests from several goroutines, each over a new connection, until stop is called, which returns how many
// were sent and how those went that failed. To be told to come back later is not a failure.
func (s *storefront) load(t *testing.T, clients int) (stop func() (sent int, failed []string)) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var sent int
	var failed []string
	done := make(chan struct{})
	for i := range clients {
		wg.Go(func() {
			c := s.client(t)
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				a, err := c.try("GET", fmt.Sprintf("/products/%d", 1+(i*100+n)%500), "")
				if err == nil && a.status != http.StatusOK && a.status != http.StatusServiceUnavailable {
					err = fmt.Errorf("%d %s", a.status, a.body)
				}
				mu.Lock()
				sent++
				if err != nil {
					failed = append(failed, err.Error())
				}
				mu.Unlock()
			}
		})
	}
	return func() (int, []string) {
		close(done)
		wg.Wait()
		return sent, failed
	}
}

func (s *storefront) controlCall(t *testing.T, method, path string, v any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://control"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.control.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %d %s, %v", method, path, resp.StatusCode, body, err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		t.Fatal(err)
	}
}

// reload does what clusterctl reload does.
func (s *storefront) reload(t *testing.T) {
	t.Helper()
	var op struct {
		ID    string
		Done  bool
		Error string
	}
	s.controlCall(t, "POST", "/v1/reload", &op)
	eventually(t, "the reload is over", func() error {
		s.controlCall(t, "GET", "/v1/operations/"+op.ID, &op)
		if !op.Done {
			return errors.New("not done")
		}
		return nil
	})
	if op.Error != "" {
		t.Fatalf("reload: %s", op.Error)
	}
}

// end stops the storefront as ctrl-C does and looks at how it went.
func (s *storefront) end(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := <-s.ended; err != nil {
		t.Errorf("the storefront ended with %v", err)
	}
	if out := s.output.String(); strings.Contains(out, "DATA RACE") || strings.Contains(out, "panic") {
		t.Errorf("a worker did not run cleanly:\n%s", out)
	}
}

// eventually polls, generously: it is for what must happen, however slow the machine is.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	var err error
	for backstop := time.Now().Add(time.Minute); time.Now().Before(backstop); time.Sleep(10 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("a minute passed before %s: %v", what, err)
}

// freeAddr is a free address of this machine that nobody else is likely to take meanwhile.
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
