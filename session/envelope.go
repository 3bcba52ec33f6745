package session

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"
)

const ringLen = 16 // operations that a record remembers

type kind byte

const (
	live    kind = iota + 1
	pending      // a successor, not valid while its predecessor is
	moved        // a pointer that the predecessor has become
	foreign      // in a format that this process does not know
)

// An envelope is a record's Value: what the manager keeps beside the application's value.
type envelope struct {
	format  byte // of data; the first byte of the record
	kind    kind
	ring    []uint64 // the last operations, one a version, newest last
	created time.Time
	causal  string
	link    []byte // pending: name of the predecessor; moved: the successor's token, sealed, or empty
	data    []byte // the application's value
}

// A snapshot is a record as loaded or stored, with its Value opened.
type snapshot struct {
	Record
	envelope
}

func (e envelope) encode() []byte {
	b := make([]byte, 0, 32+8*len(e.ring)+len(e.causal)+len(e.link)+len(e.data))
	b = append(b, e.format, byte(e.kind), byte(len(e.ring)))
	for _, op := range e.ring {
		b = binary.BigEndian.AppendUint64(b, op)
	}
	b = binary.AppendVarint(b, e.created.Unix())
	for _, part := range [][]byte{[]byte(e.causal), e.link} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	return append(b, e.data...)
}

var errDamaged = errors.New("the session's record is damaged")

func decodeEnvelope(b []byte, known func(format byte) bool) (envelope, error) {
	var e envelope
	if len(b) == 0 {
		return e, errDamaged
	}
	if e.format = b[0]; !known(e.format) {
		e.kind = foreign
		return e, nil
	}
	if len(b) < 3 || kind(b[1]) < live || kind(b[1]) > moved || b[2] > ringLen || len(b) < 3+8*int(b[2]) {
		return e, errDamaged
	}
	e.kind = kind(b[1])
	e.ring = make([]uint64, b[2])
	b = b[3:]
	for i := range e.ring {
		e.ring[i] = binary.BigEndian.Uint64(b)
		b = b[8:]
	}
	created, n := binary.Varint(b)
	if n <= 0 {
		return e, errDamaged
	}
	e.created, b = time.Unix(created, 0), b[n:]
	var parts [2][]byte
	for i := range parts {
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return e, errDamaged
		}
		parts[i], b = b[n:n+int(size):n+int(size)], b[n+int(size):]
	}
	e.causal, e.link, e.data = string(parts[0]), parts[1], b
	return e, nil
}

// after returns the ring with one operation more.
func (e envelope) after(op uint64) []uint64 {
	old := e.ring
	if len(old) == ringLen {
		old = old[1:]
	}
	return append(slices.Clip(slices.Clone(old)), op)
}

func (s *snapshot) applied(op uint64) bool { return slices.Contains(s.ring, op) }

// remembers says whether the ring names every operation since the given version, so that one it lacks was not applied.
func (s *snapshot) remembers(since int64) bool { return s.Version-since <= int64(len(s.ring)) }
