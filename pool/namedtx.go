package pool

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// namedTx is pgx's transaction, or a savepoint in one, whose errors name the context that cut a statement off: the server
// reports that it was asked to cancel, not why.
type namedTx struct{ pgx.Tx }

func (t namedTx) Begin(ctx context.Context) (pgx.Tx, error) {
	inner, err := t.Tx.Begin(ctx)
	if err != nil {
		return nil, cancelled(ctx, err)
	}
	return namedTx{inner}, nil
}

func (t namedTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	tag, err := t.Tx.Exec(ctx, sql, args...)
	return tag, cancelled(ctx, err)
}

func (t namedTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	rows, err := t.Tx.Query(ctx, sql, args...)
	return namedRows{rows, ctx}, cancelled(ctx, err)
}

func (t namedTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := t.Query(ctx, sql, args...)
	return row{rows}
}

func (t namedTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, from pgx.CopyFromSource) (int64, error) {
	n, err := t.Tx.CopyFrom(ctx, table, columns, from)
	return n, cancelled(ctx, err)
}

func (t namedTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return namedBatch{t.Tx.SendBatch(ctx, b), ctx}
}

// namedRows are the rows of a namedTx.
type namedRows struct {
	pgx.Rows
	ctx context.Context
}

func (r namedRows) Err() error { return cancelled(r.ctx, r.Rows.Err()) }

// namedBatch are the results of a batch in a namedTx.
type namedBatch struct {
	pgx.BatchResults
	ctx context.Context
}

func (b namedBatch) Exec() (pgconn.CommandTag, error) {
	tag, err := b.BatchResults.Exec()
	return tag, cancelled(b.ctx, err)
}

func (b namedBatch) Query() (pgx.Rows, error) {
	rows, err := b.BatchResults.Query()
	return namedRows{rows, b.ctx}, cancelled(b.ctx, err)
}

func (b namedBatch) QueryRow() pgx.Row {
	rows, _ := b.Query()
	return row{rows}
}

func (b namedBatch) Close() error { return cancelled(b.ctx, b.BatchResults.Close()) }
