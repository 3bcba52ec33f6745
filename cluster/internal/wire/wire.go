// Package wire is what a supervisor and its workers say to each other, and how it travels over a socket pair.
//
// A message is JSON, cut into chunks of at most 32 KB with a header of four bytes each: the chunk's length, and in the top
// bit whether more follow. A chunk is written at once and fits a packet, so the same reader works over SOCK_SEQPACKET
// (Linux), where no half chunk can arrive, and over a stream.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"

	"github.com/fairlead/fairlead/internal/telemetry"
)

// What a message asks or tells.
const (
	Ready   = "ready"   // worker: it serves
	Replace = "replace" // worker: somebody wants it replaced
	Update  = "frame"   // worker: Frame
	Drain   = "drain"   // supervisor: finish and exit
	Poll    = "poll"    // supervisor: send a frame that carries the same Poll
	Adopt   = "adopt"   // supervisor: accept for these Slots too, and for no others

	Profile  = "profile"  // supervisor: take a profile of this Kind, over so many Seconds
	Profiled = "profiled" // worker: Data of the same Request, or an Error
)

// Message is one message of either side.
type Message struct {
	Type     string `json:"type"`
	Poll     uint64 `json:"poll,omitempty"`     // Poll, and the Update that answers it
	Stopping bool   `json:"stopping,omitempty"` // Drain: the whole service stops, nobody takes over
	Slots    []int  `json:"slots,omitempty"`    // Adopt
	Frame    *Frame `json:"frame,omitempty"`    // Update

	Request uint64  `json:"request,omitempty"` // Profile, and the Profiled that answers it
	Kind    string  `json:"kind,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	Data    []byte  `json:"data,omitempty"`
	Error   string  `json:"error,omitempty"`
}

// Frame is what a worker tells of itself, cumulative since its start, so that a lost one does no harm.
type Frame struct {
	Goroutines int64              `json:"goroutines"`
	Heap       uint64             `json:"heap"`
	RSS        int64              `json:"rss"`
	Checks     []Check            `json:"checks,omitempty"`
	Samples    []telemetry.Sample `json:"samples,omitempty"`
}

// Check is the latest result of a named readiness check.
type Check struct {
	Name  string `json:"name"`
	Error string `json:"error,omitempty"` // "" means it passed
}

const (
	headerSize = 4
	maxChunk   = 32 << 10
	maxMessage = 64 << 20
	more       = 1 << 31
)

// ErrMalformed is returned for bytes that are not messages.
var ErrMalformed = errors.New("wire: malformed")

// Conn sends and receives messages. Send may be called concurrently, Receive by one goroutine.
type Conn struct {
	c   net.Conn
	wmu sync.Mutex
	r   reader
}

// NewConn returns a Conn over c, which it owns.
func NewConn(c net.Conn) *Conn { return &Conn{c: c, r: reader{r: c}} }

// Send writes m. It blocks while the other side does not read.
func (c *Conn) Send(m Message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("wire: %w", err)
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	return writeMessage(c.c, b)
}

// Receive returns the next message, or io.EOF when the other side has gone.
func (c *Conn) Receive() (Message, error) {
	b, err := c.r.next()
	if err != nil {
		return Message{}, err
	}
	var m Message
	if err := json.Unmarshal(b, &m); err != nil {
		return Message{}, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return m, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.c.Close() }

func writeMessage(w io.Writer, b []byte) error {
	buf := make([]byte, 0, headerSize+min(len(b), maxChunk))
	for {
		n := min(len(b), maxChunk)
		head := uint32(n)
		if n < len(b) {
			head |= more
		}
		buf = append(binary.BigEndian.AppendUint32(buf[:0], head), b[:n]...)
		if _, err := w.Write(buf); err != nil {
			return err
		}
		if b = b[n:]; len(b) == 0 {
			return nil
		}
	}
}

// reader puts messages together. It reads with a buffer that holds the largest packet.
type reader struct {
	r    io.Reader
	buf  [headerSize + maxChunk]byte
	have []byte // read and not yet used

	reset bool // seen once
}

func (r *reader) next() ([]byte, error) {
	var message []byte
	for {
		if err := r.fill(headerSize); err != nil {
			if err == io.EOF && (len(r.have) > 0 || message != nil) {
				return nil, io.ErrUnexpectedEOF
			}
			return nil, err
		}
		head := binary.BigEndian.Uint32(r.have)
		n := int(head &^ more)
		if n == 0 || n > maxChunk || len(message)+n > maxMessage {
			return nil, fmt.Errorf("%w: a chunk of %d bytes after %d", ErrMalformed, n, len(message))
		}
		if err := r.fill(headerSize + n); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		message = append(message, r.have[headerSize:headerSize+n]...)
		r.have = r.have[headerSize+n:]
		if head&more == 0 {
			return message, nil
		}
	}
}

// fill reads until at least n bytes are there.
func (r *reader) fill(n int) error {
	for len(r.have) < n {
		kept := copy(r.buf[:], r.have)
		got, err := r.r.Read(r.buf[kept:])
		r.have = r.buf[:kept+got]
		if got == 0 && errors.Is(err, syscall.ECONNRESET) && !r.reset {
			// The other side went without having read all of ours. What it sent before is still there.
			r.reset = true
			continue
		}
		if got == 0 && err != nil {
			return err
		}
	}
	return nil
}
