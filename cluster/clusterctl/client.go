package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

const reconnectFor = 10 * time.Second

var errUnreachable = errors.New("nobody answers")

// answerError is a "no" of the service.
type answerError struct {
	status int
	text   string
}

func (e *answerError) Error() string     { return e.text }
func (e *answerError) unsupported() bool { return e.status == http.StatusNotImplemented }

// errInterrupted is how a command ends that a signal ends.
var errInterrupted = &answerError{text: "interrupted; what was asked for goes on"}

type client struct {
	path string
	http *http.Client
}

func newClient(path string) *client {
	return &client{path, &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", path)
		},
	}}}
}

// ask returns an answer that is not an error, whose body is to be closed.
func (c *client) ask(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://control"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, errInterrupted
		}
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("%w on %s: %v", errUnreachable, c.path, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	var no struct{ Error string }
	if json.NewDecoder(resp.Body).Decode(&no) != nil || no.Error == "" {
		no.Error = "unexpected answer: " + resp.Status
	}
	return nil, &answerError{resp.StatusCode, no.Error}
}

// call asks and decodes the answer into out, if that is not nil.
func (c *client) call(ctx context.Context, method, path string, out any) error {
	resp, err := c.ask(ctx, method, path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("%w on %s as a service would: %v", errUnreachable, c.path, err)
	}
	return nil
}

// operate starts an operation and waits for its outcome. An upgrade replaces the supervisor meanwhile: it is asked again.
func (c *client) operate(ctx context.Context, path string) error {
	var op struct {
		ID, Error string
		Done      bool
	}
	if err := c.call(ctx, http.MethodPost, path, &op); err != nil {
		return err
	}
	var lost time.Time
	for !op.Done {
		err := c.call(ctx, http.MethodGet, "/v1/operations/"+op.ID, &op)
		switch {
		case err == nil:
			lost = time.Time{}
			continue
		case !errors.Is(err, errUnreachable):
			return err
		case lost.IsZero():
			lost = time.Now()
		case time.Since(lost) > reconnectFor:
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	if op.Error != "" {
		return &answerError{text: op.Error}
	}
	return nil
}

// stop asks for it and waits until the socket has gone.
func (c *client) stop(ctx context.Context) error {
	if err := c.call(ctx, http.MethodPost, "/v1/stop", nil); err != nil {
		return err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := c.call(ctx, http.MethodGet, "/v1/workers", nil)
		if errors.Is(err, errUnreachable) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
