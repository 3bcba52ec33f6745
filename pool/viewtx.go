package pool

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// viewTx is a read-only transaction of a view. Its large objects are refused by the connection's tracer.
type viewTx struct {
	pgx.Tx
	read   *read
	target target
}

func (t *viewTx) Commit(ctx context.Context) error {
	return t.finish(ctx, t.Tx.Commit)
}

func (t *viewTx) Rollback(ctx context.Context) error {
	return t.finish(ctx, t.Tx.Rollback)
}

func (t *viewTx) finish(ctx context.Context, end func(context.Context) error) error {
	if t.target.conn == nil {
		return pgx.ErrTxClosed
	}
	r := t.read
	known := !r.tracks(&t.target)
	if !known && t.Tx.Conn().PgConn().TxStatus() == 'T' {
		known = t.target.after(r, t.Tx.QueryRow(ctx, afterSQL))
	}
	t.target.state.view = false
	err := end(ctx)
	t.target.end()
	if !known {
		r.db.saw(ctx, r.scope, t.target.tag)
	}
	return cancelled(ctx, err)
}

func (t *viewTx) Begin(ctx context.Context) (pgx.Tx, error) {
	inner, err := t.Tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &nestedViewTx{inner}, nil
}

func (t *viewTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return txExec(ctx, t.Tx, sql, args)
}

func (t *viewTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return txQuery(ctx, t.Tx, sql, args)
}

func (t *viewTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := t.Query(ctx, sql, args...)
	return row{rows}
}

func (t *viewTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return txBatch(ctx, t.Tx, b)
}

func (t *viewTx) CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error) {
	return 0, ErrReadOnlyView
}

// nestedViewTx is a savepoint in a viewTx.
type nestedViewTx struct{ pgx.Tx }

func (t *nestedViewTx) Begin(ctx context.Context) (pgx.Tx, error) {
	inner, err := t.Tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &nestedViewTx{inner}, nil
}

func (t *nestedViewTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return txExec(ctx, t.Tx, sql, args)
}

func (t *nestedViewTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return txQuery(ctx, t.Tx, sql, args)
}

func (t *nestedViewTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := t.Query(ctx, sql, args...)
	return row{rows}
}

func (t *nestedViewTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return txBatch(ctx, t.Tx, b)
}

func (t *nestedViewTx) CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error) {
	return 0, ErrReadOnlyView
}

func txExec(ctx context.Context, tx pgx.Tx, sql string, args []any) (pgconn.CommandTag, error) {
	if err := checkInTx(tx.Conn(), sql); err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := tx.Exec(ctx, sql, args...)
	return tag, cancelled(ctx, readError(err))
}

func txQuery(ctx context.Context, tx pgx.Tx, sql string, args []any) (pgx.Rows, error) {
	if err := checkInTx(tx.Conn(), sql); err != nil {
		return errRows{err}, err
	}
	rows, err := tx.Query(ctx, sql, args...)
	return txRows{rows, ctx}, cancelled(ctx, readError(err))
}

func txBatch(ctx context.Context, tx pgx.Tx, b *pgx.Batch) pgx.BatchResults {
	for _, q := range b.QueuedQueries {
		if err := checkInTx(tx.Conn(), q.SQL); err != nil {
			return pgx.FailedBatchResults(b, err)
		}
	}
	return viewTxBatch{namedBatch{tx.SendBatch(ctx, b), ctx}}
}

// viewTxBatch are a batch's results in a view's transaction.
type viewTxBatch struct{ namedBatch }

func (b viewTxBatch) Exec() (pgconn.CommandTag, error) {
	tag, err := b.namedBatch.Exec()
	return tag, readError(err)
}

func (b viewTxBatch) Query() (pgx.Rows, error) {
	rows, err := b.BatchResults.Query()
	return txRows{rows, b.ctx}, cancelled(b.ctx, readError(err))
}

func (b viewTxBatch) QueryRow() pgx.Row {
	rows, _ := b.Query()
	return row{rows}
}

func (b viewTxBatch) Close() error { return readError(b.namedBatch.Close()) }

// txRows name a refused write as views do.
type txRows struct {
	pgx.Rows
	ctx context.Context
}

func (r txRows) Err() error { return cancelled(r.ctx, readError(r.Rows.Err())) }
