package cluster

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
)

// passed is a socket that systemd has bound for this service (a .socket unit). nil is none.
type passed struct{ files []*os.File }

// passedSockets are the sockets from systemd by the names of listeners. A unit's FileDescriptorName is the listener's name;
// systemd's default is that of the unit, with ".socket". They are taken from the environment once.
func passedSockets(listen []Listen) (map[string]*passed, []error) {
	var errs []error
	byName := make(map[string]*passed)
	for _, f := range activation.Files(true) {
		name := strings.TrimSuffix(f.Name(), ".socket")
		if !slices.ContainsFunc(listen, func(l Listen) bool { return l.Name == name }) {
			// Closed, it would go on taking connections that nobody accepts.
			errs = append(errs, fmt.Errorf("cluster: systemd passes a socket %q, which no Options.Listen names: set FileDescriptorName= in its unit", f.Name()))
			f.Close()
			continue
		}
		if byName[name] == nil {
			byName[name] = &passed{}
		}
		byName[name].files = append(byName[name].files, f)
	}
	return byName, errs
}

// open makes a socket of what was passed for l. It is shared by all workers: one that was bound elsewhere has no siblings.
func (p *passed) open(l Listen) (*socket, error) {
	if p == nil {
		return nil, nil
	}
	defer func() {
		for _, f := range p.files {
			f.Close()
		}
	}()
	if n := len(p.files); n > 1 {
		return nil, fmt.Errorf("systemd passes %d sockets of that name: a listener is one", n)
	}
	if strings.HasPrefix(l.Addr, "udp:") {
		c, err := net.FilePacketConn(p.files[0])
		if err != nil {
			return nil, fmt.Errorf("systemd passes something else than a packet socket: %w", err)
		}
		return &socket{name: l.Name, packet: c}, nil
	}
	ln, err := net.FileListener(p.files[0])
	if err != nil {
		return nil, fmt.Errorf("systemd passes something else than a listening socket: %w", err)
	}
	return &socket{name: l.Name, lns: []net.Listener{ln}}, nil
}
