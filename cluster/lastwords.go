//go:build unix

package cluster

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/fairlead/fairlead/cluster/internal/sys"
)

const (
	crashKept = 64 << 10
	wordsKept = 16 << 10 // of standard error, from where it tells of a crash, and at its end

	lastWordsWait = time.Second // a grandchild may hold a worker's stream open
)

// lastWords is what a worker says as it dies: what the runtime writes into a file of the supervisor's, and the end of its
// standard error. A dump of thousands of goroutines is megabytes, and its end lacks the reason.
type lastWords struct {
	crash  *os.File // nil: none
	marked []byte
	from   bool // a mark has been seen
	tail   []byte
	ended  chan struct{} // closed when standard error has
}

func newLastWords(crash *os.File) *lastWords {
	return &lastWords{crash: crash, ended: make(chan struct{})}
}

var crashMarks = [][]byte{[]byte("panic: "), []byte("fatal error: "), []byte("SIGQUIT: ")}

// line takes a line, or a piece of one, of standard error. Nobody else may use marked and tail before ended.
func (l *lastWords) line(b []byte) {
	for _, mark := range crashMarks {
		if bytes.HasPrefix(b, mark) {
			l.from, l.marked = true, nil // the last one is what it dies of
		}
	}
	if room := wordsKept - len(l.marked); l.from && room > 0 {
		l.marked = append(l.marked, b[:min(room, len(b))]...)
	}
	l.tail = append(l.tail, b...)
	if over := len(l.tail) - wordsKept; over > wordsKept {
		l.tail = append(l.tail[:0], l.tail[over:]...)
	}
}

func (l *lastWords) end() { close(l.ended) }

// tell waits for the rest of standard error, but not for long, and puts all into e.
func (l *lastWords) tell(e *exit) {
	select {
	case <-l.ended:
		if !e.OK {
			e.Stderr, e.Tail = string(l.marked), string(l.tail[max(0, len(l.tail)-wordsKept):])
		}
	case <-time.After(lastWordsWait):
	}
	if l.crash == nil {
		return
	}
	defer l.crash.Close()
	if e.OK {
		return
	}
	b := make([]byte, crashKept)
	n, err := l.crash.ReadAt(b, 0)
	if err == nil || errors.Is(err, io.EOF) {
		e.Crash = string(b[:n])
	}
	e.Reason = firstLine(e.Crash)
	if e.Reason == "" {
		e.Reason = firstLine(e.Stderr)
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return strings.ToValidUTF8(line[:min(len(line), 500)], "?")
}

// leaveLastWords has the runtime of this process, a worker, write what it says of a crash into a file of the supervisor.
func leaveLastWords(fd int) {
	f := os.NewFile(uintptr(fd), "crash")
	debug.SetCrashOutput(f, debug.CrashOptions{}) // it has a descriptor of its own
	f.Close()
}

// crashFile is nil where none can be made: the last words are then those on standard error.
func crashFile() *os.File {
	f, err := sys.CrashFile()
	if err != nil {
		return nil
	}
	return f
}
