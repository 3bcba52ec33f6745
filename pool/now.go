package pool

import (
	"context"

	"github.com/fairlead/fairlead/pool/causal"
	"github.com/fairlead/fairlead/pool/internal/lsn"
)

// Now returns a token over everything that the primary has committed so far, whoever wrote it: with [causal.AtLeast] a read
// sees all of it. It is for what the scope knows nothing of, such as a notification that has just been received, or a write by
// a program that does not use this package. It waits for a primary like every call, and costs one short query that all who
// ask at the time share. Where there are no positions (Options.StickyFor) the token demands the primary for that time.
func (p *Pool) Now(ctx context.Context) (token string, err error) {
	var a attempts
	for {
		e, err := p.awaitLeader(ctx, &a)
		if err != nil {
			return "", err
		}
		if e.blind {
			_, s := causal.Begin(ctx)
			p.stick(s)
			return s.Written(ctx), nil
		}
		got := make(chan string, 1)
		e.capture.after(func(position string) { got <- position })
		select {
		case position := <-got:
			if _, err := lsn.Parse(position); err == nil {
				return e.token(position), nil
			}
			if p.closed.Load() {
				return "", ErrClosed
			}
			if !p.more(&a) { // that primary is none any more
				return "", p.noPrimary()
			}
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// token is a position of e as [causal.AtLeast] reads it.
func (e *epoch) token(position string) string {
	_, s := causal.Begin(context.Background())
	s.Domain(e.tag).Saw(position)
	return s.Seen()
}
