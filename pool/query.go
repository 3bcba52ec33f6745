package pool

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fairlead/fairlead/pool/causal"
	"github.com/fairlead/fairlead/pool/internal/sqllex"
)

// Exec runs sql on the primary, as pgxpool does.
func (p *Pool) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	var a attempts
	for {
		l, err := p.primary(ctx, &a, false)
		if err != nil {
			return pgconn.CommandTag{}, err
		}
		tag, err := l.conn.Conn().Exec(ctx, sql, args...)
		err, retry := p.sent(ctx, &l, &a, sql, err)
		if !retry {
			return tag, err
		}
	}
}

// CopyFrom copies rows into a table on the primary, as pgxpool does.
func (p *Pool) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	var a attempts
	l, err := p.primary(ctx, &a, true)
	if err != nil {
		return 0, err
	}
	n, err := l.conn.Conn().CopyFrom(ctx, table, columns, rows)
	a.deadline = past // rows were perhaps read from the source: there is no second attempt
	err, _ = p.sent(ctx, &l, &a, "copy", err)
	return n, err
}

// sent ends a statement on the primary: the connection goes back, the scope learns of the write, and the error says what
// its caller may conclude. retry means that nothing was sent and another attempt is due.
func (p *Pool) sent(ctx context.Context, l *lease, a *attempts, sql string, err error) (_ error, retry bool) {
	if misread(l.conn.Conn(), sql) {
		sql = ""
	}
	e, cut := l.epoch, l.cut()
	err = l.unsent(err)
	lost := l.end()
	if err != nil && p.again(ctx, a, err) {
		return nil, true
	}
	if s := causal.From(ctx); s != nil {
		if sqllex.Classify(sql).Read {
			p.saw(ctx, s, e.tag)
		} else {
			e.wrote(s)
		}
	}
	return p.conclude(ctx, sql, err, lost, cut), false
}

func (p *Pool) conclude(ctx context.Context, sql string, err error, lost bool, cut error) error {
	if err == nil && cut != nil {
		err = fmt.Errorf("%w: %w", ErrOutcomeUnknown, cut)
	} else {
		err = outcome(ctx, sql, err, lost)
	}
	if errors.Is(err, ErrOutcomeUnknown) {
		p.counts.unknown.Add(1)
	}
	return err
}

// Query runs sql on the primary, as pgxpool does. Close the rows, or read them to their end.
func (p *Pool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	scope := causal.From(ctx)
	read := scope != nil && !hasQueryOptions(args) && sqllex.Classify(sql).Read
	var a attempts
	for {
		l, err := p.primary(ctx, &a, true)
		if err != nil {
			return errRows{err}, err
		}
		r := &primaryRows{db: p, ctx: ctx, lease: l, sql: sql, scope: scope}
		if misread(l.conn.Conn(), sql) {
			r.sql, read = "", false
		}
		if read && l.epoch.blind {
			r.scope = nil
		}
		if read && !l.epoch.blind {
			b := &pgx.Batch{}
			b.Queue(sql, args...)
			b.Queue(primaryAfterSQL)
			r.batch = l.conn.Conn().SendBatch(ctx, b)
			r.Rows, err = r.batch.Query()
		} else {
			r.Rows, err = l.conn.Conn().Query(ctx, sql, args...)
		}
		if err == nil {
			return r, nil
		}
		if p.again(ctx, &a, r.lease.unsent(err)) {
			r.abandon()
			continue
		}
		r.Close()
		err = r.Err()
		return errRows{err}, err
	}
}

// QueryRow runs sql on the primary, as pgxpool does: errors come from Scan.
func (p *Pool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if causal.From(ctx) != nil {
		rows, _ := p.Query(ctx, sql, args...)
		return row{rows}
	}
	r := &primaryRow{ctx: ctx, sql: sql, args: args}
	if r.lease, r.err = p.primary(ctx, &r.attempts, false); r.err == nil {
		r.row = r.lease.conn.Conn().QueryRow(ctx, sql, args...)
	}
	return r
}

// SendBatch sends b to the primary, as pgxpool does. Close the results.
func (p *Pool) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	var a attempts
	l, err := p.primary(ctx, &a, true)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	r := &primaryBatch{db: p, ctx: ctx, lease: l}
	r.BatchResults = l.conn.Conn().SendBatch(ctx, b)
	if t := r.BatchResults.Tx(); t != nil {
		r.tx = &tx{Tx: namedTx{t}, db: p, lease: l, scope: causal.From(ctx)}
	}
	return r
}

// hasQueryOptions: pgx takes these before the arguments of a query, but not in a batch.
func hasQueryOptions(args []any) bool {
	for _, a := range args {
		switch a.(type) {
		case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
			return true
		case pgx.QueryRewriter:
		default:
			return false
		}
	}
	return false
}
