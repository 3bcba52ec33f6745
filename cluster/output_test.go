//go:build unix

package cluster

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestTagged(t *testing.T) {
	for in, want := range map[string]string{
		"plain\n":         "[3] plain\n",
		"no newline":      "[3] no newline\n",
		"\r\n":            "[3] \n",
		`{"a":1}` + "\n":  `{"slot":3,"a":1}` + "\n",
		"{}\n":            `{"slot":3}` + "\n",
		"{ }\n":           `{"slot":3}` + "\n",
		"{not json}\n":    "[3] {not json}\n",
		"{\n":             "[3] {\n",
		`{"a":1} {"b":2}`: `[3] {"a":1} {"b":2}` + "\n",
	} {
		if got := string(tagged(3, []byte(in))); got != want {
			t.Errorf("tagged(%q) = %q, want %q", in, got, want)
		}
	}
}

// gate is a stream whose reader does not read until it is opened.
type gate struct {
	open chan struct{}
	mu   sync.Mutex
	b    bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.Write(p)
}

func TestAReaderThatStandsStillBlocksNoWorkerAndIsTold(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	o := newOutput(g, new(sync.Mutex), newLogs())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	o.pump(0, r, nil)
	const lines = 3 * lineQueue
	for i := range lines { // would block for ever if the pump did
		fmt.Fprintf(w, "%d\n", i)
	}
	w.Close()
	o.pumps.Wait()
	close(g.open)
	o.add(0, []byte("last\n")) // the queue moves again, or this one is dropped: either way what is missing is told of
	o.close(time.Minute)
	out := g.b.String()
	whole := strings.Count(out, "\n")
	if !strings.Contains(out, "lines of workers dropped") || whole < lineQueue || !strings.Contains("\n"+out, "\n[0] 0\n") {
		t.Errorf("%d lines, dropping told of: %v", whole, strings.Contains(out, "dropped"))
	}
}

func TestTheQueueIsBoundedInBytesToo(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	o := newOutput(g, new(sync.Mutex), newLogs())
	line := []byte(strings.Repeat("x", maxLine-1) + "\n")
	const lines = 2 * byteQueue / maxLine // far fewer than lineQueue
	o.add(0, line)
	for end := time.Now().Add(time.Minute); len(o.lines) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nobody writes")
		}
	} // now the writer has the first line, and stands at the gate with it or with what it tells of dropped ones
	for range lines - 1 {
		o.add(0, line)
	}
	if n := o.queued.Load(); n > byteQueue {
		t.Errorf("%d bytes are queued", n)
	}
	if n := o.lost.Load(); n != lines/2 {
		t.Errorf("%d of %d lines dropped, want the half that does not fit", n, lines)
	}
	close(g.open)
	o.close(time.Minute)
	if n := o.queued.Load(); n != 0 {
		t.Errorf("%d bytes are queued for ever", n)
	}
}

func TestLongLinesAreCutAndNotHeld(t *testing.T) {
	var g gate
	g.open = make(chan struct{})
	close(g.open)
	o := newOutput(&g, new(sync.Mutex), newLogs())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	o.pump(1, r, nil)
	io.WriteString(w, strings.Repeat("x", maxLine+1)+"\n")
	w.Close()
	o.close(time.Minute)
	if want := "[1] " + strings.Repeat("x", maxLine) + "\n[1] x\n"; g.b.String() != want {
		t.Errorf("got %d bytes, want %d", g.b.Len(), len(want))
	}
}
