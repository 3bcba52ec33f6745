package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestThreeWrongValues(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "STOREFRONT_TEST=1", "DATABASE_URL=postgres://127.0.0.1/shop", "REDIS_URL=redis://127.0.0.1",
		"WORKERS=lots", "RATE=fast", "IDLE_GRACE=2")
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 2 {
		t.Errorf("%v, want exit status 2", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 4 {
		t.Fatalf("want a heading and three errors, got:\n%s", out)
	}
	for i, want := range []string{`WORKERS = "lots": must be a number`, `RATE = "fast": must be a rate`, `IDLE_GRACE = "2": must be a duration`} {
		if !strings.HasPrefix(lines[1+i], want) {
			t.Errorf("line %d: %s, want %s", 1+i, lines[1+i], want)
		}
	}
}

func testRoutes(t *testing.T, s *storefront) {
	c := s.client(t)

	// Products: where they come from, and that nothing is sent twice.
	first := c.do(http.StatusOK, "GET", "/products/42", "")
	if status := first.header.Get("Cache-Status"); !strings.Contains(status, "fwd=miss") || !strings.Contains(status, "detail=origin") {
		t.Errorf("the first time: Cache-Status: %s", status)
	}
	var product Product
	first.decode(t, &product)
	if product.ID != 42 || product.Category == "" || len(first.body) < 800 || len(first.body) > 1200 {
		t.Errorf("%d bytes: %+v", len(first.body), product)
	}
	tiers := map[string]bool{}
	cached := 42
	eventually(t, "both workers answered from the cache", func() error {
		status := c.do(http.StatusOK, "GET", fmt.Sprintf("/products/%d", cached), "").header.Get("Cache-Status")
		if !strings.Contains(status, "; hit;") {
			// Redis took too long for a worker, which loaded by itself and so has no need of Redis: begin with another product.
			cached++
			clear(tiers)
			c.do(http.StatusOK, "GET", fmt.Sprintf("/products/%d", cached), "")
			return fmt.Errorf("again: Cache-Status: %s", status)
		}
		tiers[status[strings.LastIndex(status, "=")+1:]] = true
		if !tiers["memory"] || !tiers["remote"] {
			return fmt.Errorf("hits in %v", tiers)
		}
		return nil
	})
	etag := first.header.Get("ETag")
	c.headers = map[string]string{"If-None-Match": `"other", W/` + etag}
	if a := c.do(http.StatusNotModified, "GET", "/products/42", ""); len(a.body) != 0 || a.header.Get("ETag") != etag {
		t.Errorf("304 with %q, ETag %s", a.body, a.header.Get("ETag"))
	}
	c.headers = map[string]string{"If-None-Match": `"other"`}
	c.do(http.StatusOK, "GET", "/products/42", "")
	c.headers = nil

	// Pages.
	var page struct {
		Products []Product
		After    int64
	}
	seen := 0
	for after := int64(0); ; after = page.After {
		page.Products, page.After = nil, 0
		c.do(http.StatusOK, "GET", fmt.Sprintf("/products?category=ropes&limit=100&after=%d", after), "").decode(t, &page)
		for _, p := range page.Products {
			if p.Category != "ropes" || p.ID <= after || p.Name == "" {
				t.Errorf("%d (%s) on the page after %d", p.ID, p.Category, after)
			}
		}
		seen += len(page.Products)
		if page.After == 0 {
			break
		}
	}
	if seen != productCount/10 {
		t.Errorf("%d products of the category, want %d", seen, productCount/10)
	}

	// What is refused.
	for _, r := range []struct {
		status             int
		method, path, body string
	}{
		{404, "GET", "/nowhere", ""},
		{404, "GET", "/products/0", ""},
		{404, "GET", "/products/x", ""},
		{404, "GET", "/products/999999", ""},
		{405, "DELETE", "/products/1", ""},
		{400, "GET", "/products?limit=0", ""},
		{400, "GET", "/products?after=x", ""},
		{404, "PATCH", "/products/999999", `{"stock":1}`},
		{400, "PATCH", "/products/1", `{}`},
		{400, "PATCH", "/products/1", `{"stock":-1}`},
		{400, "PATCH", "/products/1", `{"name":"x"}`},
		{400, "PATCH", "/products/1", `{"stock":1} {}`},
		{413, "PATCH", "/products/1", `{"name":"` + strings.Repeat("x", 70_000) + `"}`},
		{400, "POST", "/login", `{"user":""}`},
		{400, "POST", "/cart/items", `{"product_id":1,"qty":0}`},
		{404, "POST", "/cart/items", `{"product_id":999999,"qty":1}`},
		{409, "POST", "/cart/items", ""},
		{401, "POST", "/orders", ""},
		{401, "GET", "/orders", ""},
		{401, "POST", "/logout/everywhere", ""},
	} {
		if r.body == "" && r.path == "/cart/items" {
			d := s.client(t)
			d.do(200, r.method, r.path, `{"product_id":1,"qty":600}`)
			d.do(r.status, r.method, r.path, `{"product_id":1,"qty":600}`)
			continue
		}
		c.do(r.status, r.method, r.path, r.body)
	}
	if _, ok := c.cookies["session"]; ok {
		t.Error("who was only refused got a session")
	}
	c.headers = map[string]string{"Fairlead-Timeout-Ms": "0"}
	c.do(504, "GET", "/products/1", "")
	c.headers = map[string]string{"Sec-Fetch-Site": "cross-site"}
	c.do(403, "POST", "/logout", "")
	c.headers = nil

	// Accounts: the cart comes along, logins and visits count, and a logout everywhere ends the other session too.
	type visitor struct {
		User           string
		Logins, Visits int
	}
	about := func(n, want int) bool { return n >= want && n <= want+c.repeats }
	var v visitor
	c.repeats = 0
	c.do(200, "POST", "/cart/items", `{"product_id":5,"qty":1}`)
	anonymous := c.cookies["session"]
	c.do(200, "POST", "/login", `{"user":"ann"}`).decode(t, &v)
	if v.User != "ann" || !about(v.Logins, 1) || v.Visits != 0 || c.cookies["session"] == anonymous {
		t.Errorf("after the login: %+v, session id new: %v", v, c.cookies["session"] != anonymous)
	}
	for range 3 {
		c.do(200, "GET", "/me", "").decode(t, &v)
	}
	if v.User != "ann" || !about(v.Logins, 1) || !about(v.Visits, 3) {
		t.Errorf("after three visits: %+v", v)
	}
	var cart struct {
		Items      []cartLine
		TotalCents int64 `json:"total_cents"`
	}
	c.do(200, "GET", "/cart", "").decode(t, &cart)
	if len(cart.Items) != 1 || cart.Items[0].ProductID != 5 || !about(cart.Items[0].Qty, 1) || cart.TotalCents != int64(cart.Items[0].Qty)*int64(cart.Items[0].PriceCents) {
		t.Errorf("the cart after the login: %+v", cart)
	}
	c.do(204, "DELETE", "/cart", "")
	if a := c.do(200, "GET", "/cart", ""); string(a.body) != `{"items":[],"total_cents":0}` {
		t.Errorf("the empty cart: %s", a.body)
	}
	other := s.login(t, "ann")
	c.do(204, "POST", "/logout/everywhere", "")
	other.do(401, "GET", "/orders", "")
	if _, ok := c.cookies["session"]; ok {
		t.Error("the session cookie is still there after the logout")
	}
	other = s.login(t, "ann")
	other.do(204, "POST", "/logout", "")
	other.do(401, "GET", "/orders", "")

	// The admin listener.
	var snapshot struct{ Ready bool }
	resp, err := http.Get(s.admin + "/api/snapshot")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&snapshot); err != nil || !snapshot.Ready {
		t.Errorf("/api/snapshot: %+v, %v", snapshot, err)
	}
}
