package scale

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"time"
)

// errNoTime says that an attempt was not sent.
var errNoTime error = noTime{}

type noTime struct{}

func (noTime) Error() string   { return "scale: not sent: less than a millisecond is left" }
func (noTime) Unwrap() error   { return context.DeadlineExceeded }
func (noTime) Timeout() bool   { return true }
func (noTime) Retryable() bool { return false }

// deadlineTransport bounds an attempt and tells the other side.
type deadlineTransport struct {
	rt    http.RoundTripper
	bound time.Duration // 0: none
}

func (t *deadlineTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	left, known := t.bound, t.bound > 0
	if deadline, ok := req.Context().Deadline(); ok && (!known || time.Until(deadline) < left) {
		left, known = time.Until(deadline), true
	}
	if !known {
		return t.rt.RoundTrip(req)
	}
	if left < time.Millisecond {
		closeBody(req)
		if err := req.Context().Err(); err != nil {
			return nil, err
		}
		return nil, errNoTime
	}
	ctx, cancel := req.Context(), context.CancelFunc(nil)
	if t.bound > 0 {
		ctx, cancel = context.WithTimeout(ctx, t.bound)
	}
	sent := req.Clone(ctx)
	sent.Header.Set("Fairlead-Timeout-Ms", strconv.FormatInt(left.Milliseconds(), 10))
	resp, err := t.rt.RoundTrip(sent)
	if cancel == nil {
		return resp, err
	}
	if err != nil || resp.Body == nil {
		cancel()
		return resp, err
	}
	// Whoever takes over the connection writes to it, too.
	if rw, ok := resp.Body.(io.ReadWriteCloser); ok {
		resp.Body = &boundedConn{boundedBody{rw, cancel}, rw}
	} else {
		resp.Body = &boundedBody{resp.Body, cancel}
	}
	return resp, nil
}

func (t *deadlineTransport) CloseIdleConnections() { closeIdle(t.rt) }

// boundedBody ends an attempt's context with its body.
type boundedBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.cancel()
	}
	return n, err
}

func (b *boundedBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel()
	return err
}

type boundedConn struct {
	boundedBody
	io.Writer
}
