package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/fairlead/fairlead/cluster/internal/admin"
	"github.com/fairlead/fairlead/cluster/internal/sys"
)

// operationWait is how long a question for an operation's outcome may hang before it is answered "not yet".
const operationWait = 10 * time.Second

// controlled is what the control socket acts on.
type controlled interface {
	admin.Source
	// operations are where the outcomes of reload, scale and upgrade go, under the id that these get.
	operations() *operations
	// reload starts a reload of one slot, or of all if it is negative.
	reload(id string, slot int) error
	// scale changes the number of workers: to so many, or if by is not 0 by so many.
	scale(id string, to, by int) error
	// upgrade replaces the workers and the supervisor.
	upgrade(id string) error
	// shutdown begins a graceful stop.
	shutdown()
	// profile takes a profile of a slot's worker.
	profile(ctx context.Context, slot int, kind string, d time.Duration) ([]byte, error)
	// readLogs are the lines of all workers.
	readLogs() (*logs, error)
	// readExits are the latest ends of a slot's workers, or of all if it is negative.
	readExits(slot int) []exit
}

// control serves clusterctl: HTTP with JSON over a unix socket.
//
//	GET  /v1/workers            {"workers": [...]}, rows as in /api/snapshot
//	GET  /v1/exits[?slot=N]     {"exits": [...]}, the latest ends of workers with their last words, oldest first
//	GET  /v1/logs               text, the latest lines; ?lines=N, slot=N, follow=1 for those to come too
//	GET  /v1/profile            ?slot=N&kind=cpu|heap|goroutine&seconds=S; of goroutines text, else for go tool pprof
//	POST /v1/reload[?slot=N]    202 {"id": "..."}
//	POST /v1/scale?to=N         the same; or ?by=N, which may be negative
//	POST /v1/upgrade            the same
//	GET  /v1/operations/{id}    {"id": "...", "done": bool, "error": "..."}; waits for it for up to 10s
//	POST /v1/stop               202
//
// Errors are {"error": "..."}; what cannot be done here is 501.
type control struct{ c controlled }

type uidKey struct{}

func openControl(path string) (net.Listener, error) {
	ln, err := listenUnix(path)
	if err != nil {
		return nil, fmt.Errorf("cluster: Options.Control: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("cluster: Options.Control: %w", err)
	}
	return ln, nil
}

func serveControl(ln net.Listener, c controlled) *http.Server {
	ctl := &control{c}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/workers", ctl.workers)
	mux.HandleFunc("GET /v1/exits", ctl.exits)
	mux.HandleFunc("GET /v1/logs", ctl.logs)
	mux.HandleFunc("GET /v1/profile", ctl.profile)
	mux.HandleFunc("POST /v1/reload", ctl.reload)
	mux.HandleFunc("POST /v1/scale", ctl.scale)
	mux.HandleFunc("POST /v1/upgrade", ctl.upgrade)
	mux.HandleFunc("GET /v1/operations/{id}", ctl.operation)
	mux.HandleFunc("POST /v1/stop", ctl.stop)
	srv := &http.Server{
		Handler:           onlyOwner(mux),
		ReadHeaderTimeout: 10 * time.Second,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			uid, err := sys.PeerUID(c)
			if err != nil {
				uid = -2
			}
			return context.WithValue(ctx, uidKey{}, uid)
		},
	}
	go srv.Serve(ln)
	return srv
}

// onlyOwner lets in the user of this process and root, whatever the mode of the socket has become.
func onlyOwner(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if uid := r.Context().Value(uidKey{}).(int); uid != os.Geteuid() && uid != 0 {
			answer(w, http.StatusForbidden, map[string]string{"error": "only the user that runs the service, and root, may do that"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// refuse answers with an error: 501 if it is one of something that cannot be done here at all.
func refuse(w http.ResponseWriter, status int, err error) {
	if errors.Is(err, errors.ErrUnsupported) {
		status = http.StatusNotImplemented
	}
	answer(w, status, map[string]string{"error": err.Error()})
}

// number is a parameter that counts from 0.
func number(r *http.Request, name string, def int) (int, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s %q: must be a number from 0", name, s)
	}
	return n, nil
}

func (c *control) workers(w http.ResponseWriter, r *http.Request) {
	answer(w, http.StatusOK, map[string]any{"workers": c.c.Snapshot(r.Context()).Workers})
}

func (c *control) reload(w http.ResponseWriter, r *http.Request) {
	slot, err := number(r, "slot", -1)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	c.begin(w, func(id string) error { return c.c.reload(id, slot) })
}

func (c *control) scale(w http.ResponseWriter, r *http.Request) {
	to, err := number(r, "to", 0)
	by := 0
	if s := r.URL.Query().Get("by"); err == nil && s != "" {
		if by, err = strconv.Atoi(s); err != nil {
			err = fmt.Errorf("by %q: must be a number", s)
		}
	}
	if err == nil && (to == 0) == (by == 0) {
		err = errors.New("either to, from 1, or by")
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	c.begin(w, func(id string) error { return c.c.scale(id, to, by) })
}

func (c *control) upgrade(w http.ResponseWriter, r *http.Request) { c.begin(w, c.c.upgrade) }

// begin answers with the id of an operation that start has started.
func (c *control) begin(w http.ResponseWriter, start func(id string) error) {
	ops := c.c.operations()
	id := ops.begin()
	if err := start(id); err != nil {
		ops.forget(id)
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, http.StatusAccepted, map[string]string{"id": id})
}

func (c *control) operation(w http.ResponseWriter, r *http.Request) {
	ops := c.c.operations()
	op := ops.get(r.PathValue("id"))
	if op == nil {
		answer(w, http.StatusNotFound, map[string]string{"error": "no such operation"})
		return
	}
	res := map[string]any{"id": op.id, "done": false}
	select {
	case <-op.done:
	case <-time.After(operationWait):
	case <-ops.waiting():
	case <-r.Context().Done():
	}
	select {
	case <-op.done:
		res["done"] = true
		if op.err != "" {
			res["error"] = op.err
		}
	default:
	}
	answer(w, http.StatusOK, res)
}

func (c *control) stop(w http.ResponseWriter, r *http.Request) {
	c.c.shutdown()
	answer(w, http.StatusAccepted, map[string]string{})
}
