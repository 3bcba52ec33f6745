package ratelimit

import "strings"

// Both headers are read from the right end, where the entries of trusted proxies are. A parser that began at the left could be led
// astray by a client's unbalanced quote, which would swallow what the proxies appended.

const blank = " \t"

// listEntry cuts the last entry off a comma-separated list.
func listEntry(s string) (entry, rest string) {
	if i := strings.LastIndexByte(s, ','); i >= 0 {
		return strings.Trim(s[i+1:], blank), s[:i]
	}
	return strings.Trim(s, blank), ""
}

// forwardedEntry cuts the last element off a Forwarded field and returns its "for" without quotes, "" if it has none or more
// than one.
func forwardedEntry(s string) (entry, rest string) {
	element := s
	if i := lastOutsideQuotes(s, ','); i >= 0 {
		element, rest = s[i+1:], s[:i]
	}
	found := false
	for element != "" {
		pair := element
		if i := lastOutsideQuotes(element, ';'); i >= 0 {
			pair, element = element[i+1:], element[:i]
		} else {
			element = ""
		}
		name, value, _ := strings.Cut(strings.Trim(pair, blank), "=")
		if !strings.EqualFold(name, "for") {
			continue
		}
		if found {
			return "", rest
		}
		found, entry = true, unquote(value)
	}
	return entry, rest
}

// lastOutsideQuotes finds the last c that stands in no quoted string, given that s ends outside of one.
func lastOutsideQuotes(s string, c byte) int {
	quoted := false
	for i := len(s) - 1; i >= 0; i-- {
		switch {
		case s[i] == '"' && !(quoted && escaped(s, i)):
			quoted = !quoted
		case s[i] == c && !quoted:
			return i
		}
	}
	return -1
}

func escaped(s string, i int) bool {
	n := 0
	for i--; i >= 0 && s[i] == '\\'; i-- {
		n++
	}
	return n%2 == 1
}

// unquote strips the quotes of a quoted string. An address has nothing that needs a backslash, so one with any is left as it is
// and found not to be an address.
func unquote(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}
