//go:build unix

package cluster

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxLine   = 64 << 10 // a longer one is cut in pieces
	lineQueue = 4096
	byteQueue = 4 << 20
)

// output puts the lines of all workers onto one stream, whole. Its queue is bounded, in lines and in bytes: when whoever reads the stream is too
// slow, lines are dropped and counted, and no worker blocks.
type output struct {
	w       io.Writer
	whole   *sync.Mutex // held while a line is written; outputs onto one stream share it
	logs    *logs
	lines   chan []byte
	queued  atomic.Int64  // bytes in lines
	dropped atomic.Uint64 // and not told of yet
	lost    atomic.Uint64 // ever
	pumps   sync.WaitGroup
	done    chan struct{}
}

func newOutput(w io.Writer, whole *sync.Mutex, l *logs) *output {
	o := &output{w: w, whole: whole, logs: l, lines: make(chan []byte, lineQueue), done: make(chan struct{})}
	go o.write()
	return o
}

func (o *output) write() {
	defer close(o.done)
	for line := range o.lines {
		o.tellOfDropped()
		o.writeWhole(line)
		o.queued.Add(-int64(len(line)))
	}
	o.tellOfDropped()
}

// writeWhole: a write of more than a pipe takes at once is not atomic.
func (o *output) writeWhole(line []byte) {
	o.whole.Lock()
	defer o.whole.Unlock()
	o.w.Write(line)
}

func (o *output) tellOfDropped() {
	if n := o.dropped.Swap(0); n > 0 {
		o.writeWhole(fmt.Appendf(nil, "cluster: %d lines of workers dropped: the reader of this stream is too slow\n", n))
	}
}

func (o *output) add(slot int, line []byte) {
	o.logs.add(slot, line)
	n := int64(len(line))
	if o.queued.Add(n) <= byteQueue {
		select {
		case o.lines <- line:
			return
		default:
		}
	}
	o.queued.Add(-n)
	o.dropped.Add(1)
	o.lost.Add(1)
}

// pump reads a worker's stream to its end. Each line goes to words too, if that is not nil.
func (o *output) pump(slot int, r *os.File, words *lastWords) {
	o.pumps.Go(func() {
		defer r.Close()
		if words != nil {
			defer words.end()
		}
		br := bufio.NewReaderSize(r, maxLine)
		for {
			line, err := br.ReadSlice('\n')
			if len(line) > 0 {
				if words != nil {
					words.line(line)
				}
				o.add(slot, tagged(slot, line))
			}
			if err != nil && err != bufio.ErrBufferFull {
				return
			}
		}
	})
}

// tagged is line with its slot: a member of it if it is a JSON object, else before it.
func tagged(slot int, line []byte) []byte {
	line = bytes.TrimRight(line, "\r\n")
	if len(line) > 1 && line[0] == '{' && json.Valid(line) {
		rest := line[1:]
		if bytes.TrimLeft(rest, " \t")[0] == '}' {
			return fmt.Appendf(nil, "{\"slot\":%d}\n", slot)
		}
		return fmt.Appendf(nil, "{\"slot\":%d,%s\n", slot, rest)
	}
	return fmt.Appendf(nil, "[%d] %s\n", slot, line)
}

// close writes out what is there, for a limited time: a grandchild may hold a worker's stream open, and the reader of
// ours may have stopped reading.
func (o *output) close(limit time.Duration) {
	timeout := time.After(limit)
	pumped := make(chan struct{})
	go func() {
		o.pumps.Wait()
		close(pumped)
	}()
	select {
	case <-pumped:
		close(o.lines)
	case <-timeout:
		return
	}
	select {
	case <-o.done:
	case <-timeout:
	}
}

// newOutputs are the outputs onto the supervisor's standard streams, which may be one.
func newOutputs(stdout, stderr *os.File, l *logs) (*output, *output) {
	out, err := new(sync.Mutex), new(sync.Mutex)
	a, errA := stdout.Stat()
	b, errB := stderr.Stat()
	if errA == nil && errB == nil && os.SameFile(a, b) {
		err = out
	}
	return newOutput(stdout, out, l), newOutput(stderr, err, l)
}
