package causal

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrMalformed says that a token, or its seal, is not one that this package made.
var ErrMalformed = errors.New("causal: malformed token")

const (
	maxTags = 16 // a token with more says "everything" instead
	maxText = 64 // bytes of a tag, and of a position

	// distrust is how long a scope that cannot name its position demands the authority: longer than the staleness that
	// pool allows a replica by default.
	distrust = 10 * time.Second
)

// A set maps tags to positions, the greatest one wins. It is the parsed form of a token.
type set struct {
	entries []entry // sorted by tag
	// all is the entry "*": until this unix second only the authority will do; 0 is none. It is the one entry that is read
	// by the wall clock of the process that meets it: see the package comment.
	all int64
}

type entry struct{ tag, position string }

// raise keeps the greater position and says whether s changed.
func (s *set) raise(tag, position string) bool {
	i, found := slices.BinarySearchFunc(s.entries, tag, func(e entry, tag string) int { return strings.Compare(e.tag, tag) })
	switch {
	case found && s.entries[i].position >= position:
		return false
	case found:
		s.entries[i].position = position
	case len(s.entries) == maxTags:
		return s.raiseAll(time.Now().Add(distrust))
	default:
		s.entries = slices.Insert(s.entries, i, entry{tag, position})
	}
	return true
}

func (s *set) raiseAll(until time.Time) bool {
	u := until.Unix() + 1 // whole seconds, rounded up
	if u <= s.all {
		return false
	}
	s.all = u
	return true
}

func (s *set) merge(o set) (changed bool) {
	for _, e := range o.entries {
		changed = s.raise(e.tag, e.position) || changed
	}
	if o.all > s.all {
		s.all, changed = o.all, true
	}
	return changed
}

func (s *set) at(tag string) string {
	i, found := slices.BinarySearchFunc(s.entries, tag, func(e entry, tag string) int { return strings.Compare(e.tag, tag) })
	if !found {
		return ""
	}
	return s.entries[i].position
}

func (s *set) empty() bool { return len(s.entries) == 0 && s.all == 0 }

func (s *set) distrusts() bool { return s.all != 0 && time.Now().Unix() < s.all }

func (s *set) clone() set { return set{slices.Clone(s.entries), s.all} }

// String is the token: "tag=position" pairs in the order of their tags, then "*=<unix second>" while that stands.
func (s *set) String() string {
	var b strings.Builder
	for _, e := range s.entries {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(e.tag)
		b.WriteByte('=')
		b.WriteString(e.position)
	}
	if s.distrusts() {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString("*=")
		b.WriteString(strconv.FormatInt(s.all, 10))
	}
	return b.String()
}

func parse(token string) (set, error) {
	var s set
	if token == "" {
		return s, nil
	}
	for part := range strings.SplitSeq(token, ",") {
		tag, position, ok := strings.Cut(part, "=")
		switch {
		case !ok:
			return set{}, fmt.Errorf("%w: %q is not tag=position", ErrMalformed, clip(part))
		case tag == "*":
			until, err := strconv.ParseInt(position, 10, 64)
			if err != nil || until <= 0 || strconv.FormatInt(until, 10) != position {
				return set{}, fmt.Errorf("%w: *=%q is not a unix second", ErrMalformed, clip(position))
			}
			// Nobody may demand the authority for longer than this package ever would.
			s.all = max(s.all, min(until, time.Now().Add(distrust).Unix()+1))
		case !wellFormed(tag) || !wellFormed(position):
			return set{}, fmt.Errorf("%w: %q is not tag=position", ErrMalformed, clip(part))
		case len(s.entries) > 0 && s.entries[len(s.entries)-1].tag >= tag:
			return set{}, fmt.Errorf("%w: tags are not in order", ErrMalformed)
		case len(s.entries) == maxTags:
			return set{}, fmt.Errorf("%w: more than %d tags", ErrMalformed, maxTags)
		default:
			s.entries = append(s.entries, entry{tag, position})
		}
	}
	return s, nil
}

// wellFormed accepts letters, digits and ":._-", which mean nothing in a token, a cookie or a header.
func wellFormed(s string) bool {
	if s == "" || len(s) > maxText {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == ':', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// Merge returns the token that demands what each of tokens does.
func Merge(tokens ...string) (string, error) {
	var all set
	for _, t := range tokens {
		s, err := parse(t)
		if err != nil {
			return "", err
		}
		all.merge(s)
	}
	return all.String(), nil
}
