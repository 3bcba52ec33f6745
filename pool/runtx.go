package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

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
	// Once, if not empty, is a key under which the transaction is applied at most once, however often and from wherever
	// RunTx is called with it: the identifier of the order, the request or the message that is worked off. A row of the
	// ledger ([Schema]) is written in the same transaction, so that a COMMIT whose answer was lost is resolved by looking
	// there, after a failover too; and a key that is there already makes RunTx succeed without running the function. At most
	// 1024 bytes of UTF-8. It excludes AccessMode pgx.ReadOnly.
	Once string
}

const (
	defaultAttempts = 5
	maxOnce         = 1024
)

func (o *TxOptions) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("pool: TxOptions."+format, args...)) }
	if o.MaxAttempts < 0 {
		bad("MaxAttempts = %d: must be >= 0 (0 means %d)", o.MaxAttempts, defaultAttempts)
	}
	if err := checkOnce(o.Once); err != nil {
		bad("Once: %w", err)
	}
	if o.Once != "" && o.AccessMode == pgx.ReadOnly {
		bad("Once: excludes AccessMode %s, since the ledger is written to", pgx.ReadOnly)
	}
	return errors.Join(errs...)
}

// RunTx runs fn in a transaction on the primary and commits it. If the server rolls it back in favour of others
// (serialization failure, deadlock), or its connection is lost before COMMIT was sent, all of it runs again, after a short
// random pause, while ctx and MaxAttempts allow: so fn must have no effects but those on tx. A COMMIT whose answer was lost
// is [ErrOutcomeUnknown] and is not repeated, unless Idempotent or Once is set; nor is fn after it committed tx itself.
//
// With Once, [ErrOutcomeUnknown] is left only where ctx or the attempts ended before the primary could be asked; RunTx may
// then be called again with the same key, and so after every other error. What fn wants to hand to its caller should be read
// back, as fn does not run in a call that finds its key in the ledger. Calls with one key at a time wait for each other.
func (p *Pool) RunTx(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) error, options TxOptions) error {
	if err := options.check(); err != nil {
		return err
	}
	most := options.MaxAttempts
	if most == 0 {
		most = defaultAttempts
	}
	var unknown error // an attempt's, not resolved yet
	if options.Once != "" {
		fn = once(options.Once, fn, func() { unknown = nil })
	}
	marked := context.WithValue(ctx, inTxKey{}, true)
	for n := 1; ; n++ {
		err, again := p.runTx(ctx, marked, fn, options)
		if err == nil || errors.Is(err, errApplied) {
			return nil
		}
		if errors.Is(err, ErrOutcomeUnknown) {
			unknown = err
		}
		if !again || n >= most || ctx.Err() != nil {
			if unknown != nil && !errors.Is(err, ErrOutcomeUnknown) {
				return fmt.Errorf("%w; the attempt to find out: %w", unknown, err)
			}
			return err
		}
		p.counts.retries.Add(1)
		pause := time.Duration(rand.Int64N(int64(min(5*time.Millisecond<<n, 200*time.Millisecond))))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			if unknown != nil {
				return unknown
			}
			return err
		}
	}
}

func (p *Pool) runTx(ctx, marked context.Context, fn func(context.Context, pgx.Tx) error, o TxOptions) (_ error, again bool) {
	t, err := p.begin(ctx, pgx.TxOptions{IsoLevel: o.IsoLevel, AccessMode: o.AccessMode, DeferrableMode: o.DeferrableMode})
	if err != nil {
		return err, false // it has waited for a primary already
	}
	defer t.Rollback(context.WithoutCancel(ctx)) // after a panic too
	found := false
	if err := fn(marked, t); errors.Is(err, errApplied) {
		found = true
	} else if err != nil {
		lost := t.lease.conn != nil && t.lease.conn.Conn().IsClosed()
		return err, !t.applied && (isConflict(err) || lost)
	}
	if t.lease.conn == nil { // fn has ended it itself
		return nil, false
	}
	lost := t.lease.conn.Conn().IsClosed()
	err = t.Commit(ctx)
	if err == nil && found {
		return errApplied, false
	}
	repeat := o.Idempotent || o.Once != "" && !errors.Is(err, errSyncCut)
	return err, isConflict(err) || unsent(err) || lost || repeat && errors.Is(err, ErrOutcomeUnknown)
}
