package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead/fairlead/cluster"
	"github.com/fairlead/fairlead/internal/testenv"
)

var postgres = testenv.Share(func(ctx context.Context) (*testenv.Postgres, error) {
	return testenv.StartPostgres(ctx, testenv.PostgresOptions{Replicas: 1})
})

func TestMain(m *testing.M) { os.Exit(testenv.Main(m.Run, postgres)) }

// The program runs here in one process, on a primary and a replica that does not replay: whoever changes a price sees it.
func TestShop(t *testing.T) {
	pg, err := postgres.Get()
	if err != nil {
		t.Fatal(err)
	}
	rd, err := testenv.StartRedis(t.Context(), testenv.RedisOptions{}) // with nothing of another run in it
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	name, err := pg.CreateDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), pg.Primary.URL(name))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	// The table as the package comment has it.
	if _, err := conn.Exec(t.Context(), `create table products (id bigint primary key, name text not null, price_cents int not null check (price_cents > 0));
		insert into products select n, 'product ' || n, 100 from generate_series(1, 10) n`); err != nil {
		t.Fatal(err)
	}
	if err := pg.Replicas[0].WaitReplayed(t.Context()); err != nil {
		t.Fatal(err)
	}
	hosts := strings.Replace(pg.Primary.URL(name), pg.Primary.Addr(), pg.Primary.Addr()+","+pg.Replicas[0].Addr(), 1)
	t.Setenv("DATABASE_URL", hosts)
	t.Setenv("REDIS_URL", rd.URL())

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + ln.Addr().String()
	ln.Close()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- cluster.Run(ctx, shop, cluster.Options{Listen: []cluster.Listen{{Name: "http", Addr: strings.TrimPrefix(base, "http://")}}})
	}()

	jar := newJar(t)
	client := &http.Client{Jar: jar, Timeout: time.Minute}
	repeats := 0
	send := func(method, path string, form url.Values) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, strings.TrimSpace(string(body))
	}
	// do repeats what was answered 503: on a busy machine a server may take longer to answer than the parts wait for it.
	do := func(method, path string, form url.Values) (int, string) {
		t.Helper()
		status, body := send(method, path, form)
		for backstop := time.Now().Add(time.Minute); status == http.StatusServiceUnavailable && time.Now().Before(backstop); repeats++ {
			t.Logf("%s %s: %s; again", method, path, body)
			time.Sleep(100 * time.Millisecond)
			status, body = send(method, path, form)
		}
		return status, body
	}
	for backstop := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if resp, err := client.Get(base + "/products/0"); err == nil {
			resp.Body.Close()
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("it ended: %v", err)
		default:
		}
		if time.Now().After(backstop) {
			t.Fatal("it does not serve after a minute")
		}
	}

	if status, _ := do("GET", "/products/0", nil); status != http.StatusNotFound {
		t.Errorf("GET /products/0: %d, want 404", status)
	}
	if _, body := do("GET", "/products/7", nil); body != `{"id":7,"name":"product 7","price_cents":100}` {
		t.Errorf("GET /products/7: %s", body)
	}
	if err := pg.Replicas[0].PauseReplay(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer pg.Replicas[0].ResumeReplay(context.Background())
	for _, price := range []string{"101", "102", "103"} {
		if status, body := do("PATCH", "/products/7", url.Values{"price_cents": {price}}); status != http.StatusOK {
			t.Fatalf("PATCH: %d %s", status, body)
		}
		if _, body := do("GET", "/products/7", nil); !strings.Contains(body, `"price_cents":`+price+`}`) {
			t.Errorf("after a change to %s: %s", price, body)
		}
	}
	if status, _ := send("PATCH", "/products/7", nil); status == http.StatusOK {
		t.Error("PATCH without a price succeeded")
	}
	repeats = 0
	for visits := 1; visits <= 2; visits++ {
		_, body := do("GET", "/me", nil)
		var me Visitor
		// A visit that was answered 503 may have been counted.
		if err := json.Unmarshal([]byte(body), &me); err != nil || me.Visits < visits || me.Visits > visits+repeats {
			t.Errorf("GET /me: %s, want %d visits", body, visits)
		}
	}

	client.CloseIdleConnections()
	stop()
	if err := <-ended; err != nil {
		t.Errorf("after the end: %v", err)
	}
}

// newJar keeps Secure cookies although the test speaks plain HTTP, as if a proxy in front did TLS.
func newJar(t *testing.T) http.CookieJar {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return tlsJar{jar}
}

type tlsJar struct{ http.CookieJar }

func (j tlsJar) SetCookies(u *url.URL, cookies []*http.Cookie) {
	j.CookieJar.SetCookies(secure(u), cookies)
}
func (j tlsJar) Cookies(u *url.URL) []*http.Cookie { return j.CookieJar.Cookies(secure(u)) }

func secure(u *url.URL) *url.URL {
	s := *u
	s.Scheme = "https"
	return &s
}
