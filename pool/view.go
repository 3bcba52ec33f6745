package pool

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fairlead/fairlead/pool/causal"
	"github.com/fairlead/fairlead/pool/internal/sqllex"
)

// View reads from replicas, or from the primary where no replica will do. It has the methods of [Pool] that make sense, so
// it fits where a pool does, and is a value to copy.
//
// Under a scope ([causal.From]) an answer includes everything that the scope has written and read so far; without one it is
// at most ReadOptions.MaxStaleness old. Statements run read-only, enforced by the server wherever they land, and known
// functions and statements that the server would let pass although others can see it (advisory locks, NOTIFY, large objects,
// replication slots, SQL in a string, what ends a transaction or sets its mode) are refused before they are sent:
// [ErrReadOnlyView] in both cases. A read that fails because its server went away
// or cancelled it in favour of replay is repeated on another; one that has delivered a row is not.
//
// A view that came from [Pool.Auto] is not read-only: what is not a proven read goes to the primary.
type View struct {
	db   *Pool
	opt  ReadOptions
	auto bool
}

// ReadOnly returns a view with default options.
func (p *Pool) ReadOnly() View { return View{db: p, opt: ReadOptions{}.withDefaults()} }

// With returns the view with other options.
func (v View) With(o ReadOptions) View {
	v.opt = o.withDefaults()
	if d := v.opt.MaxStaleness; d > 0 {
		for every := int64(max(d/4, 5*time.Millisecond)); ; {
			now := v.db.probeEvery.Load()
			if every >= now {
				break
			}
			if v.db.probeEvery.CompareAndSwap(now, every) {
				v.db.suspect()
				break
			}
		}
	}
	return v
}

func check(sql string) error {
	if why := sqllex.Classify(sql).Refused; why != "" {
		return fmt.Errorf("%w: %s", ErrReadOnlyView, why)
	}
	return nil
}

// Query runs a read. Close the rows, or read them to their end.
func (v View) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if v.auto {
		return v.autoQuery(ctx, sql, args)
	}
	return v.query(ctx, sql, args)
}

func (v View) query(ctx context.Context, sql string, args []any) (pgx.Rows, error) {
	if err := check(sql); err != nil {
		return errRows{err}, err
	}
	r := v.newRead(ctx)
	for {
		l, err := r.next()
		if err != nil {
			return errRows{err}, err
		}
		rows, err := r.query(l, sql, args)
		if err == nil {
			return rows, nil
		}
		if !r.again(err) {
			err = cancelled(ctx, readError(err))
			return errRows{err}, err
		}
	}
}

// QueryRow runs a read of at most one row: errors come from Scan.
func (v View) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if v.auto {
		return v.autoQueryRow(ctx, sql, args)
	}
	rows, _ := v.query(ctx, sql, args)
	return row{rows}
}

// Exec runs a read for its command tag.
func (v View) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if v.auto {
		return v.autoExec(ctx, sql, args)
	}
	return v.execRead(ctx, sql, args)
}

func (v View) execRead(ctx context.Context, sql string, args []any) (pgconn.CommandTag, error) {
	rows, err := v.query(ctx, sql, args)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	rows.Close()
	return rows.CommandTag(), rows.Err()
}

// SendBatch sends a batch of reads, which run in one implicit transaction on one server. Close the results.
func (v View) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if v.auto {
		return v.autoBatch(ctx, b)
	}
	return v.sendBatch(ctx, b)
}

func (v View) sendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	for _, q := range b.QueuedQueries {
		if err := check(q.SQL); err != nil {
			return pgx.FailedBatchResults(b, err)
		}
	}
	r := v.newRead(ctx)
	for {
		l, err := r.next()
		if err != nil {
			return pgx.FailedBatchResults(b, err)
		}
		results, err := r.batch(l, b)
		if err == nil {
			return results
		}
		if !r.again(err) {
			return pgx.FailedBatchResults(b, cancelled(ctx, readError(err)))
		}
	}
}

// CopyFrom is refused with [ErrReadOnlyView], unless the view decides by itself: see [Pool.Auto].
func (v View) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	if v.auto {
		return v.db.CopyFrom(ctx, table, columns, rows)
	}
	return 0, ErrReadOnlyView
}

// Begin starts a read-only transaction on one server.
func (v View) Begin(ctx context.Context) (pgx.Tx, error) { return v.BeginTx(ctx, pgx.TxOptions{}) }

// BeginTx starts a read-only transaction on one server. Options that ask for another access mode, or bring a BEGIN of their
// own, are refused.
func (v View) BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error) {
	if v.auto {
		return v.autoBegin(ctx, o)
	}
	return v.begin(ctx, o)
}

func (v View) begin(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error) {
	if o.AccessMode == pgx.ReadWrite || o.BeginQuery != "" || o.CommitQuery != "" {
		return nil, ErrReadOnlyView
	}
	o.AccessMode = pgx.ReadOnly
	r := v.newRead(ctx)
	for {
		l, err := r.next()
		if err != nil {
			return nil, err
		}
		t, err := r.begin(l, o)
		if err == nil {
			return t, nil
		}
		if !r.again(err) {
			return nil, cancelled(ctx, readError(err))
		}
	}
}

func (v View) newRead(ctx context.Context) *read {
	return &read{db: v.db, ctx: ctx, opt: v.opt, scope: causal.From(ctx)}
}
