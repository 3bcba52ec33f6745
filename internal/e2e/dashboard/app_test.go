//go:build linux

package dashboard

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/cluster"
	"github.com/fairlead/fairlead/scale"
	"github.com/fairlead/fairlead/scale/breaker"
)

const (
	roleEnv = "DASHBOARD_TEST_SERVICE" // its value is the addresses of the service and of its page
	wait    = time.Minute
)

func TestMain(m *testing.M) {
	if addrs := os.Getenv(roleEnv); addrs != "" {
		public, admin, _ := strings.Cut(addrs, " ")
		cluster.Main(shop, cluster.Options{
			Workers: 2,
			Listen:  []cluster.Listen{{Name: "http", Addr: public}},
			Admin:   cluster.Admin{Addr: admin},
			Logger:  slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
	}
	os.Exit(m.Run())
}

// shop is a service with something for each kind of card, and a component of its own.
func shop(ctx context.Context) error {
	svc, err := scale.New("shop", scale.Options{})
	if err != nil {
		return err
	}
	products, err := cache.New("products", func(_ context.Context, id int) (string, error) { return strconv.Itoa(id), nil }, cache.Options[int, string]{})
	if err != nil {
		return err
	}
	stock, err := breaker.New("stock", breaker.Options{})
	if err != nil {
		return err
	}
	b := &baskets{}
	svc.Use(products, stock, b)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /products/{id}", func(w http.ResponseWriter, r *http.Request) {
		b.open.Add(1)
		id, _ := strconv.Atoi(r.PathValue("id"))
		p, err := products.Get(r.Context(), id)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		io.WriteString(w, p)
	})
	mux.HandleFunc("POST /stock/{state}", func(w http.ResponseWriter, r *http.Request) {
		stock.Force(map[string]breaker.State{"open": breaker.Open, "closed": breaker.Closed}[r.PathValue("state")])
	})
	return svc.Serve(ctx, mux)
}

// baskets is a component of the application's own.
type baskets struct{ open atomic.Int64 }

func (b *baskets) Samples() iter.Seq[scale.Sample] {
	return func(yield func(scale.Sample) bool) {
		yield(scale.Sample{Name: "shop.baskets.opened", Kind: "counter", Value: float64(b.open.Load())})
	}
}

// service is the running shop.
type service struct {
	public, page string
	cmd          *exec.Cmd
}

func startService(t *testing.T) *service {
	t.Helper()
	s := &service{public: freeAddr(t), page: freeAddr(t)}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd = exec.Command(self)
	s.cmd.Env = append(os.Environ(), roleEnv+"="+s.public+" "+s.page)
	log, err := os.Create(filepath.Join(t.TempDir(), "service.log"))
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		s.cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		s.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(wait):
			t.Error("the service did not stop")
			s.cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			if b, err := os.ReadFile(log.Name()); err == nil {
				t.Logf("the service said:\n%s", b)
			}
		}
		log.Close()
	})
	eventually(t, "the service is ready", func() bool {
		resp, err := http.Get("http://" + s.page + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	})
	return s
}

// traffic asks for products until the test ends.
func (s *service) traffic(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			req, _ := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("http://%s/products/%d", s.public, i%50), nil)
			if resp, err := http.DefaultClient.Do(req); err == nil {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			select { // a pace, not a wait
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// setStock forces the breaker of both workers: a connection a try, until each was met.
func (s *service) setStock(t *testing.T, state string, shown func() bool) {
	t.Helper()
	eventually(t, "the breaker is "+state, func() bool {
		for range 8 {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			if resp, err := client.Post("http://"+s.public+"/stock/"+state, "", nil); err == nil {
				resp.Body.Close()
			}
		}
		return shown()
	})
}

// streams opens n viewers, has each read a frame, and returns what closes them.
func (s *service) streams(t *testing.T, n int) (closeAll func()) {
	t.Helper()
	var bodies []io.Closer
	for range n {
		resp, err := http.Get("http://" + s.page + "/stream")
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, resp.Body)
		if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || !strings.HasPrefix(line, "data: {") {
			t.Fatalf("a viewer got %.80q, %v", line, err)
		}
	}
	return func() {
		for _, b := range bodies {
			b.Close()
		}
	}
}

// descriptors is how many files the supervisor has open.
func (s *service) descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(wait); ; time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", wait, what)
		}
	}
}
