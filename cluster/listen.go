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

// socket is one entry of Options.Listen, bound: a packet socket, one listener, or with ReusePort one a slot.
type socket struct {
	name   string
	lns    []net.Listener
	packet net.PacketConn
	path   string // of a unix socket whose file is ours
	shared string // the address of sockets with SO_REUSEPORT, of which there may be more
}

func (s *socket) close() {
	for _, ln := range s.lns {
		ln.Close()
	}
	if s.packet != nil {
		s.packet.Close()
	}
}

// openSockets binds everything, or nothing and reports all that failed; 0 slots is this process alone. What systemd has bound already is taken over.
func openSockets(listen []Listen, slots int) ([]*socket, error) {
	var sockets []*socket
	passed, errs := passedSockets(listen)
	for _, l := range listen {
		s, err := passed[l.Name].open(l)
		if s == nil && err == nil {
			s, err = openSocket(l, slots)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cluster: listener %q: %w", l.Name, err))
			continue
		}
		sockets = append(sockets, s)
	}
	if len(errs) > 0 {
		for _, s := range sockets {
			s.close()
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
	if addr, ok := strings.CutPrefix(l.Addr, "udp:"); ok {
		c, err := net.ListenPacket("udp", addr)
		if err != nil {
			return nil, inUse(err, addr)
		}
		return &socket{name: l.Name, packet: c}, nil
	}
	plain, err := net.Listen("tcp", l.Addr)
	if err != nil {
		return nil, inUse(err, l.Addr)
	}
	if !l.ReusePort || !sys.CanReusePort || slots == 0 {
		return &socket{name: l.Name, lns: []net.Listener{plain}}, nil
	}
	// The plain bind has shown that the address is free: of two supervisors that bind it with SO_REUSEPORT both would
	// succeed and get half of the connections each.
	addr := plain.Addr().String()
	plain.Close()
	s := &socket{name: l.Name, shared: addr}
	for range slots {
		ln, err := listenShared(addr)
		if err != nil {
			s.close()
			return nil, inUse(err, addr)
		}
		s.lns = append(s.lns, ln)
	}
	return s, nil
}

// listenShared opens one more of the sockets that share addr.
func listenShared(addr string) (net.Listener, error) {
	lc := net.ListenConfig{Control: sys.ReusePort}
	lc.SetMultipathTCP(false) // what steers connections between such sockets does not work over it
	return lc.Listen(context.Background(), "tcp", addr)
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
