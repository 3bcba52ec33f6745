// Readyourwrites shows what a token is good for: one process writes, another one reads, and the replica that it reads from is
// half a second late. It starts a PostgreSQL primary and the replica by itself (scripts/setup servers installs what that needs,
// on Linux) and takes a few seconds:
//
//	go run ./examples/readyourwrites
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/causal"
)

const (
	late   = 500 * time.Millisecond
	rounds = 30
	prices = "select cents, pg_is_in_recovery() from prices where id = 1"

	envURLs = "READYOURWRITES_URLS" // of the servers: set, the program is the reader
)

// tokens travel sealed, since clients could change them; every process has the same keys.
var tokens = causal.Options{Keys: [][]byte{[]byte("sixteen bytes or more, at random")}}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if urls := os.Getenv(envURLs); urls != "" {
		err = reader(ctx, strings.Fields(urls))
	} else {
		err = writer(ctx, os.Stdout)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// price is what the reader answers.
type price struct {
	Cents   int
	Replica bool // it was read there
}

// reader is the other process, a service that reads. The middleware takes the token from the request's header; nothing else
// has to be done for it.
func reader(ctx context.Context, urls []string) error {
	db, err := open(ctx, urls)
	if err != nil {
		return err
	}
	defer db.Close()
	carry, err := causal.Middleware(tokens)
	if err != nil {
		return err
	}
	handler := carry(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var p price
		if err := db.ReadOnly().QueryRow(r.Context(), prices).Scan(&p.Cents, &p.Replica); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		json.NewEncoder(w).Encode(p)
	}))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	go func() { // the writer's end is this process's too
		io.Copy(io.Discard, os.Stdin)
		ln.Close()
	}()
	if err := http.Serve(ln, handler); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func open(ctx context.Context, urls []string) (*pool.Pool, error) {
	quiet := slog.New(slog.DiscardHandler) // the terminal is for the result
	return pool.New(ctx, urls[0], pool.Options{Replicas: urls[1:], Logger: quiet})
}

// writer starts everything and says what it sees.
func writer(ctx context.Context, out io.Writer) error {
	fmt.Fprintln(out, "starting a primary and a replica")
	pg, err := testenv.StartPostgres(ctx, testenv.PostgresOptions{Replicas: 1})
	if err != nil {
		return err
	}
	defer pg.Close()
	urls := []string{pg.Primary.URL("postgres"), pg.Replicas[0].URL("postgres")}
	db, err := open(ctx, urls)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.Exec(ctx, "create table prices (id int primary key, cents int)"); err != nil {
		return err
	}
	if _, err := db.Exec(ctx, "insert into prices values (1, 0)"); err != nil {
		return err
	}
	if err := pg.Replicas[0].WaitReplayed(ctx); err != nil {
		return err
	}
	if err := pg.Replicas[0].SetApplyDelay(ctx, late); err != nil {
		return err
	}
	other, err := startReader(ctx, urls)
	if err != nil {
		return err
	}
	defer other.stop()
	fmt.Fprintf(out, "process %d writes, process %d reads, the replica is %v late\n\n", os.Getpid(), other.pid, late)

	// Each time: change the price here, then ask the other process for it.
	cents := 0
	show := func(what string, wait time.Duration, times int, withToken bool) error {
		fmt.Fprintf(out, "%-52s ", what)
		old, replica, took := 0, 0, time.Duration(0)
		for range times {
			cents++
			scoped, _ := causal.Begin(ctx)
			if _, err := db.Exec(scoped, "update prices set cents = $1 where id = 1", cents); err != nil {
				return err
			}
			token := ""
			if withToken {
				if token, err = causal.Token(scoped); err != nil {
					return err
				}
			}
			if err := pause(ctx, wait); err != nil {
				return err
			}
			asked := time.Now()
			p, err := other.ask(ctx, token)
			if err != nil {
				return err
			}
			took += time.Since(asked)
			mark := "."
			if p.Replica {
				replica++
			}
			if p.Cents < cents {
				old++
				mark = "x"
			}
			fmt.Fprint(out, mark)
		}
		fmt.Fprintf(out, "%*s %2d of %d old, %2d by the replica, %.1f ms each\n", rounds-times, "", old, times, replica,
			float64(took.Microseconds())/1000/float64(times))
		return nil
	}
	if err := show("at once, from the replica as it is", 0, rounds, false); err != nil {
		return err
	}
	if err := show("at once, with the write's token", 0, rounds, true); err != nil {
		return err
	}
	if err := show("later, with the token: the replica has it by then", late+100*time.Millisecond, 6, true); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nx is a price from before the change. The primary serves only what the replica does not have yet.\n")
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// peer is the reader, seen from the writer.
type peer struct {
	pid  int
	url  string
	stop func()
}

func startReader(ctx context.Context, urls []string) (*peer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), envURLs+"="+strings.Join(urls, " "))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := func() {
		in.Close()
		cmd.Wait()
	}
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		stop()
		return nil, fmt.Errorf("the reader did not start: %w", err)
	}
	return &peer{pid: cmd.Process.Pid, url: "http://" + strings.TrimSpace(addr), stop: stop}, nil
}

func (p *peer) ask(ctx context.Context, token string) (got price, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return got, err
	}
	if token != "" {
		req.Header.Set(causal.Header, tokens.Seal(token))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return got, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return got, fmt.Errorf("the reader answers %s", resp.Status)
	}
	return got, json.NewDecoder(resp.Body).Decode(&got)
}
