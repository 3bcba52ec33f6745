package testenv

import (
	"fmt"
	"net"
	"strconv"
	"sync"
)

// Ports are handed out in order from a range below the one that the kernel takes
// the ports of outgoing connections from.
const (
	firstPort = 20000
	lastPort  = 32000
)

var ports struct {
	sync.Mutex
	last int
}

// listen listens on a port of this process's own loopback address. On Linux
// nobody else uses that address, so the port can be closed and bound again later
// by a server that is told its number.
func listen() (net.Listener, error) {
	host := localHost()
	if host == "127.0.0.1" { // shared with everybody: only the kernel knows what is free
		return net.Listen("tcp", net.JoinHostPort(host, "0"))
	}
	ports.Lock()
	defer ports.Unlock()
	var errs error
	for range lastPort - firstPort {
		ports.last++
		if ports.last < firstPort || ports.last > lastPort {
			ports.last = firstPort
		}
		// Someone may listen on this port of all addresses.
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(ports.last)))
		if err == nil {
			return l, nil
		}
		errs = err
	}
	return nil, fmt.Errorf("testenv: no free port on %s: %w", host, errs)
}

// freePort returns the host and a port that a server may listen on.
func freePort() (host string, port int, err error) {
	l, err := listen()
	if err != nil {
		return "", 0, err
	}
	addr := l.Addr().(*net.TCPAddr)
	return addr.IP.String(), addr.Port, l.Close()
}
