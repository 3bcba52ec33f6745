package rediscache

import (
	"errors"
	"strconv"
	"strings"

	"github.com/fairlead/fairlead/cache"
)

// A message on the bus is the clock's reading, two words, and an invalidation: its sender, its token and what it is about, each
// with its length before it, since a key may hold any bytes. What it is about begins with k for a key, t for a tag and is * for
// everything. A beacon has no invalidation.

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
		part("k" + key)
	}
	for _, tag := range inv.Tags {
		part("t" + tag)
	}
	if inv.All {
		part("*")
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
		ev.Invalidation = cache.Invalidation{From: parts[0], Token: parts[1]}
		for _, p := range parts[2:] {
			switch {
			case p == "*":
				ev.Invalidation.All = true
			case p != "" && p[0] == 'k':
				ev.Invalidation.Keys = append(ev.Invalidation.Keys, p[1:])
			case p != "" && p[0] == 't':
				ev.Invalidation.Tags = append(ev.Invalidation.Tags, p[1:])
			default:
				return cache.Event{}, errMessage
			}
		}
	}
	return ev, nil
}
