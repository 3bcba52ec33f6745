package pool

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fairlead/fairlead/pool/causal"
)

// Begin starts a transaction on the primary, as pgxpool does; it works with [pgx.BeginFunc].
func (p *Pool) Begin(ctx context.Context) (pgx.Tx, error) { return p.BeginTx(ctx, pgx.TxOptions{}) }

// BeginTx starts a transaction on the primary, as pgxpool does. Its Commit says [ErrOutcomeUnknown] if the answer is lost;
// with a context that has ended already it rolls back and says so, which [SafeToRetry] accepts.
func (p *Pool) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	t, err := p.begin(ctx, options)
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (p *Pool) begin(ctx context.Context, options pgx.TxOptions) (*tx, error) {
	var a attempts
	for {
		l, err := p.primary(ctx, &a, true)
		if err != nil {
			return nil, err
		}
		t, err := l.conn.Conn().BeginTx(ctx, options)
		if err == nil {
			return &tx{Tx: namedTx{t}, db: p, lease: l, scope: causal.From(ctx), readOnly: options.AccessMode == pgx.ReadOnly}, nil
		}
		if l.end() && !reported(err) {
			err = &unsentError{err} // a transaction that was begun on a lost connection has changed nothing
		}
		if !p.again(ctx, &a, err) {
			return nil, cancelled(ctx, err)
		}
	}
}

// tx is a transaction on the primary.
type tx struct {
	pgx.Tx
	db        *Pool
	lease     lease
	scope     *causal.Scope // of the context it began with
	readOnly  bool
	committed bool // COMMIT was sent
	applied   bool // and was not answered by a rollback
}

func (t *tx) Commit(ctx context.Context) error {
	if t.lease.conn == nil {
		return pgx.ErrTxClosed
	}
	if err := ctx.Err(); err != nil {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
		defer cancel()
		t.Rollback(bounded) // if that fails, the connection ends and the server rolls back
		return neverCommitted(err)
	}
	t.committed = true
	if s := t.lease.state.sock; s != nil {
		t.lease.mark = s.written.Load()
	}
	err := t.lease.unsent(t.Tx.Commit(ctx))
	if end := ctx.Err(); end != nil && errors.Is(err, end) && pgconn.SafeToRetry(err) { // it ended after it was looked at
		t.committed, err = false, neverCommitted(err)
	}
	cut := t.lease.cut()
	lost := t.lease.end()
	t.tell(ctx)
	if errors.Is(err, pgx.ErrTxCommitRollback) || errors.Is(err, pgx.ErrTxClosed) {
		return err
	}
	err = t.db.conclude(ctx, "commit", err, lost, cut)
	t.applied = err == nil || errors.Is(err, ErrOutcomeUnknown)
	return err
}

func neverCommitted(err error) error {
	return &unsentError{fmt.Errorf("pool: rolled back, as COMMIT was not sent: %w", err)}
}

func (t *tx) Rollback(ctx context.Context) error {
	if t.lease.conn == nil {
		return pgx.ErrTxClosed
	}
	err := t.Tx.Rollback(ctx)
	t.lease.end()
	t.tell(ctx)
	return err
}

// tell raises the scopes of both contexts: what the transaction read counts even if it was rolled back.
func (t *tx) tell(ctx context.Context) {
	for i, s := range []*causal.Scope{t.scope, causal.From(ctx)} {
		switch {
		case s == nil || i == 1 && s == t.scope:
		case t.committed && !t.readOnly:
			t.lease.epoch.wrote(s)
		default:
			t.db.saw(ctx, s, t.lease.epoch.tag)
		}
	}
}
