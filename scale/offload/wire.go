package offload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// A lane and its processes speak in frames: length of the rest (4 bytes), kind (1), number of the call (4), payload.
// A process is not trusted: what it sends must do no more than give an error.

type kind byte

// From the lane.
const (
	kindRun    kind = 'R' // timeout in ns (8 bytes, 0 is none), length of the name (2), name, argument
	kindCancel kind = 'C'
)

// From the process.
const (
	kindValue    kind = 'V' // the result
	kindError    kind = 'E' // text
	kindDeadline kind = 'D' // text, of an error that is context.DeadlineExceeded
	kindCanceled kind = 'X' // text, of one that is context.Canceled
	kindPanic    kind = 'P' // length of the text (4), text, stack
	kindGoexit   kind = 'G'
)

type frame struct {
	kind    kind
	call    uint32
	payload []byte
}

const (
	frameHead = 5 // kind and call
	maxFrame  = 1 << 30
)

var errFrame = errors.New("offload: malformed frame")

func (f frame) write(w io.Writer) error {
	if len(f.payload) > maxFrame-frameHead {
		return fmt.Errorf("offload: %d bytes are too many for a process: want at most 1 GiB", len(f.payload))
	}
	b := make([]byte, 0, 4+frameHead+len(f.payload))
	b = binary.BigEndian.AppendUint32(b, uint32(frameHead+len(f.payload)))
	b = append(b, byte(f.kind))
	b = binary.BigEndian.AppendUint32(b, f.call)
	_, err := w.Write(append(b, f.payload...))
	return err
}

// readFrame takes no more memory than what comes in, whatever length is announced.
func readFrame(r io.Reader) (frame, error) {
	var head [4 + frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < frameHead || n > maxFrame {
		return frame{}, fmt.Errorf("%w: length %d", errFrame, n)
	}
	f := frame{kind: kind(head[4]), call: binary.BigEndian.Uint32(head[5:])}
	var b bytes.Buffer
	if n <= 1<<16 {
		b.Grow(int(n))
	}
	if _, err := io.CopyN(&b, r, int64(n-frameHead)); err != nil {
		return frame{}, fmt.Errorf("%w: %w", errFrame, io.ErrUnexpectedEOF)
	}
	f.payload = b.Bytes()
	return f, nil
}

func runPayload(timeout time.Duration, name string, argument []byte) []byte {
	b := make([]byte, 0, 10+len(name)+len(argument))
	b = binary.BigEndian.AppendUint64(b, uint64(max(0, timeout)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(name)))
	return append(append(b, name...), argument...)
}

func parseRun(p []byte) (timeout time.Duration, name string, argument []byte, err error) {
	if len(p) < 10 {
		return 0, "", nil, errFrame
	}
	timeout = time.Duration(binary.BigEndian.Uint64(p))
	n := int(binary.BigEndian.Uint16(p[8:]))
	if p = p[10:]; len(p) < n || timeout < 0 {
		return 0, "", nil, errFrame
	}
	return timeout, string(p[:n]), p[n:], nil
}

func panicPayload(text string, stack []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(text)))
	return append(append(b, text...), stack...)
}

func parsePanic(p []byte) (*PanicError, error) {
	if len(p) < 4 {
		return nil, errFrame
	}
	n := binary.BigEndian.Uint32(p)
	if p = p[4:]; uint64(n) > uint64(len(p)) {
		return nil, errFrame
	}
	return &PanicError{Value: string(p[:n]), Stack: p[n:]}, nil
}
