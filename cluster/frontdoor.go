package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/fairlead/fairlead/cluster/internal/admin"
)

// frontDoor is the admin server and the control socket, which outlive the workers.
type frontDoor struct {
	adminLn, controlLn net.Listener
	servers            []*http.Server
	admin              *admin.Server
}

func openFrontDoor(o Options) (*frontDoor, error) {
	f := &frontDoor{}
	var errs []error
	var err error
	if o.Admin.Addr != "" {
		if f.adminLn, err = net.Listen("tcp", o.Admin.Addr); err != nil {
			f.adminLn = nil
			errs = append(errs, fmt.Errorf("cluster: Options.Admin.Addr: %w", inUse(err, o.Admin.Addr)))
		}
	}
	if o.Control != "" {
		if f.controlLn, err = openControl(o.Control); err != nil {
			f.controlLn = nil
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		f.close()
		return nil, errors.Join(errs...)
	}
	return f, nil
}

func (f *frontDoor) serve(o Options, c controlled) {
	if f.adminLn != nil {
		f.admin = admin.New(c, o.Admin.Auth)
		srv := &http.Server{
			Handler:           f.admin,
			ReadHeaderTimeout: 10 * time.Second,
			IdleTimeout:       2 * time.Minute,
		}
		go srv.Serve(f.adminLn)
		f.servers = append(f.servers, srv)
	}
	if f.controlLn != nil {
		f.servers = append(f.servers, serveControl(f.controlLn, c))
	}
}

// close lets answers that are under way finish, so that clusterctl learns how its operation ended.
func (f *frontDoor) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if f.admin != nil {
		f.admin.Close() // or the page's streams would hold the shutdown up
	}
	for _, srv := range f.servers {
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
	}
	for _, ln := range []net.Listener{f.adminLn, f.controlLn} {
		if ln != nil {
			ln.Close()
		}
	}
}
