package cluster

import (
	"sync"
)

const (
	keptLogBytes  = 512 << 10
	followerQueue = 4096 // lines
)

// logs keeps the latest lines of all workers and of the supervisor, and hands new ones to whoever follows. It is bounded:
// a follower that reads too slowly misses lines, which are counted.
type logs struct {
	mu        sync.Mutex
	lines     []logLine // oldest first
	bytes     int
	followers map[*follower]struct{}
	closed    bool
}

type logLine struct {
	slot int // -1: the supervisor's
	text []byte
}

type follower struct {
	lines   chan logLine
	dropped int // guarded by logs.mu
}

func newLogs() *logs { return &logs{followers: make(map[*follower]struct{})} }

// add takes a line, which must not change any more.
func (l *logs) add(slot int, text []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := logLine{slot, text}
	l.lines = append(l.lines, line)
	l.bytes += len(text)
	for l.bytes > keptLogBytes {
		l.bytes -= len(l.lines[0].text)
		l.lines[0].text = nil
		l.lines = l.lines[1:]
	}
	for f := range l.followers {
		select {
		case f.lines <- line:
		default:
			f.dropped++
		}
	}
}

// last are the latest n lines of a slot, or of all and the supervisor if it is negative. With follow, what comes after
// them arrives at the follower, whose channel is closed at the end.
func (l *logs) last(n, slot int, follow bool) ([]logLine, *follower) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []logLine
	for i := len(l.lines) - 1; i >= 0 && len(lines) < n; i-- {
		if slot < 0 || l.lines[i].slot == slot {
			lines = append(lines, l.lines[i])
		}
	}
	for i, j := 0, len(lines)-1; i < j; i, j = i+1, j-1 {
		lines[i], lines[j] = lines[j], lines[i]
	}
	if !follow {
		return lines, nil
	}
	f := &follower{lines: make(chan logLine, followerQueue)}
	if l.closed {
		close(f.lines)
	} else {
		l.followers[f] = struct{}{}
	}
	return lines, f
}

// missed is how many lines f has missed since it was asked last.
func (l *logs) missed(f *follower) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := f.dropped
	f.dropped = 0
	return n
}

func (l *logs) leave(f *follower) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.followers, f)
}

// close ends what followers get, after what they have been given.
func (l *logs) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for f := range l.followers {
		close(f.lines)
		delete(l.followers, f)
	}
}
