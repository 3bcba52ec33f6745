package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

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

// TxOptions are those of [Pool.RunTx].
type TxOptions struct {
	// IsoLevel, AccessMode and DeferrableMode are as in pgx: the server's default if empty.
	IsoLevel       pgx.TxIsoLevel
	AccessMode     pgx.TxAccessMode
	DeferrableMode pgx.TxDeferrableMode
	// MaxAttempts bounds how often the function runs. 0 means 5; 1 is once.
	MaxAttempts int
	// Idempotent says that the transaction may be applied twice without harm, so that it is repeated even when the answer
	// to its COMMIT was lost.
	Idempotent bool
}

const defaultAttempts = 5

// RunTx runs fn in a transaction on the primary and commits it. If the server rolls it back in favour of others
// (serialization failure, deadlock), or its connection is lost before COMMIT was sent, all of it runs again, after a short
// random pause, while ctx and MaxAttempts allow: so fn must have no effects but those on tx. A COMMIT whose answer was lost
// is [ErrOutcomeUnknown] and is not repeated, unless Idempotent is set; nor is fn after it committed tx itself.
func (p *Pool) RunTx(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) error, options TxOptions) error {
	if options.MaxAttempts < 0 {
		return fmt.Errorf("pool: TxOptions.MaxAttempts = %d: must be >= 0 (0 means %d)", options.MaxAttempts, defaultAttempts)
	}
	most := options.MaxAttempts
	if most == 0 {
		most = defaultAttempts
	}
	begin := pgx.TxOptions{IsoLevel: options.IsoLevel, AccessMode: options.AccessMode, DeferrableMode: options.DeferrableMode}
	for n := 1; ; n++ {
		err, again := p.runTx(ctx, fn, begin, options.Idempotent)
		if err == nil || !again || n >= most || ctx.Err() != nil {
			return err
		}
		p.counts.retries.Add(1)
		pause := time.Duration(rand.Int64N(int64(min(5*time.Millisecond<<n, 200*time.Millisecond))))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

func (p *Pool) runTx(ctx context.Context, fn func(context.Context, pgx.Tx) error, o pgx.TxOptions, idempotent bool) (_ error, again bool) {
	t, err := p.begin(ctx, o)
	if err != nil {
		return err, false // it has waited for a primary already
	}
	defer t.Rollback(context.WithoutCancel(ctx)) // after a panic too
	if err := fn(ctx, t); err != nil {
		lost := t.lease.conn != nil && t.lease.conn.Conn().IsClosed()
		return err, !t.applied && (isConflict(err) || lost)
	}
	if t.lease.conn == nil { // fn has ended it itself
		return nil, false
	}
	lost := t.lease.conn.Conn().IsClosed()
	err = t.Commit(ctx)
	return err, isConflict(err) || unsent(err) || lost || idempotent && errors.Is(err, ErrOutcomeUnknown)
}
