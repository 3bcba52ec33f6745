package cache

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"hash/fnv"
	"io"
	"math"
	"reflect"
	"time"
)

// A record's data is an envelope: magic and version, flags, the schema, the durations, the reading of the clock that the load
// began after, the token it ended at, the value, and a checksum over all of it. It holds durations and no times: what is left
// of them follows from how long the remote will keep the record, so that no two clocks need to agree.
//
//	offset 0   "FLc2"
//	       4   flags: 1 if the value is compressed
//	       5   schema, 8 bytes
//	      13   fresh for, milliseconds, 8 bytes
//	      21   kept for, milliseconds, 8 bytes
//	      29   the load took, microseconds, 4 bytes
//	      33   length of the reading, 1 byte; the reading
//	           length of the token, 2 bytes; the token
//	           the value
//	    last 4 CRC-32C
const (
	envelopeMagic  = "FLc2"
	flagCompressed = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errEnvelope = errors.New("cache: not a record of this schema")

type envelope struct {
	schema      uint64
	fresh, kept time.Duration
	took        time.Duration
	heard       string
	token       string
	compressed  bool
	value       []byte
}

func (e envelope) seal() []byte {
	if len(e.token) > math.MaxUint16 || len(e.heard) > math.MaxUint8 {
		e.token, e.heard = "", "" // cannot be: a token has at most 16 short positions
	}
	flags := byte(0)
	if e.compressed {
		flags |= flagCompressed
	}
	b := make([]byte, 0, 40+len(e.heard)+len(e.token)+len(e.value))
	b = append(b, envelopeMagic...)
	b = append(b, flags)
	b = binary.BigEndian.AppendUint64(b, e.schema)
	b = binary.BigEndian.AppendUint64(b, uint64(e.fresh.Milliseconds()))
	b = binary.BigEndian.AppendUint64(b, uint64(e.kept.Milliseconds()))
	b = binary.BigEndian.AppendUint32(b, uint32(min(e.took.Microseconds(), math.MaxUint32)))
	b = append(b, byte(len(e.heard)))
	b = append(b, e.heard...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.token)))
	b = append(b, e.token...)
	b = append(b, e.value...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func openEnvelope(b []byte, schema uint64) (e envelope, err error) {
	const head = 34
	if len(b) < head+2+4 || string(b[:4]) != envelopeMagic || b[4]&^flagCompressed != 0 {
		return envelope{}, errEnvelope
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if binary.BigEndian.Uint64(b[5:]) != schema || crc32.Checksum(body, castagnoli) != sum {
		return envelope{}, errEnvelope
	}
	e = envelope{
		schema:     schema,
		compressed: b[4]&flagCompressed != 0,
		fresh:      milliseconds(b[13:]),
		kept:       milliseconds(b[21:]),
		took:       time.Duration(binary.BigEndian.Uint32(b[29:])) * time.Microsecond,
	}
	rest := body[head:]
	n := int(b[33])
	if len(rest) < n+2 || e.fresh < 0 || e.kept < e.fresh {
		return envelope{}, errEnvelope
	}
	e.heard, rest = string(rest[:n]), rest[n:]
	n, rest = int(binary.BigEndian.Uint16(rest)), rest[2:]
	if len(rest) < n {
		return envelope{}, errEnvelope
	}
	e.token, e.value = string(rest[:n]), rest[n:]
	return e, nil
}

// milliseconds reads a duration; one that no cache would write is negative.
func milliseconds(b []byte) time.Duration {
	ms := binary.BigEndian.Uint64(b)
	if ms > math.MaxInt64/uint64(time.Millisecond) {
		return -1
	}
	return time.Duration(ms) * time.Millisecond
}

// schemaOf digests what a value's bytes mean: the schema that the application names and the structure of the type, so that
// a deploy which changes a field never reads what was stored before it.
func schemaOf(name string, t reflect.Type) uint64 {
	h := fnv.New64a()
	io.WriteString(h, name)
	describe(h, t, map[reflect.Type]bool{})
	return h.Sum64()
}

func describe(w io.Writer, t reflect.Type, seen map[reflect.Type]bool) {
	io.WriteString(w, "\x00"+t.PkgPath()+"\x00"+t.String()+"\x00"+t.Kind().String())
	if seen[t] {
		return
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			io.WriteString(w, "\x00"+f.Name+"\x00"+string(f.Tag))
			describe(w, f.Type, seen)
		}
	case reflect.Map:
		describe(w, t.Key(), seen)
		describe(w, t.Elem(), seen)
	case reflect.Array, reflect.Slice, reflect.Pointer, reflect.Chan:
		describe(w, t.Elem(), seen)
	}
}
