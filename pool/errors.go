package pool

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fairlead/fairlead/pool/internal/sqllex"
)

var (
	// ErrNoPrimary says that no primary was found within Options.FailoverTimeout. Nothing was sent.
	ErrNoPrimary = errors.New("pool: no primary")
	// ErrSaturated says that no connection became free within Options.AcquireTimeout. Nothing was sent.
	ErrSaturated = errors.New("pool: all connections are in use")
	// ErrOutcomeUnknown says that a statement that may write was sent and its answer did not come: it may have been
	// committed or not, and it was not sent again. With a synchronous standby it also says that the wait for the standby was
	// cut off: committed on the primary, perhaps nowhere else.
	ErrOutcomeUnknown = errors.New("pool: outcome unknown")
	// ErrStale says that no server could be shown to be fresh enough for a read of a [View].
	ErrStale = errors.New("pool: no server is fresh enough")
	// ErrReadOnlyView says that a [View] was asked for something that writes. Nothing was changed.
	ErrReadOnlyView = errors.New("pool: the view is read-only")
	// ErrClosed says that the pool was closed.
	ErrClosed = errors.New("pool: closed")
)

// CausalityLostError says that what the scope had written or read cannot be shown to have survived a failover: it lies past
// the point where the new primary's history left the old one's, or that point is not known. It is returned once: the scope
// then continues from the new primary's position. If that cannot be had within a second it is returned again.
type CausalityLostError struct {
	// Proven is true if the position is past the known fork, so that what was there is lost.
	Proven bool
}

func (e *CausalityLostError) Error() string {
	if e.Proven {
		return "pool: an earlier write of this scope was lost in a failover"
	}
	return "pool: an earlier write of this scope cannot be shown to have survived a failover"
}

// IsNotFound says that a query found no row.
func IsNotFound(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

// SafeToRetry says that what failed with err has surely changed nothing, so that sending it again cannot apply it twice:
// nothing was sent, or the server undid it for a reason that may not last (serialization failure, deadlock, start-up,
// shutdown before it began, too many connections). It is for a whole transaction or a statement outside of one.
func SafeToRetry(err error) bool {
	switch {
	case err == nil || errors.Is(err, ErrOutcomeUnknown) || errors.Is(err, ErrClosed):
		return false
	case errors.As(err, new(*unsentError)):
		return true
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return false // the caller has no time left for another attempt
	case errors.Is(err, ErrNoPrimary) || errors.Is(err, ErrSaturated) || errors.Is(err, ErrStale):
		return true
	case isConflict(err):
		return true
	}
	return unsent(err)
}

// isConflict: the server rolled back in favour of others and asks for another attempt.
func isConflict(err error) bool {
	code := pgCode(err)
	return code == "40001" || code == "40P01"
}

func pgCode(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// unsentError marks what failed before anything was sent, or before anything that was sent could have an effect.
type unsentError struct{ err error }

func (e *unsentError) Error() string { return e.err.Error() }
func (e *unsentError) Unwrap() error { return e.err }

// unsent says that nothing reached a server that would have run it.
func unsent(err error) bool {
	var mark *unsentError
	var dial *pgconn.ConnectError
	return errors.As(err, &mark) || errors.As(err, &dial) || errors.Is(err, errMoved)
}

// errMoved: the connection is to another server, or one in another role, than the pool was made for.
var errMoved = errors.New("pool: the address belongs to another server now")

// permanent says that dialling again will not help: credentials, a database that is not there.
func permanent(err error) bool {
	switch code := pgCode(err); {
	case len(code) == 5 && code[:2] == "28", code == "3D000", code == "42501":
		return true
	}
	return false
}

// outcome turns the error of a statement that was sent to the primary into what its caller may conclude. lost says that the
// connection did not survive it.
func outcome(ctx context.Context, sql string, err error, lost bool) error {
	err = cancelled(ctx, err)
	if err == nil || !lost || unsent(err) || errors.Is(err, ErrOutcomeUnknown) || reported(err) || sqllex.Classify(sql).Read {
		return err
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
}

// reported: the server said ERROR, so it undid the statement's transaction. After FATAL it may have committed before.
func reported(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	severity := pg.SeverityUnlocalized
	if severity == "" {
		severity = pg.Severity
	}
	return severity == "ERROR"
}

// cancelled names the context where the server reports that it was asked to cancel, as it is when a context ends.
func cancelled(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && pgCode(err) == "57014" && !errors.Is(err, ctx.Err()) {
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return err
}

// readError is what a view's caller sees.
func readError(err error) error {
	if pgCode(err) == "25006" {
		return fmt.Errorf("%w: %w", ErrReadOnlyView, err)
	}
	var pre pgx.ErrPreprocessingBatch
	if errors.As(err, &pre) { // that it went as part of a batch is not the caller's business
		return pre.Unwrap()
	}
	return err
}
