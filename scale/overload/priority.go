package overload

import "context"

// Priority says what is refused first. The zero value is Default.
type Priority int

// The priorities. A request of a lower one starts only when none of a higher one waits.
const (
	Sheddable Priority = iota - 1 // refused first, and all of it while memory runs out: prefetches, crawlers, batch work
	Default
	Critical // refused last: payments, logins
)

// String is the name in lower case.
func (p Priority) String() string {
	switch p {
	case Sheddable:
		return "sheddable"
	case Critical:
		return "critical"
	}
	return "default"
}

// known makes a Priority of what is none.
func (p Priority) known() Priority { return min(max(p, Sheddable), Critical) }

func (p Priority) index() int { return int(p - Sheddable) }

type priorityKey struct{}

// WithPriority returns a context whose requests have the priority p. Middleware outside the limiter sets it by route, or by a
// header where the caller is trusted; a caller that is not would always be critical. A value out of range counts as the
// nearest.
func WithPriority(ctx context.Context, p Priority) context.Context {
	return context.WithValue(ctx, priorityKey{}, p.known())
}

// PriorityFrom returns what WithPriority or Options.Priority has set, or else Default. A handler leaves out what is optional
// when it is Sheddable; scale/offload orders its queue by it.
func PriorityFrom(ctx context.Context) Priority {
	p, _ := ctx.Value(priorityKey{}).(Priority)
	return p
}
