package breaker

import "fmt"

// State is what a breaker does with calls.
type State uint8

const (
	Closed   State = iota // calls pass
	HalfOpen              // a few calls pass, to see whether the dependency works again
	Open                  // calls are refused
	Auto                  // for Force only: the breaker decides
)

func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case HalfOpen:
		return "half-open"
	case Open:
		return "open"
	case Auto:
		return "auto"
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// MarshalText makes a State readable in JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *State) UnmarshalText(text []byte) error {
	for _, known := range []State{Closed, HalfOpen, Open, Auto} {
		if known.String() == string(text) {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("breaker: %q is no state", text)
}
