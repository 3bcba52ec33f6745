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

var errUnreachable = errors.New("nobody answers")

// answerError is a "no" of the service.
type answerError struct {
	status int
	text   string
}

func (e *answerError) Error() string     { return e.text }
func (e *answerError) unsupported() bool { return e.status == http.StatusNotImplemented }

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

// call asks and decodes the answer into out, if that is not nil.
func (c *client) call(ctx context.Context, method, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://control"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return &answerError{text: "interrupted; what was asked for goes on"}
		}
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return fmt.Errorf("%w on %s: %v", errUnreachable, c.path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		var no struct{ Error string }
		if json.NewDecoder(resp.Body).Decode(&no) != nil || no.Error == "" {
			no.Error = "unexpected answer: " + resp.Status
		}
		return &answerError{resp.StatusCode, no.Error}
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("%w on %s as a service would: %v", errUnreachable, c.path, err)
	}
	return nil
}

func (c *client) reload(ctx context.Context, slot string) error {
	path := "/v1/reload"
	if slot != "" {
		path += "?slot=" + slot
	}
	var op struct {
		ID, Error string
		Done      bool
	}
	if err := c.call(ctx, http.MethodPost, path, &op); err != nil {
		return err
	}
	for !op.Done {
		if err := c.call(ctx, http.MethodGet, "/v1/operations/"+op.ID, &op); err != nil {
			return err
		}
	}
	if op.Error != "" {
		return &answerError{text: "reload failed: " + op.Error}
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
