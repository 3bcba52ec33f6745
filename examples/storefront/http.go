package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/scale/redisconn"
	"github.com/fairlead/fairlead/session"
)

// handler is a route: what it returns as an error becomes the response.
type handler func(http.ResponseWriter, *http.Request) error

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h(w, r); err != nil {
		fail(w, r, err)
	}
}

func reply(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may have gone
	return nil
}

// replyWithETag answers 304 to a client that has the same already.
func replyWithETag(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	etag := `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
	w.Header().Set("ETag", etag)
	if matches(r.Header.Values("If-None-Match"), etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return reply(w, http.StatusOK, json.RawMessage(body))
}

func matches(ifNoneMatch []string, etag string) bool {
	for _, list := range ifNoneMatch {
		for tag := range strings.SplitSeq(list, ",") {
			if tag = strings.TrimSpace(tag); tag == "*" || strings.TrimPrefix(tag, "W/") == etag {
				return true
			}
		}
	}
	return false
}

// readJSON reads a body of one JSON object with no fields but v's.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return &problem{http.StatusRequestEntityTooLarge, "The body may have 64 KiB."}
		}
		return badRequest("The body must be a JSON object: " + err.Error())
	}
	if decoder.More() {
		return badRequest("The body must be one JSON object and nothing after it.")
	}
	return nil
}

// problem is an error that the client is told (RFC 9457).
type problem struct {
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
}

func (p *problem) Error() string { return p.Detail }

func badRequest(detail string) error   { return &problem{http.StatusBadRequest, detail} }
func unauthorized(detail string) error { return &problem{http.StatusUnauthorized, detail} }
func notFound(detail string) error     { return &problem{http.StatusNotFound, detail} }
func conflict(detail string) error     { return &problem{http.StatusConflict, detail} }

// fail says what went wrong as far as it concerns the client, and logs what concerns us.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	p, ok := errors.AsType[*problem](err)
	if !ok {
		if ended := r.Context().Err(); ended != nil { // and whatever was under way says so in its own words
			err = fmt.Errorf("%w: %w", ended, err)
		}
		p = explain(err)
	}
	switch {
	case p.Status == http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
		slog.WarnContext(r.Context(), "request refused", "route", r.Pattern, "error", err)
	case p.Status >= 500:
		slog.ErrorContext(r.Context(), "request failed", "route", r.Pattern, "error", err)
	}
	replyProblem(w, p)
}

// explain finds the status for an error of the parts. What is 503 may be tried again.
func explain(err error) *problem {
	for _, known := range []struct {
		err    error
		status int
		detail string
	}{
		{session.ErrRotated, http.StatusConflict, "The session got a new id meanwhile. Use the new cookie."},
		{session.ErrEnded, http.StatusConflict, "The session has ended."},
		{session.ErrRevoked, http.StatusConflict, "All sessions of the user were ended during the login. Log in again."},
		{session.ErrOutcomeUnknown, http.StatusServiceUnavailable, "The change may have been made or not."},
		{session.ErrUnavailable, http.StatusServiceUnavailable, "Sessions are not available now."},
		{pool.ErrOutcomeUnknown, http.StatusServiceUnavailable, "The change may have been made or not."},
		{pool.ErrSaturated, http.StatusServiceUnavailable, "The database is busy."},
		{pool.ErrNoPrimary, http.StatusServiceUnavailable, "The database takes no changes now."},
		{pool.ErrStale, http.StatusServiceUnavailable, "No database is up to date."},
		{redisconn.ErrUnavailable, http.StatusServiceUnavailable, "A part of the shop is not available now."},
		{context.DeadlineExceeded, http.StatusGatewayTimeout, "It took too long."},
		{context.Canceled, http.StatusServiceUnavailable, "The request was cancelled."},
	} {
		if errors.Is(err, known.err) {
			return &problem{known.status, known.detail}
		}
	}
	if pool.IsNotFound(err) {
		return &problem{http.StatusNotFound, "There is no such product."}
	}
	if _, ok := errors.AsType[*pool.CausalityLostError](err); ok {
		return &problem{http.StatusServiceUnavailable, "The database failed over; what this session wrote last may be lost."}
	}
	return &problem{http.StatusInternalServerError, ""}
}

func replyProblem(w http.ResponseWriter, p *problem) {
	body, _ := json.Marshal(struct {
		Title string `json:"title"`
		*problem
	}{http.StatusText(p.Status), p})
	h := w.Header()
	h.Del("ETag")
	h.Del("Cache-Status")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	_, _ = w.Write(body)
}

// withProblems answers in JSON what the mux would answer in plain text: 404 and 405.
func withProblems(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		answer := plainAnswer{header: make(http.Header)}
		h.ServeHTTP(&answer, r)
		if allow := answer.header.Get("Allow"); allow != "" {
			w.Header().Set("Allow", allow)
		}
		replyProblem(w, &problem{answer.status, ""})
	})
}

// plainAnswer takes the mux's own answer.
type plainAnswer struct {
	header http.Header
	body   bytes.Buffer
	status int
}

func (a *plainAnswer) Header() http.Header         { return a.header }
func (a *plainAnswer) WriteHeader(status int)      { a.status = status }
func (a *plainAnswer) Write(b []byte) (int, error) { return a.body.Write(b) }
