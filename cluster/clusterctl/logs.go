package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// showLogs copies the latest n lines of a slot, or of all if it is "", and with follow those to come, until the service
// or ctx ends. An upgrade of the supervisor goes on in its successor's.
func showLogs(ctx context.Context, c *client, w io.Writer, slot string, n int, follow bool) error {
	q := url.Values{"lines": {strconv.Itoa(n)}}
	if slot != "" {
		q.Set("slot", slot)
	}
	if follow {
		q.Set("follow", "1")
	}
	for first := true; ; first = false {
		resp, err := c.ask(ctx, http.MethodGet, "/v1/logs?"+q.Encode())
		switch {
		case errors.Is(err, errUnreachable) && !first:
			return nil // it was there, and has ended
		case err != nil && ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		_, err = io.Copy(w, resp.Body)
		resp.Body.Close()
		if !follow || ctx.Err() != nil {
			return nil
		}
		var we *writeError
		if errors.As(err, &we) {
			return we.error
		}
		q.Set("lines", "0")
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
}

// writeError tells what cannot be written from what cannot be read.
type writeError struct{ error }

// output marks errors of w.
type output struct{ w io.Writer }

func (o output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		err = &writeError{fmt.Errorf("writing: %w", err)}
	}
	return n, err
}
