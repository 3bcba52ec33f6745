package causal

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	oldKey = []byte("old key of 16 bytes")
	newKey = []byte("new key of 16 bytes")
)

func TestSealAndOpen(t *testing.T) {
	before, after := Options{Keys: [][]byte{oldKey}}, Options{Keys: [][]byte{newKey, oldKey}}
	sealed := before.Seal("a=1")
	if token, err := after.Open(sealed); err != nil || token != "a=1" {
		t.Fatalf("after adding a key: %q, %v", token, err)
	}
	if _, err := (Options{Keys: [][]byte{newKey}}).Open(sealed); !errors.Is(err, ErrMalformed) {
		t.Fatalf("opened with another key: %v", err)
	}
	for i := range len(sealed) {
		forged := []byte(sealed)
		forged[i] ^= 1
		if token, err := before.Open(string(forged)); err == nil {
			t.Fatalf("a changed byte %d opens as %q", i, token)
		}
	}
}

// Without strict decoding four last characters mean the same bytes, and a seal has several spellings.
func TestASealHasOneSpelling(t *testing.T) {
	o := Options{Keys: [][]byte{newKey}}
	sealed := o.Seal("a=1")
	opens := 0
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
		if _, err := o.Open(sealed[:len(sealed)-1] + string(c)); err == nil {
			opens++
		}
	}
	if opens != 1 {
		t.Fatalf("%d last characters open", opens)
	}
}

func TestBadOptionsAreAllReported(t *testing.T) {
	_, err := Middleware(Options{For: -time.Second})
	if err == nil || !strings.Contains(err.Error(), "Options.Keys") || !strings.Contains(err.Error(), "Options.For = -1s") {
		t.Fatalf("err = %v", err)
	}
	if err := (Options{Keys: [][]byte{[]byte("short")}}).Validate(); err == nil || !strings.Contains(err.Error(), "Keys[0]") {
		t.Fatalf("err = %v", err)
	}
}

// carry runs requests of one client against a handler behind Middleware.
type carry struct {
	t       *testing.T
	o       Options
	handler http.Handler
	cookies map[string]*http.Cookie
}

func newCarry(t *testing.T, o Options, h http.HandlerFunc) *carry {
	m, err := Middleware(o)
	if err != nil {
		t.Fatal(err)
	}
	return &carry{t, o, m(h), map[string]*http.Cookie{}}
}

func (c *carry) do(header string) *http.Response {
	r := httptest.NewRequest("GET", "/", nil)
	for _, k := range c.cookies {
		r.AddCookie(k)
	}
	if header != "" {
		r.Header.Set(Header, header)
	}
	w := httptest.NewRecorder()
	c.handler.ServeHTTP(w, r)
	for _, k := range w.Result().Cookies() {
		c.cookies[k.Name] = k
	}
	return w.Result()
}

func TestMiddlewareCarriesWritesToTheNextRequest(t *testing.T) {
	write, bound := "", ""
	c := newCarry(t, Options{Keys: [][]byte{newKey}}, func(w http.ResponseWriter, r *http.Request) {
		d := From(r.Context()).Domain("db")
		bound, _ = d.Bound()
		if write != "" {
			d.Wrote(write)
		}
	})
	if res := c.do(""); len(res.Cookies()) != 0 {
		t.Fatalf("a request that wrote nothing got cookies %v", res.Cookies())
	}
	write = "5"
	res := c.do("")
	if len(res.Cookies()) != 1 {
		t.Fatalf("cookies = %v", res.Cookies())
	}
	k := res.Cookies()[0]
	if k.Name != "__Host-wrote" || k.MaxAge != 30 || !k.Secure || !k.HttpOnly || k.Path != "/" {
		t.Fatalf("cookie = %+v", k)
	}
	write = ""
	if res = c.do(""); bound != "5" || len(res.Cookies()) != 0 {
		t.Fatalf("the next request's bound = %q, want 5; cookies %v, want none", bound, res.Cookies())
	}
	write = "3" // lower than what the client brought: the token it keeps must not fall
	c.do("")
	write = ""
	if c.do(""); bound != "5" {
		t.Fatalf("bound = %q after a lower write", bound)
	}
	c.cookies["__Host-wrote"].Value = "forged"
	if res = c.do(""); bound != "" || res.StatusCode != 200 {
		t.Fatalf("a forged cookie: bound %q, status %d", bound, res.StatusCode)
	}
}

func TestReadsTravelOnlyIfAsked(t *testing.T) {
	for _, on := range []bool{false, true} {
		saw := "7"
		var bound string
		c := newCarry(t, Options{Keys: [][]byte{newKey}, CarryReads: on}, func(w http.ResponseWriter, r *http.Request) {
			d := From(r.Context()).Domain("db")
			bound, _ = d.Bound()
			d.Saw(saw)
		})
		c.do("")
		res := c.do("")
		if (bound == "7") != on {
			t.Fatalf("CarryReads %v: bound = %q", on, bound)
		}
		if len(res.Cookies()) != 0 {
			t.Fatalf("CarryReads %v: nothing new was read, and the cookie is set again", on)
		}
	}
}

func TestHeaderBetweenServices(t *testing.T) {
	o := Options{Keys: [][]byte{newKey}}
	var bound string
	c := newCarry(t, o, func(w http.ResponseWriter, r *http.Request) {
		d := From(r.Context()).Domain("db")
		bound, _ = d.Bound()
		d.Wrote("9")
	})
	if res := c.do(""); res.Header.Get(Header) != "" {
		t.Fatal("a client that sent no header got one")
	}
	c.cookies = map[string]*http.Cookie{}
	res := c.do(o.Seal("db=4,other=1"))
	if bound != "4" {
		t.Fatalf("bound = %q", bound)
	}
	if token, err := o.Open(res.Header.Get(Header)); err != nil || token != "db=9,other=1" {
		t.Fatalf("answered token = %q, %v", token, err)
	}
	if res := c.do("db=4"); res.StatusCode != http.StatusBadRequest {
		t.Fatalf("an unsealed header: status %d", res.StatusCode)
	}
}

// A streamed response has its headers out before the handler ends; what was written before them must be in the cookie.
func TestTheCookieGoesOutWithTheFirstByte(t *testing.T) {
	c := newCarry(t, Options{Keys: [][]byte{newKey}}, func(w http.ResponseWriter, r *http.Request) {
		From(r.Context()).Domain("db").Wrote("5")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		From(r.Context()).Domain("db").Wrote("6")
	})
	res := c.do("")
	if len(res.Cookies()) != 1 {
		t.Fatalf("cookies = %v", res.Cookies())
	}
	if token, _ := c.o.Open(res.Cookies()[0].Value); token != "db=5" {
		t.Fatalf("token = %q", token)
	}
}

// A shared cache may store whatever does not say otherwise, and would hand one client's positions to all.
func TestNoSharedCacheKeepsTheCookie(t *testing.T) {
	for _, c := range []struct {
		policy []string
		want   string
	}{
		{nil, "private"},
		{[]string{""}, "private"},
		{[]string{"max-age=60"}, "private, max-age=60"},
		{[]string{"Public, max-age=60, S-Maxage=10"}, "private, max-age=60"},
		{[]string{"public", "s-maxage=10, must-revalidate"}, "private, must-revalidate"},
		{[]string{`private="x-user, x-team", no-cache`}, `private, private="x-user, x-team", no-cache`},
		{[]string{"max-age=60,Private"}, "max-age=60,Private"},
		{[]string{"no-store"}, "no-store"},
	} {
		write := true
		client := newCarry(t, Options{Keys: [][]byte{newKey}}, func(w http.ResponseWriter, r *http.Request) {
			for _, p := range c.policy {
				w.Header().Add("Cache-Control", p)
			}
			if write {
				From(r.Context()).Domain("db").Wrote("5")
			}
		})
		if res := client.do(""); len(res.Cookies()) != 1 || strings.Join(res.Header["Cache-Control"], ";") != c.want {
			t.Errorf("%q with a cookie became %q, want %q; cookies %v", c.policy, res.Header["Cache-Control"], c.want, res.Cookies())
		}
		write = false // and an answer without one is as the handler made it
		if res := client.do(""); len(res.Cookies()) != 0 || !slices.Equal(res.Header["Cache-Control"], c.policy) {
			t.Errorf("%q without a cookie became %q", c.policy, res.Header["Cache-Control"])
		}
	}
}
