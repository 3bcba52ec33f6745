// Demo runs the storefront with servers of its own: a PostgreSQL primary with two streaming replicas and a Redis, in
// temporary directories, gone when it ends. It is what "make demo" starts, with the storefront's variables and flags, and
// PRODUCTS (100000) for how many products to load. A DATABASE_URL or REDIS_URL that is set is used instead of a server of its
// own, as it is. TRAFFIC=on sends gentle traffic, so that the admin page is alive.
//
// The launcher owns the servers and the storefront's supervisor. Each stands in a process group of its own, because ctrl-C
// reaches a whole group: only the launcher gets it, and it stops the storefront before the servers.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/fairlead/fairlead/examples/storefront/settings"
)

func main() {
	s, products, traffic, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(0)
	case err != nil:
		fmt.Fprintf(os.Stderr, "demo: the configuration is wrong:\n%v\n", err)
		os.Exit(2)
	}
	if err := run(s, products, traffic); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// parse reads the storefront's settings, all but the servers that the demo brings, before anything is started.
func parse(args []string) (settings.Settings, int, bool, error) {
	getenv := func(name string) string {
		value := os.Getenv(name)
		switch name {
		case "DATABASE_URL":
			return cmp.Or(value, "postgres://the-demos-own/")
		case "REDIS_URL":
			return cmp.Or(value, "redis://the-demos-own/")
		}
		return value
	}
	s, err := settings.Parse(args, getenv, os.Stderr)
	products, bad := strconv.Atoi(cmp.Or(os.Getenv("PRODUCTS"), "100000"))
	if bad != nil || products < 1 {
		err = errors.Join(err, fmt.Errorf("PRODUCTS = %q: must be a number above 0", os.Getenv("PRODUCTS")))
	}
	traffic, bad := parseTraffic(os.Getenv("TRAFFIC"))
	return s, products, traffic, errors.Join(err, bad)
}

func run(s settings.Settings, products int, traffic bool) error {
	binary, err := storefront()
	if err != nil {
		return err
	}
	if err := claim(&s); err != nil {
		return err
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	interrupted := make(chan struct{})
	go func() {
		<-signals
		cancel()
		close(interrupted)
	}()

	servers, err := startServers(ctx, products)
	defer servers.close()
	if err != nil {
		if ctx.Err() != nil {
			return nil // ctrl-C while they started
		}
		return err
	}

	cmd := exec.Command(binary, append(os.Args[1:], "-addr", s.Addr, "-admin-addr", s.AdminAddr, "-control", s.Control)...)
	cmd.Env = append(os.Environ(), servers.env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	if ready(ctx, s, ended) {
		fmt.Print(greeting(s))
	}
	sending := make(chan struct{})
	go func() {
		defer close(sending)
		if traffic {
			sendTraffic(ctx, "http://"+reachable(s.Addr), products)
		}
	}()
	defer func() {
		cancel()
		<-sending
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("the storefront ended: %v", cmp.Or(err, errors.New("exit status 0")))
	case <-interrupted:
	}
	fmt.Fprintln(os.Stderr, "\ndemo: stopping; again to stop at once")
	return stop(cmd, ended, signals, s.DrainTimeout+10*time.Second)
}

// stop asks the supervisor to drain and passes further signals on: the second means now.
func stop(cmd *exec.Cmd, ended <-chan error, signals <-chan os.Signal, patience time.Duration) error {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	late := time.After(patience)
	for {
		select {
		case err := <-ended:
			return err
		case <-signals:
			_ = cmd.Process.Signal(syscall.SIGTERM)
		case <-late:
			_ = cmd.Process.Kill()
			return fmt.Errorf("the storefront did not end: %w", <-ended)
		}
	}
}

// storefront is the program beside this one.
func storefront() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), "storefront"+filepath.Ext(self))
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("the storefront must be built into the demo's directory: %w", err)
	}
	return path, nil
}

// claim finds out whether the addresses are free before seconds are spent on servers, and gives port 0 a number.
func claim(s *settings.Settings) error {
	var errs []error
	for _, addr := range []*string{&s.Addr, &s.AdminAddr} {
		ln, err := net.Listen("tcp", *addr)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		defer ln.Close()
		host, _, _ := net.SplitHostPort(*addr)
		*addr = net.JoinHostPort(host, strconv.Itoa(ln.Addr().(*net.TCPAddr).Port))
	}
	if conn, err := net.Dial("unix", s.Control); err == nil {
		conn.Close()
		errs = append(errs, fmt.Errorf("control socket %s: in use", s.Control))
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf(`%w
Another demo may be running. A second one needs addresses of its own:

    ADDR=127.0.0.1:8081 ADMIN_ADDR=127.0.0.1:9092 CONTROL=/tmp/second.sock make demo
`, errors.Join(errs...))
}

// ready waits until the supervisor says so; false if that will not be.
func ready(ctx context.Context, s settings.Settings, ended chan error) bool {
	url := "http://" + reachable(s.AdminAddr) + "/readyz"
	for {
		if resp, err := http.Get(url); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return true
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return false
		case err := <-ended:
			ended <- err
			return false
		}
	}
}

// reachable is an address to dial for one to listen on.
func reachable(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func greeting(s settings.Settings) string {
	url, admin := "http://"+reachable(s.Addr), "http://"+reachable(s.AdminAddr)
	auth := ""
	if s.AdminToken != "" {
		auth = ` -H "Authorization: Bearer $ADMIN_TOKEN"`
	}
	return fmt.Sprintf(`
The storefront is ready.

  shop     %[1]s
  admin    %[2]s    (the page; /readyz?verbose, /metrics, /top)
  control  %[3]s

Things to try; -b and -c keep the cookies:

  curl -i %[1]s/products/42
  curl -s '%[1]s/products?category=ropes&limit=3'
  curl -b jar -c jar -X POST %[1]s/login -d '{"user":"ann"}'
  curl -b jar -c jar -X POST %[1]s/cart/items -d '{"product_id":42,"qty":2}'
  curl -b jar -c jar -X POST %[1]s/orders -H 'Idempotency-Key: first'
  curl -b jar -c jar %[1]s/orders
  curl -b jar -c jar -X PATCH %[1]s/products/42 -d '{"price_cents":995}'
  curl -s%[4]s %[2]s/metrics | grep http_server
  go run ./cluster/clusterctl --control %[3]s ls
  go run ./cluster/clusterctl --control %[3]s reload

Ctrl-C ends it.

`, url, admin, s.Control, auth)
}
