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
	"slices"
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
	Adopt   = "adopt"   // supervisor: accept for these Slots too, and for no others; FDs are their sockets
	Beat    = "beat"    // worker: it lives; Error is why the app says that it does not work
	Share   = "share"   // supervisor: so many Workers share the machine, of whose memory Memory is for each

	Profile  = "profile"  // supervisor: take a profile of this Kind, over so many Seconds
	Profiled = "profiled" // worker: Data of the same Request, or an Error
)

// Message is one message of either side.
type Message struct {
	Type     string   `json:"type"`
	Poll     uint64   `json:"poll,omitempty"`     // Poll, and the Update that answers it
	Stopping bool     `json:"stopping,omitempty"` // Drain: the whole service stops, nobody takes over
	Slots    []int    `json:"slots,omitempty"`    // Adopt: the slot of each of FDs
	Names    []string `json:"names,omitempty"`    // Adopt: the listener of each of FDs
	Workers  int      `json:"workers,omitempty"`  // Share
	Memory   int64    `json:"memory,omitempty"`   // Share: bytes, 0 means no limit
	Frame    *Frame   `json:"frame,omitempty"`    // Update

	Request uint64  `json:"request,omitempty"` // Profile, and the Profiled that answers it
	Kind    string  `json:"kind,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	Data    []byte  `json:"data,omitempty"`
	Error   string  `json:"error,omitempty"`

	// FDs travel beside a message that fits one chunk. The sender keeps its own; the receiver gets new ones.
	FDs []int `json:"-"`
}

// MaxFDs is how many descriptors a message may carry.
const MaxFDs = 250

// Frame is what a worker tells of itself, cumulative since its start, so that a lost one does no harm.
type Frame struct {
	Goroutines int64              `json:"goroutines"`
	Heap       uint64             `json:"heap"`
	RSS        int64              `json:"rss"`
	CPU        float64            `json:"cpu,omitempty"`   // processors in use, over about a second
	Sched      float64            `json:"sched,omitempty"` // seconds, p99 of the wait for a processor over the same
	RPS        float64            `json:"rps,omitempty"`   // requests a second over the same
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

// Net is the connection beneath c.
func (c *Conn) Net() net.Conn { return c.c }

// Partial is what has been received of a message that has not arrived whole.
type Partial struct {
	Message []byte `json:"message,omitempty"`
	Have    []byte `json:"have,omitempty"`
}

// Partial may be called after a Receive that a deadline has ended. A Conn over the same socket goes on with it.
func (c *Conn) Partial() Partial {
	return Partial{slices.Clone(c.r.message), slices.Clone(c.r.have)}
}

// Continue returns a Conn over net, of which p has been received before.
func Continue(net net.Conn, p Partial) *Conn {
	c := NewConn(net)
	c.r.message = p.Message
	c.r.have = c.r.buf[:copy(c.r.buf[:], p.Have)]
	return c
}

// Send writes m. It blocks while the other side does not read.
func (c *Conn) Send(m Message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("wire: %w", err)
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if len(m.FDs) > 0 {
		return sendFDs(c.c, b, m.FDs)
	}
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
	m.FDs, c.r.fds = c.r.fds, nil
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

	message []byte // whose end is still to come
	fds     []int  // that have come with it

	reset bool // seen once
}

func (r *reader) next() ([]byte, error) {
	for {
		if err := r.fill(headerSize); err != nil {
			if err == io.EOF && (len(r.have) > 0 || r.message != nil) {
				return nil, io.ErrUnexpectedEOF
			}
			return nil, err
		}
		head := binary.BigEndian.Uint32(r.have)
		n := int(head &^ more)
		if n == 0 || n > maxChunk || len(r.message)+n > maxMessage {
			return nil, fmt.Errorf("%w: a chunk of %d bytes after %d", ErrMalformed, n, len(r.message))
		}
		if err := r.fill(headerSize + n); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		r.message = append(r.message, r.have[headerSize:headerSize+n]...)
		r.have = r.have[headerSize+n:]
		if head&more == 0 {
			message := r.message
			r.message = nil
			return message, nil
		}
	}
}

// fill reads until at least n bytes are there.
func (r *reader) fill(n int) error {
	for len(r.have) < n {
		kept := copy(r.buf[:], r.have)
		got, fds, err := receive(r.r, r.buf[kept:])
		r.fds = append(r.fds, fds...)
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
