package main

// paint colours text for a terminal; the zero value leaves it as it is.
type paint struct{ on bool }

func (p paint) with(code, s string) string {
	if !p.on {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p paint) head(s string) string { return p.with("2", s) }
func (p paint) bold(s string) string { return p.with("1", s) }
func (p paint) bad(s string) string  { return p.with("31", s) }

// state colours s, which shows the state of a worker or slot, by what it means for whoever looks.
func (p paint) state(state, s string) string {
	switch state {
	case "ready":
		return p.with("32", s)
	case "suspect", "backoff":
		return p.with("33", s)
	case "hung", "errored":
		return p.with("31;1", s)
	}
	return p.with("36", s) // on its way somewhere
}
