package rediscache

import (
	"errors"
	"strconv"
	"strings"

	"github.com/fairlead/fairlead/cache"
)

// A message on the bus is the clock's reading, two words, and an invalidation: its sender, its token and its keys, each with
// its length before it, since a key may hold any bytes. A beacon has none.

var errMessage = errors.New("rediscache: malformed message")

// encode writes an invalidation; the script puts the reading before it.
func encode(inv cache.Invalidation) string {
	var b strings.Builder
	part := func(s string) {
		b.WriteString(strconv.Itoa(len(s)))
		b.WriteByte(':')
		b.WriteString(s)
	}
	part(inv.From)
	part(inv.Token)
	for _, key := range inv.Keys {
		part(key)
	}
	return b.String()
}

// decode reads a message.
func decode(message string) (cache.Event, error) {
	incarnation, rest, ok1 := strings.Cut(message, " ")
	number, rest, ok2 := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(number, 10, 64)
	if !ok1 || !ok2 || err != nil || incarnation == "" {
		return cache.Event{}, errMessage
	}
	var parts []string
	for rest != "" {
		length, after, ok := strings.Cut(rest, ":")
		size, err := strconv.ParseUint(length, 10, 32)
		if !ok || err != nil || size > uint64(len(after)) {
			return cache.Event{}, errMessage
		}
		parts, rest = append(parts, after[:size]), after[size:]
	}
	ev := cache.Event{Connected: true, Incarnation: incarnation, N: n}
	switch {
	case len(parts) == 0:
	case len(parts) < 3:
		return cache.Event{}, errMessage
	default:
		ev.Invalidation = cache.Invalidation{From: parts[0], Token: parts[1], Keys: parts[2:]}
	}
	return ev, nil
}
