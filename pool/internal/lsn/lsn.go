// Package lsn holds positions in a PostgreSQL system's write-ahead log.
package lsn

import (
	"fmt"
	"strconv"
	"strings"
)

// Position is a place in the log: the timeline and the byte offset on it.
type Position struct {
	Timeline uint32
	LSN      uint64
}

// IsZero says that p is no position.
func (p Position) IsZero() bool { return p == Position{} }

// Reaches says that a server which has replayed up to p has replayed q too, provided that q is on p's history: both the
// timeline and the offset have to be at least q's. An offset alone proves nothing, because another timeline's log has other
// contents at it; a later timeline alone proves nothing, because its server may still be before the fork.
func (p Position) Reaches(q Position) bool { return p.Timeline >= q.Timeline && p.LSN >= q.LSN }

const width = 8 + 1 + 16

// String is "TTTTTTTT:LLLLLLLLLLLLLLLL" in hexadecimal: of fixed width, so that positions sort as strings.
func (p Position) String() string {
	const digits = "0123456789ABCDEF"
	var b [width]byte
	t, l := p.Timeline, p.LSN
	for i := 7; i >= 0; i-- {
		b[i] = digits[t&15]
		t >>= 4
	}
	b[8] = ':'
	for i := width - 1; i > 8; i-- {
		b[i] = digits[l&15]
		l >>= 4
	}
	return string(b[:])
}

// Parse reads what String wrote.
func Parse(s string) (Position, error) {
	if len(s) != width || s[8] != ':' {
		return Position{}, fmt.Errorf("lsn: %q is not a position", s)
	}
	t, err := strconv.ParseUint(s[:8], 16, 32)
	if err != nil {
		return Position{}, fmt.Errorf("lsn: %q is not a position", s)
	}
	l, err := strconv.ParseUint(s[9:], 16, 64)
	if err != nil {
		return Position{}, fmt.Errorf("lsn: %q is not a position", s)
	}
	if p := (Position{uint32(t), l}); p.String() == s {
		return p, nil
	}
	return Position{}, fmt.Errorf("lsn: %q is not a position", s) // lower case: the same place must be one string
}

// ParsePG reads PostgreSQL's pg_lsn text, "16/B374D848".
func ParsePG(s string) (uint64, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok {
		return 0, fmt.Errorf("lsn: %q is not a pg_lsn", s)
	}
	h, err := strconv.ParseUint(hi, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("lsn: %q is not a pg_lsn", s)
	}
	l, err := strconv.ParseUint(lo, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("lsn: %q is not a pg_lsn", s)
	}
	return h<<32 | l, nil
}

// FormatPG is PostgreSQL's text of an offset.
func FormatPG(l uint64) string { return fmt.Sprintf("%X/%X", l>>32, uint32(l)) }

// ParseHistory reads a timeline history file: for each earlier timeline the offset at which the history left it, so what
// lies at or below it survived.
func ParseHistory(content string) (map[uint32]uint64, error) {
	forks := make(map[uint32]uint64)
	for line := range strings.Lines(content) {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if len(f) < 2 {
			return nil, fmt.Errorf("lsn: history line %q", line)
		}
		t, err := strconv.ParseUint(f[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("lsn: history line %q", line)
		}
		if forks[uint32(t)], err = ParsePG(f[1]); err != nil {
			return nil, err
		}
	}
	return forks, nil
}
