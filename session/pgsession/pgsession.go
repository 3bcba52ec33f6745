// Package pgsession keeps sessions in PostgreSQL 15 or later, for applications that have no Redis, or for whose sessions an
// acknowledged logout must outlast any failover.
//
// Apply [Schema] with the application's migrations. Times are those of the server (clock_timestamp). Expired rows do not
// exist for the store, and are deleted a few at a time by the creation of others. It has to talk to the primary; a replica's
// answer may be old.
package pgsession

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fairlead/fairlead/session"
)

// Schema creates what a Store needs; it is safe to apply again. The tables are in the first schema of the search path.
const Schema = `
CREATE TABLE IF NOT EXISTS fairlead_sessions (
	tag      text COLLATE "C" NOT NULL,
	id       text COLLATE "C" NOT NULL,
	version  bigint NOT NULL,
	is_user  boolean NOT NULL,
	pinned   boolean NOT NULL DEFAULT false,
	value    bytea NOT NULL,
	deadline timestamptz,
	expires  timestamptz,
	PRIMARY KEY (tag, id)
);
CREATE INDEX IF NOT EXISTS fairlead_sessions_expires ON fairlead_sessions (expires);
CREATE TABLE IF NOT EXISTS fairlead_session_fences (
	tag     text COLLATE "C" PRIMARY KEY,
	fence   bigint NOT NULL,
	expires timestamptz NOT NULL
);
`

// DB is what a Store needs of a database: a *pgxpool.Pool, or this module's *pool.Pool.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
}

// Store is a session.Store and a session.UserIndex. It is safe for concurrent use.
type Store struct{ db DB }

// New returns a store on the database, which stays the caller's to close.
func New(db DB) *Store { return &Store{db} }

// Validate reports a missing database; session.New asks.
func (s *Store) Validate() error {
	if s.db == nil {
		return errors.New("pgsession: db is nil: must be a *pgxpool.Pool or a *pool.Pool")
	}
	return nil
}

var (
	_ session.Store     = (*Store)(nil)
	_ session.UserIndex = (*Store)(nil)
)

const loginTime = 15 * time.Minute

// columns are read by scan.
const columns = `tag, id, version, is_user, pinned, value, deadline,
	coalesce(extract(epoch from expires - clock_timestamp()) * 1000000, 0)::bigint, coalesce(expires = deadline, false)`

const alive = `(expires IS NULL OR expires > clock_timestamp())`

func scan(row pgx.Row) (session.Record, error) {
	var r session.Record
	var deadline *time.Time
	var left int64
	err := row.Scan(&r.Tag, &r.ID, &r.Version, &r.User, &r.Pinned, &r.Value, &deadline, &left, &r.Final)
	if errors.Is(err, pgx.ErrNoRows) {
		return session.Record{}, nil
	}
	if err != nil {
		return session.Record{}, failure(err)
	}
	if deadline != nil {
		r.Deadline = *deadline
	}
	r.Left = time.Duration(left) * time.Microsecond
	r.Final = r.Final || r.Pinned
	return r, nil
}

// Load is one query.
func (s *Store) Load(ctx context.Context, tag, id string) (session.Record, error) {
	return s.find(ctx, s.db, tag, id)
}

// Create is one statement for an anonymous session. For a user's it is a transaction that holds the user's lock, with a fence
// or without: a revocation has to see the session, or to have ended before it.
func (s *Store) Create(ctx context.Context, r session.Record) (session.Record, bool, error) {
	if r.Fence == "" && !r.User {
		return s.create(ctx, s.db, r)
	}
	var now session.Record
	var created bool
	err := s.locked(ctx, r.Tag, func(tx pgx.Tx) (err error) {
		// An earlier try whose answer was lost counts, whatever the fence says now.
		if now, err = s.find(ctx, tx, r.Tag, r.ID); err != nil || now.Version > 0 {
			return err
		}
		now, created, err = s.admit(ctx, tx, r)
		return err
	})
	if err != nil {
		return session.Record{}, false, err
	}
	return now, created, nil
}

// Move is a transaction that holds the user's lock.
func (s *Store) Move(ctx context.Context, old, next session.Record) (session.Record, bool, error) {
	var now session.Record
	var moved bool
	err := s.locked(ctx, old.Tag, func(tx pgx.Tx) (err error) {
		// The old row's lock holds off those who change it; it comes in the order of all row locks.
		if _, err = tx.Exec(ctx, lockRows, old.Tag, old.ID); err != nil {
			return err
		}
		if now, err = s.find(ctx, tx, old.Tag, old.ID); err != nil || now.Version != old.Version || now.Pinned {
			return err
		}
		if now, moved, err = s.swap(ctx, tx, old); err != nil || !moved {
			return err
		}
		now, moved, err = s.admit(ctx, tx, next)
		return err
	})
	if err != nil {
		return session.Record{}, false, err
	}
	return now, moved, nil
}

// admit creates a record, if its fence is valid, and makes room for it among the user's.
func (s *Store) admit(ctx context.Context, tx pgx.Tx, r session.Record) (session.Record, bool, error) {
	if r.Fence != "" {
		value, asked, ok := cut(r.Fence)
		if !ok {
			return session.Record{}, false, session.ErrRevoked
		}
		var pass bool
		err := tx.QueryRow(ctx, `
			SELECT coalesce((SELECT fence FROM fairlead_session_fences WHERE tag = $1 AND expires > clock_timestamp()), 0) = $2
				AND extract(epoch from clock_timestamp()) * 1000 - $3::bigint <= $4::bigint`,
			r.Tag, value, asked, loginTime.Milliseconds()).Scan(&pass)
		if err != nil {
			return session.Record{}, false, err
		}
		if !pass {
			return session.Record{}, false, session.ErrRevoked
		}
	}
	if r.User && r.Limit > 0 {
		if _, err := tx.Exec(ctx, lockRows, r.Tag, nil); err != nil {
			return session.Record{}, false, err
		}
		_, err := tx.Exec(ctx, `
			DELETE FROM fairlead_sessions WHERE tag = $1 AND id IN (
				SELECT id FROM fairlead_sessions WHERE tag = $1 AND is_user AND `+alive+`
				ORDER BY deadline DESC NULLS FIRST OFFSET $2)`, r.Tag, r.Limit-1)
		if err != nil {
			return session.Record{}, false, err
		}
	}
	return s.create(ctx, tx, r)
}

// lockRows locks the user's rows, and one that need not be the user's, in the order in which Touch does: two transactions
// that need the same rows wait for each other once.
const lockRows = `SELECT FROM fairlead_sessions WHERE tag = $1 AND (is_user OR id = $2) ORDER BY tag, id FOR UPDATE`

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func (s *Store) find(ctx context.Context, q querier, tag, id string) (session.Record, error) {
	return scan(q.QueryRow(ctx, `SELECT `+columns+` FROM fairlead_sessions WHERE tag = $1 AND id = $2 AND `+alive, tag, id))
}

func (s *Store) create(ctx context.Context, q querier, r session.Record) (session.Record, bool, error) {
	var deadline *time.Time
	if !r.Deadline.IsZero() {
		deadline = &r.Deadline
	}
	// A few expired rows go; those that somebody else is about to delete are left to them.
	now, err := scan(q.QueryRow(ctx, `
		WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
		swept AS (
			DELETE FROM fairlead_sessions WHERE ctid IN (
				SELECT ctid FROM fairlead_sessions WHERE expires <= (SELECT now FROM clock) AND (tag, id) <> ($1, $2)
				ORDER BY expires LIMIT 2 FOR UPDATE SKIP LOCKED)
		), ends AS (
			SELECT now, coalesce($6::timestamptz, CASE WHEN $7::bigint > 0 THEN now + $7 * interval '1 microsecond' END) AS deadline FROM clock
		)
		INSERT INTO fairlead_sessions AS f (tag, id, version, is_user, value, deadline, expires)
		SELECT $1, $2, 1, $3, $4, deadline,
			least(deadline, CASE WHEN $5::bigint > 0 THEN now + $5 * interval '1 microsecond' END) FROM ends
		ON CONFLICT (tag, id) DO UPDATE
			SET version = 1, is_user = excluded.is_user, pinned = false, value = excluded.value, deadline = excluded.deadline, expires = excluded.expires
			WHERE f.expires <= clock_timestamp()
		RETURNING `+columns, r.Tag, r.ID, r.User, bytesOf(r.Value), r.Left.Microseconds(), deadline, r.Life.Microseconds()))
	if err != nil || now.Version > 0 {
		return now, err == nil, err
	}
	now, err = s.find(ctx, q, r.Tag, r.ID)
	return now, false, err
}

// bytesOf keeps nil from becoming NULL.
func bytesOf(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// CompareAndSwap is one statement, two on conflict.
func (s *Store) CompareAndSwap(ctx context.Context, r session.Record) (session.Record, bool, error) {
	now, swapped, err := s.swap(ctx, s.db, r)
	if err != nil || swapped {
		return now, swapped, err
	}
	now, err = s.find(ctx, s.db, r.Tag, r.ID)
	return now, false, err
}

func (s *Store) swap(ctx context.Context, q querier, r session.Record) (session.Record, bool, error) {
	now, err := scan(q.QueryRow(ctx, `
		UPDATE fairlead_sessions SET version = version + 1, value = $4, pinned = $5, is_user = is_user AND NOT $5,
			expires = CASE
				WHEN $5 THEN least(deadline, clock_timestamp() + $6 * interval '1 microsecond')
				ELSE greatest(expires, least(deadline, CASE WHEN $6::bigint > 0 THEN clock_timestamp() + $6 * interval '1 microsecond' END)) END
		WHERE tag = $1 AND id = $2 AND version = $3 AND NOT pinned AND `+alive+`
		RETURNING `+columns, r.Tag, r.ID, r.Version, bytesOf(r.Value), r.Pinned, r.Left.Microseconds()))
	return now, err == nil && now.Version > 0, err
}

// Delete is one statement.
func (s *Store) Delete(ctx context.Context, tag, id string) (session.Record, error) {
	found, err := scan(s.db.QueryRow(ctx, `
		DELETE FROM fairlead_sessions WHERE tag = $1 AND id = $2 AND NOT pinned AND `+alive+` RETURNING `+columns, tag, id))
	if err != nil || found.Version > 0 {
		return found, err
	}
	return s.Load(ctx, tag, id) // a pinned one stays
}

// Touch is one statement.
func (s *Store) Touch(ctx context.Context, records []session.Record) error {
	if len(records) == 0 {
		return nil
	}
	var tags, ids []string
	var lefts []int64
	for _, r := range records {
		tags, ids, lefts = append(tags, r.Tag), append(ids, r.ID), append(lefts, r.Left.Microseconds())
	}
	// The rows are locked in one order, so that two processes that touch the same ones do not wait for each other.
	_, err := s.db.Exec(ctx, `
		WITH rows AS (
			SELECT f.ctid AS at, t.lefts FROM fairlead_sessions f
			JOIN unnest($1::text[], $2::text[], $3::bigint[]) AS t (tag, id, lefts) ON f.tag = t.tag AND f.id = t.id
			ORDER BY f.tag, f.id FOR UPDATE OF f
		)
		UPDATE fairlead_sessions f SET expires = least(f.deadline, clock_timestamp() + rows.lefts * interval '1 microsecond')
		FROM rows WHERE f.ctid = rows.at AND NOT f.pinned AND f.expires > clock_timestamp()
			AND least(f.deadline, clock_timestamp() + rows.lefts * interval '1 microsecond') > f.expires`, tags, ids, lefts)
	return failure(err)
}

// Fence is one query.
func (s *Store) Fence(ctx context.Context, tag string) (string, error) {
	var value, asked int64
	err := s.db.QueryRow(ctx, `
		SELECT coalesce((SELECT fence FROM fairlead_session_fences WHERE tag = $1 AND expires > clock_timestamp()), 0),
			(extract(epoch from clock_timestamp()) * 1000)::bigint`, tag).Scan(&value, &asked)
	return fmt.Sprintf("%d@%d", value, asked), failure(err)
}

// Revoke is a transaction that holds the user's lock.
func (s *Store) Revoke(ctx context.Context, tag string, except []string) (n int, err error) {
	if except == nil {
		except = []string{}
	}
	err = s.locked(ctx, tag, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO fairlead_session_fences AS f (tag, fence, expires)
			VALUES ($1, (extract(epoch from clock_timestamp()) * 1000000)::bigint, clock_timestamp() + $2 * interval '1 microsecond')
			ON CONFLICT (tag) DO UPDATE SET fence = greatest(f.fence + 1, excluded.fence), expires = excluded.expires`,
			tag, (2 * loginTime).Microseconds())
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, lockRows, tag, nil); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
			WITH gone AS (DELETE FROM fairlead_sessions WHERE tag = $1 AND is_user AND NOT id = ANY($2) RETURNING expires)
			SELECT count(*) FROM gone WHERE `+alive, tag, except).Scan(&n)
	})
	return n, err
}

// List is one query.
func (s *Store) List(ctx context.Context, tag string) ([]session.Record, error) {
	rows, err := s.db.Query(ctx, `SELECT `+columns+` FROM fairlead_sessions WHERE tag = $1 AND is_user AND `+alive, tag)
	if err != nil {
		return nil, failure(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (session.Record, error) { return scan(row) })
	return all, failure(err)
}

// locked runs f in a transaction that holds the user's lock: a creation and a revocation wait for each other.
func (s *Store) locked(ctx context.Context, tag string, f func(pgx.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return failure(err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 8217))`, tag); err != nil {
		return failure(err)
	}
	if err := f(tx); err != nil {
		return failure(err)
	}
	return failure(tx.Commit(ctx))
}

func cut(fence string) (value, asked int64, ok bool) {
	v, a, ok := strings.Cut(fence, "@")
	value, err1 := strconv.ParseInt(v, 10, 64)
	asked, err2 := strconv.ParseInt(a, 10, 64)
	return value, asked, ok && err1 == nil && err2 == nil
}

// failure tells what may have been done from what the server refused.
func failure(err error) error {
	if err == nil || errors.Is(err, session.ErrRevoked) || errors.Is(err, session.ErrUnavailable) {
		return err
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && !transient(pgErr.Code) {
		return fmt.Errorf("pgsession: %w", err)
	}
	return fmt.Errorf("%w: %w", session.ErrUnavailable, err)
}

// transient says whether a server with this SQLSTATE may do later what it did not do now: class 08 connection, 40
// serialization and deadlock, 53 resources, 57 operator intervention, 25006 read only (a switchover is going on).
func transient(code string) bool {
	return len(code) == 5 && (strings.Contains("08 40 53 57", code[:2]) || code == "25006")
}
