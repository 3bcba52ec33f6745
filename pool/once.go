package pool

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// Schema creates the ledger that TxOptions.Once needs; it is safe to apply again. The table is in the first schema of the
// search path. Its rows are not removed by themselves: delete those that are older than any retry can be, for example
// with: delete from fairlead_once where at < now() - interval '30 days'.
const Schema = `create table if not exists fairlead_once (
	key text primary key,
	at timestamptz not null default clock_timestamp()
)`

// errApplied: the transaction was applied before.
var errApplied = errors.New("pool: applied before")

func checkOnce(key string) error {
	switch {
	case len(key) > maxOnce:
		return fmt.Errorf("%d bytes: must be <= %d", len(key), maxOnce)
	case !utf8.ValidString(key) || strings.ContainsRune(key, 0):
		return errors.New("must be UTF-8 without zero bytes")
	}
	return nil
}

// once returns fn behind its row of the ledger. The row comes first: a second transaction with the key waits for the first to
// end, even one whose client has lost it, and then either takes its place or finds the row. So trying again is the look-up,
// and no COMMIT can arrive after it. absent is called when the key was not there.
func once(key string, fn func(context.Context, pgx.Tx) error, absent func()) func(context.Context, pgx.Tx) error {
	return func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "insert into fairlead_once (key) values ($1) on conflict do nothing", key)
		switch {
		case pgCode(err) == "42P01":
			return fmt.Errorf("pool: TxOptions.Once needs the table in pool.Schema: %w", err)
		case err != nil:
			return err
		case tag.RowsAffected() == 1:
			absent()
			return fn(ctx, tx)
		}
		// Found. This commit waits for a synchronous standby if there is to be one, and with it the one that is asked about.
		if _, err := tx.Exec(ctx, "update fairlead_once set at = at where key = $1", key); err != nil {
			return err
		}
		return errApplied
	}
}
