package pool

import (
	"fmt"
	"time"

	"github.com/fairlead/fairlead/pool/causal"
)

// Some services (Aurora) look like PostgreSQL and have no positions to ask for. There a scope that has written reads the
// primary for Options.StickyFor, which is a bet on the lag and no proof, and reads raise nothing.

// stick makes the scope read the primary for a while.
func (p *Pool) stick(s *causal.Scope) {
	_ = s.Wrote(fmt.Sprintf("*=%d", time.Now().Add(p.opt.stickyFor).Unix()+1)) // whole seconds, rounded up
}

// pending says that the scope is writing, and returns what to call once it has.
func (e *epoch) pending(s *causal.Scope) (wrote func()) {
	if e.blind {
		e.db.stick(s)
		return func() { e.db.stick(s) }
	}
	resolve := s.Domain(e.tag).Pending()
	return func() { e.capture.after(resolve) }
}
