//go:build unix

package cluster

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestLastWords(t *testing.T) {
	crash, err := os.Create(t.TempDir() + "/crash")
	if err != nil {
		t.Fatal(err)
	}
	crash.WriteString("panic: in the file\n\n" + strings.Repeat("x", 2*crashKept))
	l := newLastWords(crash)
	l.line([]byte("panic: recovered long ago\n"))
	for i := range 10000 {
		l.line(fmt.Appendf(nil, "line %d\n", i))
	}
	l.line([]byte("fatal error: the one that counts\n"))
	for i := range 10000 {
		l.line(fmt.Appendf(nil, "goroutine %d\n", i))
	}
	if len(l.tail) > 2*wordsKept || len(l.marked) > wordsKept {
		t.Errorf("holds %d and %d bytes", len(l.tail), len(l.marked))
	}
	l.end()
	e := exit{}
	l.tell(&e)
	if e.Reason != "panic: in the file" || len(e.Crash) != crashKept {
		t.Errorf("crash: %q, %d bytes", e.Reason, len(e.Crash))
	}
	if !strings.HasPrefix(e.Stderr, "fatal error: the one that counts\ngoroutine 0\n") || len(e.Stderr) != wordsKept {
		t.Errorf("stderr: %.60q, %d bytes", e.Stderr, len(e.Stderr))
	}
	if !strings.HasSuffix(e.Tail, "goroutine 9999\n") || len(e.Tail) != wordsKept {
		t.Errorf("tail: %d bytes", len(e.Tail))
	}
}

func TestAWorkerThatEndsWellHasNoLastWords(t *testing.T) {
	l := newLastWords(nil)
	l.line([]byte("panic: recovered long ago\n"))
	l.end()
	e := exit{OK: true}
	l.tell(&e)
	if e != (exit{OK: true}) {
		t.Errorf("got %+v", e)
	}
}

func TestTheLatestExitsOfEachSlotAreKept(t *testing.T) {
	var x exits
	for i := range 100 {
		x.add(exit{Slot: i % 2, PID: i})
	}
	if got := x.of(1); len(got) != keptExits || got[0].PID != 93 || got[keptExits-1].PID != 99 {
		t.Errorf("got %+v", got)
	}
	if got := x.of(-1); len(got) != 2*keptExits {
		t.Errorf("%d in all", len(got))
	}
}

func TestLogsAreBoundedAndFollowersToldWhatTheyMiss(t *testing.T) {
	l := newLogs()
	_, slow := l.last(0, -1, true)
	line := []byte(strings.Repeat("x", 99) + "\n")
	const n = followerQueue + 5000
	for range n {
		l.add(1, line)
	}
	if l.bytes > keptLogBytes || len(l.lines) != keptLogBytes/len(line) {
		t.Errorf("%d lines, %d bytes", len(l.lines), l.bytes)
	}
	if missed := l.missed(slow); missed != n-followerQueue || l.missed(slow) != 0 {
		t.Errorf("missed %d", missed)
	}
	l.add(0, []byte("a\n"))
	l.add(-1, []byte("b\n"))
	l.add(0, []byte("c\n"))
	lines, _ := l.last(2, 0, false)
	if len(lines) != 2 || string(lines[0].text)+string(lines[1].text) != "a\nc\n" {
		t.Errorf("the last two of slot 0: %v", lines)
	}
	l.close()
	for range slow.lines { // has an end
	}
	if _, late := l.last(0, -1, true); late != nil {
		for range late.lines {
		}
	}
}
