package sqllex

import "strings"

type kind byte

const (
	end      kind = iota
	word          // a keyword or unquoted identifier, in lower case
	quoted        // a "quoted identifier", without its quotes
	literal       // a string, number or parameter; text is that of a plain string without quotes in it
	punct         // one byte of anything else
	doubtful      // a string whose extent depends on a setting of the session
	bad           // a comment, string or identifier without an end
)

type token struct {
	kind    kind
	text    string
	escaped bool // a quoted identifier with Unicode escapes
}

// lexer follows PostgreSQL's scan.l where it matters: what is inside quotes or comments, and where they end.
type lexer struct {
	src string
	pos int
}

func (l *lexer) next() token {
	if !l.skipBlanks() {
		return token{kind: bad}
	}
	if l.pos >= len(l.src) {
		return token{kind: end}
	}
	rest := l.src[l.pos:]
	c := rest[0]
	switch {
	case c == '\'':
		return l.str(1, false)
	case (c == 'e' || c == 'E') && strings.HasPrefix(rest[1:], "'"):
		return l.str(2, true)
	case (c == 'b' || c == 'B' || c == 'x' || c == 'X' || c == 'n' || c == 'N') && strings.HasPrefix(rest[1:], "'"):
		return l.str(2, false)
	case (c == 'u' || c == 'U') && strings.HasPrefix(rest[1:], "&'"):
		return l.str(3, false)
	case (c == 'u' || c == 'U') && strings.HasPrefix(rest[1:], `&"`):
		t := l.ident(3)
		t.escaped = true
		return t
	case c == '"':
		return l.ident(1)
	case c == '$':
		return l.dollar()
	case identStart(c):
		i := 1
		for i < len(rest) && identPart(rest[i]) {
			i++
		}
		l.pos += i
		return token{kind: word, text: lowerASCII(rest[:i])}
	case digit(c):
		return l.number()
	case c == 0:
		return token{kind: bad}
	}
	l.pos++
	return token{kind: punct, text: rest[:1]}
}

// skipBlanks passes blanks and comments; block comments nest.
func (l *lexer) skipBlanks() bool {
	for l.pos < len(l.src) {
		rest := l.src[l.pos:]
		switch {
		case strings.IndexByte(" \t\n\r\f\v", rest[0]) >= 0:
			l.pos++
		case strings.HasPrefix(rest, "--"):
			i := strings.IndexAny(rest, "\n\r")
			if i < 0 {
				l.pos = len(l.src)
				return true
			}
			l.pos += i + 1
		case strings.HasPrefix(rest, "/*"):
			depth, i := 1, 2
			for depth > 0 {
				switch {
				case i >= len(rest):
					return false
				case strings.HasPrefix(rest[i:], "/*"):
					depth++
					i += 2
				case strings.HasPrefix(rest[i:], "*/"):
					depth--
					i += 2
				default:
					i++
				}
			}
			l.pos += i
		default:
			return true
		}
	}
	return true
}

// str reads a string whose opening quote ends at offset open. One that follows on a later line, after nothing but blanks and
// line comments, continues it, under the rules of its beginning.
func (l *lexer) str(open int, escapes bool) token {
	rest := l.src[l.pos:]
	k := literal
	for i := open; i < len(rest); i++ {
		switch rest[i] {
		case '\\':
			if escapes {
				i++
			} else {
				k = doubtful // with standard_conforming_strings off it would escape the next byte
			}
		case '\'':
			if i+1 < len(rest) && rest[i+1] == '\'' {
				i++
				continue
			}
			if more := continued(rest[i+1:]); more > 0 {
				i += more
				continue
			}
			text := ""
			if open == 1 && k == literal && strings.IndexByte(rest[open:i], '\'') < 0 {
				text = rest[open:i]
			}
			l.pos += i + 1
			return token{kind: k, text: text}
		}
	}
	return token{kind: bad}
}

// continued returns how many bytes after a closing quote the string goes on, 0 if it does not.
func continued(rest string) int {
	newline := false
	for i := 0; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == '\n' || c == '\r':
			newline = true
		case strings.IndexByte(" \t\f\v", c) >= 0:
		case strings.HasPrefix(rest[i:], "--"):
			n := strings.IndexAny(rest[i:], "\n\r")
			if n < 0 {
				return 0
			}
			i += n - 1 // the line's end is next
		case c == '\'' && newline:
			return i + 1
		default:
			return 0
		}
	}
	return 0
}

func (l *lexer) ident(open int) token {
	rest := l.src[l.pos:]
	for i := open; i < len(rest); i++ {
		if rest[i] != '"' {
			continue
		}
		if i+1 < len(rest) && rest[i+1] == '"' {
			i++
			continue
		}
		l.pos += i + 1
		return token{kind: quoted, text: strings.ReplaceAll(rest[open:i], `""`, `"`)}
	}
	return token{kind: bad}
}

// dollar reads $1, or $tag$ … $tag$.
func (l *lexer) dollar() token {
	rest := l.src[l.pos:]
	i := 1
	if i < len(rest) && digit(rest[i]) {
		for i < len(rest) && digit(rest[i]) {
			i++
		}
		return l.endNumber(i)
	}
	for i < len(rest) && identPart(rest[i]) && rest[i] != '$' {
		i++
	}
	if i >= len(rest) || rest[i] != '$' {
		l.pos++
		return token{kind: punct, text: "$"}
	}
	tag := rest[:i+1]
	n := strings.Index(rest[len(tag):], tag)
	if n < 0 {
		return token{kind: bad}
	}
	l.pos += len(tag) + n + len(tag)
	return token{kind: literal}
}

// number reads an integer, decimal or exponent, or 0x1F, 0o17, 0b11; digits may be grouped by underscores.
func (l *lexer) number() token {
	rest := l.src[l.pos:]
	i := 0
	digits := func() {
		for i < len(rest) && (digit(rest[i]) || rest[i] == '_') {
			i++
		}
	}
	if len(rest) > 2 && rest[0] == '0' && strings.IndexByte("xXoObB", rest[1]) >= 0 {
		for i = 2; i < len(rest) && (digit(rest[i]) || strings.IndexByte("abcdefABCDEF_", rest[i]) >= 0); {
			i++
		}
		return l.endNumber(i)
	}
	digits()
	if i < len(rest) && rest[i] == '.' {
		i++
		digits()
	}
	if i < len(rest) && (rest[i] == 'e' || rest[i] == 'E') {
		j := i + 1
		if j < len(rest) && (rest[j] == '+' || rest[j] == '-') {
			j++
		}
		if j < len(rest) && digit(rest[j]) {
			i = j
			digits()
		}
	}
	return l.endNumber(i)
}

// endNumber ends a number or parameter of n bytes. PostgreSQL before 15 takes what follows without a blank for a word of its
// own (1for update), later ones refuse it.
func (l *lexer) endNumber(n int) token {
	l.pos += n
	if l.pos < len(l.src) && identPart(l.src[l.pos]) {
		return token{kind: doubtful}
	}
	return token{kind: literal}
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

func identStart(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c >= 0x80
}

func identPart(c byte) bool { return identStart(c) || digit(c) || c == '$' }

func lowerASCII(s string) string {
	for i := range len(s) {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				if 'A' <= b[j] && b[j] <= 'Z' {
					b[j] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
