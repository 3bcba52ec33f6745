package respwriter

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// serve runs h behind a Writer on a real server and returns the response, its body and the statuses the hook saw.
func serve(t *testing.T, replace http.HandlerFunc, h func(w *Writer, r *http.Request)) (*http.Response, string, []int) {
	t.Helper()
	var statuses []int
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w := New(rw, r, func(status int) http.HandlerFunc {
			statuses = append(statuses, status)
			rw.Header().Set("Hook", "ran")
			return replace
		})
		h(w, r)
		w.Finish()
	}))
	defer srv.Close()
	res, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body), statuses
}

var ways = map[string]struct {
	do     func(w *Writer, r *http.Request)
	status int
	body   string
}{
	"nothing":     {func(w *Writer, r *http.Request) {}, 200, ""},
	"status":      {func(w *Writer, r *http.Request) { w.WriteHeader(404) }, 404, ""},
	"write":       {func(w *Writer, r *http.Request) { w.Write([]byte("body")) }, 200, "body"},
	"writestring": {func(w *Writer, r *http.Request) { io.WriteString(w, "body") }, 200, "body"},
	"readfrom":    {func(w *Writer, r *http.Request) { io.Copy(w, strings.NewReader("body")) }, 200, "body"},
	"flush":       {func(w *Writer, r *http.Request) { http.NewResponseController(w).Flush(); io.WriteString(w, "body") }, 200, "body"},
	"early hints": {func(w *Writer, r *http.Request) { w.WriteHeader(103); w.WriteHeader(201) }, 201, ""},
	"status then body": {func(w *Writer, r *http.Request) {
		w.WriteHeader(202)
		io.WriteString(w, "body")
		w.WriteHeader(500)
	}, 202, "body"},
}

func TestTheHookRunsOnceBeforeTheHeaders(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			res, body, statuses := serve(t, nil, way.do)
			if res.StatusCode != way.status || body != way.body || res.Header.Get("Hook") != "ran" {
				t.Errorf("got %d %q, Hook %q", res.StatusCode, body, res.Header.Get("Hook"))
			}
			if len(statuses) != 1 || statuses[0] != way.status {
				t.Errorf("the hook saw %v, want once %d", statuses, way.status)
			}
		})
	}
}

func TestAReplacementIsTheOnlyResponse(t *testing.T) {
	replace := func(w http.ResponseWriter, r *http.Request) { http.Error(w, "saving failed", 503) }
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			res, body, _ := serve(t, replace, func(w *Writer, r *http.Request) {
				w.Header().Set("Content-Length", "4")
				w.Header().Set("ETag", `"x"`)
				way.do(w, r)
				if _, err := w.Write([]byte("more")); !errors.Is(err, ErrReplaced) {
					t.Errorf("Write after the replacement: %v", err)
				}
				if w.Status() != 503 {
					t.Errorf("Status = %d", w.Status())
				}
			})
			if res.StatusCode != 503 || body != "saving failed\n" || res.Header.Get("ETag") != "" {
				t.Errorf("got %d %q, ETag %q", res.StatusCode, body, res.Header.Get("ETag"))
			}
		})
	}
}

func TestHijack(t *testing.T) {
	res, body, statuses := serve(t, nil, func(w *Writer, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		rw.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nraw")
		rw.Flush()
	})
	if res.StatusCode != 200 || body != "raw" || len(statuses) != 1 || statuses[0] != http.StatusSwitchingProtocols {
		t.Errorf("got %d %q, hook %v", res.StatusCode, body, statuses)
	}
}

// recorder has what a server's writer has; ReadFrom must reach it so that sendfile stays.
type readerFrom struct {
	*httptest.ResponseRecorder
	used bool
}

func (w *readerFrom) ReadFrom(src io.Reader) (int64, error) {
	w.used = true
	return io.Copy(w.ResponseRecorder, src)
}

func TestReadFromReachesTheWriterUnderneath(t *testing.T) {
	under := &readerFrom{ResponseRecorder: httptest.NewRecorder()}
	w := New(under, httptest.NewRequest("GET", "/", nil), func(int) http.HandlerFunc { return nil })
	// bufio.Reader has a WriteTo of its own, a LimitedReader has not: that is what a file server hands over.
	if _, err := io.Copy(w, io.LimitReader(bufio.NewReader(strings.NewReader("body")), 4)); err != nil || !under.used {
		t.Fatalf("%v, used %v", err, under.used)
	}
}
