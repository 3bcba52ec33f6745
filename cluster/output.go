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
	lines   chan []byte
	queued  atomic.Int64 // bytes in lines
	dropped atomic.Uint64
	pumps   sync.WaitGroup
	done    chan struct{}
}

func newOutput(w io.Writer) *output {
	o := &output{w: w, lines: make(chan []byte, lineQueue), done: make(chan struct{})}
	go o.write()
	return o
}

func (o *output) write() {
	defer close(o.done)
	for line := range o.lines {
		if n := o.dropped.Swap(0); n > 0 {
			fmt.Fprintf(o.w, "cluster: %d lines of workers dropped: the reader of this stream is too slow\n", n)
		}
		o.w.Write(line)
		o.queued.Add(-int64(len(line)))
	}
}

func (o *output) add(line []byte) {
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
}

// pump reads a worker's stream to its end.
func (o *output) pump(slot int, r *os.File) {
	o.pumps.Go(func() {
		defer r.Close()
		br := bufio.NewReaderSize(r, maxLine)
		for {
			line, err := br.ReadSlice('\n')
			if len(line) > 0 {
				o.add(tagged(slot, line))
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
