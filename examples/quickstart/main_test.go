package main

import (
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// With QUICKSTART set the test binary is the program.
func TestMain(m *testing.M) {
	if os.Getenv("QUICKSTART") != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestQuickstart(t *testing.T) {
	addr, admin := freeAddr(t), freeAddr(t)
	cmd := exec.Command(os.Args[0], "-addr", addr, "-admin", admin)
	cmd.Env = append(os.Environ(), "QUICKSTART=1")
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer cmd.Process.Kill()

	for backstop := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if resp, err := http.Get("http://" + admin + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		select {
		case err := <-ended:
			t.Fatalf("it ended: %v\n%s", err, &output)
		default:
		}
		if time.Now().After(backstop) {
			t.Fatal("it is not ready after a minute")
		}
	}

	jar, _ := cookiejar.New(nil)
	client := &http.Client{Jar: jar, Timeout: time.Minute}
	for _, want := range []struct{ path, body string }{
		{"/square/12", "144 (from origin)\n"},
		{"/square/12", "144 (from memory)\n"},
		{"/square/twelve", "n must be a number\n"},
		{"/visits", "1\n"},
		{"/visits", "2\n"},
	} {
		resp, err := client.Get("http://" + addr + want.path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(body) != want.body {
			t.Errorf("%s: %q, %v; want %q", want.path, body, err, want.body)
		}
		if resp.Header.Get("RateLimit") == "" {
			t.Errorf("%s: no RateLimit", want.path)
		}
	}
	wanted := []string{`fairlead_cache_gets_total{cache="squares",result="memory"} 1`, "fairlead_session_updates", "fairlead_ratelimit_decisions", `http_route="/square/{n}"`}
	// A scrape does not wait long for a worker's newest numbers; the next one has them.
	for backstop := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get("http://" + admin + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		metrics, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		lacks := slices.DeleteFunc(slices.Clone(wanted), func(want string) bool { return strings.Contains(string(metrics), want) })
		if len(lacks) == 0 {
			break
		}
		if time.Now().After(backstop) {
			t.Errorf("/metrics lacks %q after a minute:\n%s", lacks, metrics)
			break
		}
	}

	client.CloseIdleConnections()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("after ctrl-C: %v\n%s", err, &output)
	}
}

// freeAddr is a free address; on Linux, where all of 127/8 is there, one that nobody else is likely to take meanwhile.
func freeAddr(t *testing.T) string {
	t.Helper()
	host := net.IPv4(127, 0, 0, 1)
	if runtime.GOOS == "linux" {
		host = net.IPv4(127, byte(1+rand.N(254)), byte(rand.N(255)), byte(1+rand.N(254)))
	}
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: host})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
