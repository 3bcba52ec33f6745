package rediscache

import (
	"strings"
	"time"

	"github.com/fairlead/fairlead/cache"
)

// A record in Redis is the 16 bytes of its ID, the number of its tags, each tag with its length before it, and the data. Numbers
// and lengths are one byte: a tag has at most 200 bytes, a value 64 tags.

// seal writes a record.
func seal(f cache.Fill) string {
	var b strings.Builder
	b.WriteString(f.Lease)
	b.WriteByte(byte(len(f.Tags)))
	for _, tag := range f.Tags {
		b.WriteByte(byte(len(tag)))
		b.WriteString(tag)
	}
	b.Write(f.Data)
	return b.String()
}

// record reads one. Whatever is not ours is none: a record without an end was never made.
func record(text string, left time.Duration) cache.Record {
	if len(text) <= idSize || left <= 0 {
		return cache.Record{}
	}
	r := cache.Record{ID: text[:idSize], Left: left}
	n, rest := int(text[idSize]), text[idSize+1:]
	for range n {
		if rest == "" || len(rest)-1 < int(rest[0]) {
			return cache.Record{ID: r.ID, Left: left, Stamp: noReading}
		}
		r.Tags, rest = append(r.Tags, rest[1:1+rest[0]]), rest[1+rest[0]:]
	}
	r.Data = []byte(rest)
	return r
}

// noReading is greater than any reading of a clock.
const noReading = "~"
