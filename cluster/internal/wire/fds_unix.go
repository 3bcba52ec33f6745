//go:build unix

package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// sendFDs writes a message of one chunk with descriptors beside it.
func sendFDs(c net.Conn, b []byte, fds []int) error {
	u, ok := c.(*net.UnixConn)
	if !ok || len(b) > maxChunk || len(fds) > MaxFDs {
		return fmt.Errorf("wire: a message of %d bytes cannot carry %d descriptors over %T", len(b), len(fds), c)
	}
	buf := append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
	_, _, err := u.WriteMsgUnix(buf, syscall.UnixRights(fds...), nil)
	return err
}

// receive reads, also the descriptors that come along.
func receive(r io.Reader, b []byte) (n int, fds []int, err error) {
	u, ok := r.(*net.UnixConn)
	if !ok {
		n, err = r.Read(b)
		return n, nil, err
	}
	oob := make([]byte, syscall.CmsgSpace(4*MaxFDs))
	n, oobn, _, _, err := u.ReadMsgUnix(b, oob)
	n = max(n, 0)
	if errors.Is(err, io.EOF) {
		err = io.EOF // bare, as Read returns it
	}
	if oobn <= 0 {
		return n, nil, err
	}
	messages, perr := syscall.ParseSocketControlMessage(oob[:oobn])
	for _, m := range messages {
		got, rerr := syscall.ParseUnixRights(&m)
		fds, perr = append(fds, got...), errors.Join(perr, rerr)
	}
	return n, fds, errors.Join(err, perr)
}
