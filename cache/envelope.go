package cache

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"hash/fnv"
	"io"
	"reflect"
	"time"
)

// A record's data is an envelope: magic and version, the schema, the durations, the token the load ended at, the value, and
// a checksum over all of it. It holds durations and no times: what is left of them follows from how long the remote will
// keep the record, so that no two clocks need to agree.
//
//	offset 0   "FLc1"
//	       4   schema, 8 bytes
//	      12   fresh for, milliseconds, 8 bytes
//	      20   kept for, milliseconds, 8 bytes
//	      28   length of the token, 2 bytes; the token; the value
//	    last 4 CRC-32C
const envelopeMagic = "FLc1"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errEnvelope = errors.New("cache: not a record of this schema")

type envelope struct {
	schema      uint64
	fresh, kept time.Duration
	token       string
	value       []byte
}

func (e envelope) seal() []byte {
	if len(e.token) > 1<<16-1 {
		e.token = "" // cannot be: a token has at most 16 short positions
	}
	b := make([]byte, 0, 34+len(e.token)+len(e.value))
	b = append(b, envelopeMagic...)
	b = binary.BigEndian.AppendUint64(b, e.schema)
	b = binary.BigEndian.AppendUint64(b, uint64(e.fresh.Milliseconds()))
	b = binary.BigEndian.AppendUint64(b, uint64(e.kept.Milliseconds()))
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.token)))
	b = append(b, e.token...)
	b = append(b, e.value...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func openEnvelope(b []byte, schema uint64) (envelope, error) {
	const head = 30
	if len(b) < head+4 || string(b[:4]) != envelopeMagic {
		return envelope{}, errEnvelope
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	e := envelope{
		schema: binary.BigEndian.Uint64(b[4:]),
		fresh:  time.Duration(binary.BigEndian.Uint64(b[12:])) * time.Millisecond,
		kept:   time.Duration(binary.BigEndian.Uint64(b[20:])) * time.Millisecond,
	}
	n := int(binary.BigEndian.Uint16(b[28:]))
	if e.schema != schema || crc32.Checksum(body, castagnoli) != sum || len(body) < head+n || e.fresh < 0 || e.kept < e.fresh {
		return envelope{}, errEnvelope
	}
	e.token, e.value = string(body[head:head+n]), body[head+n:]
	return e, nil
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
