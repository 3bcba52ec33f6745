//go:build !unix

package wire

import (
	"errors"
	"io"
	"net"
)

func sendFDs(net.Conn, []byte, []int) error { return errors.ErrUnsupported }

func receive(r io.Reader, b []byte) (int, []int, error) {
	n, err := r.Read(b)
	return n, nil, err
}
