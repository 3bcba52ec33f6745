package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

// Whatever worker takes a change, whoever listens to whatever worker hears of it.
func testEvents(t *testing.T, s *storefront) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	heard := make(chan string, 100)
	workers := map[string]bool{}
	for n := 0; len(workers) < 2; n++ {
		if n == 200 {
			t.Fatal("200 streams met one worker")
		}
		req, _ := http.NewRequestWithContext(ctx, "GET", s.base+"/events", nil)
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		worker := resp.Header.Get("Worker")
		if resp.StatusCode != http.StatusOK || workers[worker] {
			resp.Body.Close()
			continue
		}
		workers[worker] = true
		go func() {
			defer resp.Body.Close()
			for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
				if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
					heard <- worker + " " + data
				}
			}
		}()
	}
	c := s.client(t)
	price, hearers := 2000, map[string]bool{}
	eventually(t, "both workers' streams tell of a change", func() error {
		price++ // a subscription that was not there yet hears of the next one
		c.do(http.StatusOK, "PATCH", "/products/77", fmt.Sprintf(`{"price_cents":%d}`, price))
		for {
			select {
			case line := <-heard:
				worker, data, _ := strings.Cut(line, " ")
				if strings.Contains(data, `"id":77`) && strings.Contains(data, `"price_cents":20`) {
					hearers[worker] = true
				}
				continue
			default:
			}
			break
		}
		if len(hearers) < 2 {
			return fmt.Errorf("heard by %v", hearers)
		}
		return nil
	})
}

func TestPageAndAssets(t *testing.T) {
	assets, page, err := newPage()
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{page: page, assets: assets}
	h := s.routes()
	get := func(path, encoding string) *http.Response {
		t.Helper()
		req, _ := http.NewRequest("GET", path, nil)
		req.Header.Set("Accept-Encoding", encoding)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w.Result()
	}
	resp := get("/", "identity")
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Security-Policy") != pagePolicy || resp.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("the page: %s %v", resp.Status, resp.Header)
	}
	names := regexp.MustCompile(`/assets/[\w.]+`).FindAllString(string(body), -1)
	if len(names) != 3 {
		t.Fatalf("the page refers to %q", names)
	}
	for _, name := range names {
		plain := get(name, "gzip;q=0, br")
		want, _ := io.ReadAll(plain.Body)
		if plain.StatusCode != 200 || plain.Header.Get("Content-Encoding") != "" || !strings.Contains(plain.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %s %v", name, plain.Status, plain.Header)
		}
		zipped := get(name, "br, gzip")
		if zipped.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("%s is not compressed", name)
			continue
		}
		z, err := gzip.NewReader(zipped.Body)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(z); !bytes.Equal(got, want) {
			t.Errorf("%s: compressed it is something else", name)
		}
	}
	if resp := get("/assets/shop.js", ""); resp.StatusCode != 404 {
		t.Errorf("an asset without its hash: %s", resp.Status)
	}
}
