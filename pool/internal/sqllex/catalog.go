package sqllex

import "strings"

// Catalog is what a database knows about names that a statement may use. It is read-only once made, so safe for concurrent
// use; nil knows nothing.
type Catalog struct {
	pure     map[string]bool
	doubtful map[string]bool
}

// NewCatalog makes a catalog of a database's functions and views. pure are names of functions of which every overload is
// declared stable or immutable; volatile are names of which some overload outside of pg_catalog is not, or is a procedure or
// an aggregate. views maps the names of views to their definitions; those of one name in several schemas are separated by
// \x00. A view that is not proven to be a read itself makes its name doubtful.
func NewCatalog(pure, volatile []string, views map[string]string) *Catalog {
	c := &Catalog{pure: make(map[string]bool, len(pure)), doubtful: make(map[string]bool, len(volatile))}
	for _, name := range pure {
		c.pure[name] = true
	}
	for _, name := range volatile {
		c.doubtful[name] = true
	}
	for again := true; again; { // a view over a doubtful view is doubtful
		again = false
		for name, definitions := range views {
			if c.doubtful[name] {
				continue
			}
			for sql := range strings.SplitSeq(definitions, "\x00") {
				if !ClassifyKnowing(sql, c).Read {
					c.doubtful[name], again = true, true
					break
				}
			}
		}
	}
	return c
}

// maxName is where PostgreSQL cuts an identifier off.
const maxName = 63

// doubts says that an identifier may stand for something that writes.
func (c *Catalog) doubts(name string) bool {
	switch {
	case c == nil:
		return false
	case len(name) > maxName:
		return true
	case c.doubtful[name]:
		return true
	}
	// In an encoding of one byte a letter, PostgreSQL folds letters beyond ASCII too.
	return !ascii(name) && c.doubtful[strings.ToLower(name)]
}

// pureCall says that a call by this name, in whichever schema, is of a function that is known to be pure.
func (c *Catalog) pureCall(t token) bool {
	return c != nil && !t.escaped && c.pure[t.text] && (t.kind == quoted || ascii(t.text)) && !c.doubts(t.text)
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
