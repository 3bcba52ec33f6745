// Package respwriter wraps an http.ResponseWriter so that code runs once, just before the final headers go out, and may
// still replace the whole response. It keeps Flush, Hijack, ReadFrom and, through Unwrap, what http.ResponseController does.
package respwriter

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
)

// ErrReplaced is what a handler's Write returns after the response was replaced.
var ErrReplaced = errors.New("respwriter: the response was replaced")

// Writer is the wrapped ResponseWriter. Like any other it belongs to one goroutine at a time.
type Writer struct {
	http.ResponseWriter
	before    func(status int) (replace http.HandlerFunc)
	status    int
	committed bool
	replaced  bool
	r         *http.Request
}

// New wraps w. before runs once, with the final status, while headers can still be changed: at the first status of 200 or
// more (or 101), write, flush or hijack, or in Finish. If it returns a handler, that writes the response instead, and what
// the handler writes later is dropped.
func New(w http.ResponseWriter, r *http.Request, before func(status int) (replace http.HandlerFunc)) *Writer {
	return &Writer{ResponseWriter: w, r: r, before: before}
}

// Committed says whether the headers are out, or about to be.
func (w *Writer) Committed() bool { return w.committed }

// Status is the final status, or 0 before there is one.
func (w *Writer) Status() int { return w.status }

// Finish commits a response that the handler left empty. It is not called when the handler panicked.
func (w *Writer) Finish() { w.commit(http.StatusOK) }

func (w *Writer) commit(status int) {
	if w.committed {
		return
	}
	w.committed, w.status = true, status
	if replace := w.before(status); replace != nil {
		w.replaced = true
		h := w.ResponseWriter.Header()
		for _, name := range []string{"Content-Length", "Content-Encoding", "Content-Type", "Etag", "Last-Modified", "Cache-Control"} {
			h.Del(name) // they describe the body that is not sent
		}
		replace(&recorder{w}, w.r)
	}
}

// recorder lets the replacement's status be seen.
type recorder struct{ w *Writer }

func (r *recorder) Header() http.Header { return r.w.ResponseWriter.Header() }
func (r *recorder) WriteHeader(status int) {
	r.w.status = status
	r.w.ResponseWriter.WriteHeader(status)
}
func (r *recorder) Write(p []byte) (int, error) { return r.w.ResponseWriter.Write(p) }

// WriteHeader passes 1xx on and commits at anything final.
func (w *Writer) WriteHeader(status int) {
	if status < 200 && status != http.StatusSwitchingProtocols {
		if !w.committed {
			w.ResponseWriter.WriteHeader(status)
		}
		return
	}
	w.commit(status)
	if !w.replaced {
		w.ResponseWriter.WriteHeader(status)
	}
}

func (w *Writer) Write(p []byte) (int, error) {
	w.commit(http.StatusOK)
	if w.replaced {
		return 0, ErrReplaced
	}
	return w.ResponseWriter.Write(p)
}

// WriteString is Write.
func (w *Writer) WriteString(s string) (int, error) {
	w.commit(http.StatusOK)
	if w.replaced {
		return 0, ErrReplaced
	}
	return io.WriteString(w.ResponseWriter, s)
}

// ReadFrom keeps sendfile when the writer underneath has it.
func (w *Writer) ReadFrom(src io.Reader) (int64, error) {
	w.commit(http.StatusOK)
	if w.replaced {
		return 0, ErrReplaced
	}
	return io.Copy(w.ResponseWriter, src)
}

// Flush commits and flushes.
func (w *Writer) Flush() { w.FlushError() }

// FlushError commits and flushes.
func (w *Writer) FlushError() error {
	w.commit(http.StatusOK)
	if w.replaced {
		return ErrReplaced
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack commits with status 101 and takes the connection over.
func (w *Writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.commit(http.StatusSwitchingProtocols)
	if w.replaced {
		return nil, nil, ErrReplaced
	}
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Unwrap is for http.ResponseController.
func (w *Writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
