package pool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/fairlead/fairlead/pool/causal"
	"github.com/fairlead/fairlead/pool/internal/lsn"
)

var past = time.Unix(1, 0)

// primaryAfterSQL follows a proven read in its batch. The position is past everything that the read saw; a transaction id
// shows that the read was a write after all.
const primaryAfterSQL = `select pg_current_wal_insert_lsn()::text, pg_current_xact_id_if_assigned() is not null`

// primaryRows are rows from the primary: pgx's own, which give the connection back and tell the scope when they end.
type primaryRows struct {
	pgx.Rows
	db    *Pool
	ctx   context.Context
	lease lease
	sql   string
	scope *causal.Scope
	batch pgx.BatchResults // of a proven read and the position after it; else nil
	err   error
	ended bool
}

func (r *primaryRows) Close() {
	r.Rows.Close()
	if r.ended {
		return
	}
	r.ended = true
	err := r.Rows.Err()
	known := false
	if r.batch != nil {
		known = err == nil && r.position()
		if closeErr := r.batch.Close(); err == nil && r.lease.conn.Conn().IsClosed() {
			err = closeErr
		}
	}
	e, cut := r.lease.epoch, r.lease.cut()
	err = r.lease.unsent(err)
	lost := r.lease.end()
	switch {
	case r.scope == nil || known:
	case r.batch != nil:
		r.db.saw(r.ctx, r.scope, e.tag)
	default:
		e.wrote(r.scope)
	}
	var pre pgx.ErrPreprocessingBatch
	if errors.As(err, &pre) {
		err = pre.Unwrap()
	}
	r.err = r.db.conclude(r.ctx, r.sql, err, lost, cut)
}

// position reads what follows the rows of a proven read.
func (r *primaryRows) position() bool {
	var text string
	var wrote bool
	if r.batch.QueryRow().Scan(&text, &wrote) != nil {
		return false
	}
	l, err := lsn.ParsePG(text)
	if err != nil {
		return false
	}
	e := r.lease.epoch
	if wrote {
		e.wrote(r.scope)
		return true
	}
	r.scope.Domain(e.tag).Saw(lsn.Position{Timeline: e.timeline, LSN: l}.String())
	return true
}

// abandon gives the connection back when nothing was sent on it.
func (r *primaryRows) abandon() {
	r.Rows.Close()
	if r.batch != nil {
		r.batch.Close()
	}
	r.ended = true
	r.lease.end()
}

func (r *primaryRows) Err() error {
	if r.ended {
		return r.err
	}
	return r.Rows.Err()
}

func (r *primaryRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *primaryRows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err
}

func (r *primaryRows) Values() ([]any, error) {
	v, err := r.Rows.Values()
	if err != nil {
		r.Close()
	}
	return v, err
}

// primaryRow is QueryRow's result where no scope has to be told.
type primaryRow struct {
	ctx      context.Context
	lease    lease
	row      pgx.Row
	err      error
	sql      string
	args     []any
	attempts attempts
}

func (r *primaryRow) Scan(dest ...any) error {
	scanning := false
	defer func() {
		if scanning { // a destination has panicked
			r.lease.end()
		}
	}()
	for {
		if r.err != nil {
			return r.err
		}
		scanning = true
		err := r.row.Scan(dest...)
		scanning = false
		if err == nil && !r.lease.state.syncCut {
			r.lease.end()
			return nil
		}
		p := r.lease.node.db
		err, retry := p.sent(r.ctx, &r.lease, &r.attempts, r.sql, err)
		if !retry {
			r.err = err
			return err
		}
		if r.lease, r.err = p.primary(r.ctx, &r.attempts, false); r.err == nil {
			r.row = r.lease.conn.Conn().QueryRow(r.ctx, r.sql, r.args...)
		}
	}
}

// row is QueryRow's result over Query's.
type row struct{ rows pgx.Rows }

func (r row) Scan(dest ...any) error {
	defer r.rows.Close()
	if err := r.rows.Err(); err != nil {
		return err
	}
	for _, d := range dest {
		if _, ok := d.(*pgtype.DriverBytes); ok { // would point into a buffer that is reused
			return fmt.Errorf("cannot scan into *pgtype.DriverBytes from QueryRow")
		}
	}
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}

// errRows are the rows of a query that failed before it had any.
type errRows struct{ err error }

func (errRows) Close()                                       {}
func (r errRows) Err() error                                 { return r.err }
func (errRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (errRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (errRows) Next() bool                                   { return false }
func (r errRows) Scan(...any) error                          { return r.err }
func (r errRows) Values() ([]any, error)                     { return nil, r.err }
func (errRows) RawValues() [][]byte                          { return nil }
func (errRows) Conn() *pgx.Conn                              { return nil }
func (errRows) TypeMap() *pgtype.Map                         { return nil }

// primaryBatch are a batch's results from the primary.
type primaryBatch struct {
	pgx.BatchResults
	db    *Pool
	ctx   context.Context
	lease lease
	tx    *tx // owns the connection if the batch began it
	ended bool
	err   error
}

func (b *primaryBatch) Close() error {
	if b.ended {
		return b.err
	}
	err := b.BatchResults.Close()
	b.ended = true
	if b.tx != nil {
		b.err = cancelled(b.ctx, err)
		return b.err
	}
	var a attempts
	a.deadline = past // callers have seen results: there is no second attempt
	b.err, _ = b.db.sent(b.ctx, &b.lease, &a, "batch", err)
	return b.err
}

func (b *primaryBatch) Tx() pgx.Tx {
	if b.tx == nil {
		return nil
	}
	return b.tx
}
