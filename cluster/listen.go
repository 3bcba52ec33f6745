package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/fairlead/fairlead/cluster/internal/sys"
)

// socket is one entry of Options.Listen, bound: one listener, or with ReusePort one a slot.
type socket struct {
	name string
	lns  []net.Listener
	path string // of a unix socket
}

// openSockets binds everything, or nothing and reports all that failed.
func openSockets(listen []Listen, slots int) ([]*socket, error) {
	var sockets []*socket
	var errs []error
	for _, l := range listen {
		s, err := openSocket(l, slots)
		if err != nil {
			errs = append(errs, fmt.Errorf("cluster: listener %q: %w", l.Name, err))
			continue
		}
		sockets = append(sockets, s)
	}
	if len(errs) > 0 {
		for _, s := range sockets {
			for _, ln := range s.lns {
				ln.Close()
			}
		}
		return nil, errors.Join(errs...)
	}
	return sockets, nil
}

func openSocket(l Listen, slots int) (*socket, error) {
	if path, ok := strings.CutPrefix(l.Addr, "unix:"); ok {
		ln, err := listenUnix(path)
		return &socket{name: l.Name, lns: []net.Listener{ln}, path: path}, err
	}
	plain, err := net.Listen("tcp", l.Addr)
	if err != nil {
		return nil, inUse(err, l.Addr)
	}
	if !l.ReusePort || !sys.CanReusePort || slots < 2 {
		return &socket{name: l.Name, lns: []net.Listener{plain}}, nil
	}
	// The plain bind has shown that the address is free: of two supervisors that bind it with SO_REUSEPORT both would
	// succeed and get half of the connections each.
	addr := plain.Addr().String()
	plain.Close()
	lc := net.ListenConfig{Control: sys.ReusePort}
	lc.SetMultipathTCP(false) // what steers connections between reuseport sockets does not work over it
	s := &socket{name: l.Name}
	for range slots {
		ln, err := lc.Listen(context.Background(), "tcp", addr)
		if err != nil {
			for _, ln := range s.lns {
				ln.Close()
			}
			return nil, inUse(err, addr)
		}
		s.lns = append(s.lns, ln)
	}
	return s, nil
}

func inUse(err error, addr string) error {
	if sys.IsAddrInUse(err) {
		return fmt.Errorf("%s is in use: is another instance of this service running? (%w)", addr, err)
	}
	return err
}

// listenUnix binds path, over the file that a process which has died may have left.
func listenUnix(path string) (net.Listener, error) {
	ln, err := net.Listen("unix", path)
	if err == nil || !sys.IsAddrInUse(err) {
		return ln, err
	}
	c, dialErr := net.Dial("unix", path)
	if dialErr == nil {
		c.Close()
		return nil, inUse(err, path)
	}
	if info, statErr := os.Lstat(path); !sys.IsRefused(dialErr) || statErr != nil || info.Mode().Type() != os.ModeSocket {
		return nil, err
	}
	os.Remove(path)
	return net.Listen("unix", path)
}
