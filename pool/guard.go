package pool

import (
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fairlead/fairlead/pool/internal/lsn"
	"github.com/fairlead/fairlead/pool/internal/sqllex"
)

// guardSQL goes before a read in one batch, which is one implicit transaction: it makes it read-only and tells where the
// server was before the read's snapshot. That order holds only where every statement has a snapshot of its own. The timeline
// comes after the position, and a replica receives a timeline before it replays it, so the position is on no later one.
const guardSQL = `select pg_is_in_recovery(), case when pg_is_in_recovery() then pg_last_wal_replay_lsn()::text end,
	(select received_tli from pg_stat_wal_receiver),
	current_setting('transaction_isolation') = 'read committed', set_config('transaction_read_only', 'on', true)`

// freeSQL is guardSQL where no position matters.
const freeSQL = `select pg_is_in_recovery(), null::text, null::int, false, set_config('transaction_read_only', 'on', true)`

// afterSQL tells where the server was after the read's snapshot, so at or past everything that the read has seen.
const afterSQL = `select pg_is_in_recovery(),
	case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end::text,
	(select received_tli from pg_stat_wal_receiver)`

func (t *target) guardSQL() string {
	switch {
	case t.blind:
	case t.several:
		return manySQL
	case t.guard:
		return guardSQL
	}
	return freeSQL
}

// tracks says that the scope has to learn what a read on t has seen.
func (r *read) tracks(t *target) bool { return r.scope != nil && !t.blind }

// ailed notes that a replica failed a read.
func (t *target) ailed() {
	if t.epoch == nil {
		t.node.ailed()
	}
}

// errLost: the connection ended during a read.
var errLost = errors.New("pool: connection lost")

// guardRow is what guardSQL returns.
type guardRow struct {
	replica   bool
	position  *string
	timeline  *uint32 // received; null if the role may not know, or nothing is being received
	committed bool    // read committed
	on        string
}

func (g *guardRow) scan(row pgx.Row) error {
	return row.Scan(&g.replica, &g.position, &g.timeline, &g.committed, &g.on)
}

// judge decides whether the answer that follows may be used.
func (g *guardRow) judge(r *read, t *target) error {
	if g.replica != (t.epoch == nil) {
		r.tried = append(r.tried, t.node)
		return errRole
	}
	switch {
	case t.epoch != nil, t.blind:
		return nil
	case t.several:
		return g.judgeMany(r, t)
	case !t.guard:
		return nil
	}
	var at lsn.Position
	if g.position != nil {
		l, err := lsn.ParsePG(*g.position)
		if err != nil {
			return err
		}
		if shown, ok := t.node.raise(t.state.id, l, received(g.timeline)); ok && g.committed {
			at = shown
		}
	}
	r.db.counts.guards.Add(1)
	switch {
	case t.state.id != t.node.run(): // the server has restarted since the connection, or since the last probe
		r.tried = append(r.tried, t.node)
		return errRole
	case !at.Reaches(t.bound):
		r.db.counts.staleAvoided.Add(1)
		r.short = append(r.short, t.node)
		return errShort
	}
	return nil
}

func received(timeline *uint32) uint32 {
	if timeline == nil {
		return 0
	}
	return *timeline
}

// fail turns the error of an attempt into what [read.again] and the caller go by.
func (r *read) fail(t *target, err error) error {
	lost := t.end()
	if lost && !reported(err) && r.ctx.Err() == nil {
		r.tried = append(r.tried, t.node)
		t.ailed()
		return fmt.Errorf("%w: %w", errLost, err)
	}
	if isConflict(err) {
		r.tried = append(r.tried, t.node)
		t.ailed()
	}
	return err
}

// query runs one attempt of a view's query, up to its first row.
func (r *read) query(t target, sql string, args []any) (pgx.Rows, error) {
	rows := &viewRows{read: r, target: t}
	conn := t.conn.Conn()
	if err := checkOn(conn, sql); err != nil {
		t.end()
		return nil, err
	}
	if hasQueryOptions(args) {
		return rows.apart(conn, sql, args)
	}
	b := &pgx.Batch{}
	b.Queue(t.guardSQL())
	b.Queue(sql, args...)
	if r.tracks(&t) {
		b.Queue(afterSQL)
	}
	rows.batch = conn.SendBatch(r.ctx, b)
	var g guardRow
	err := g.scan(rows.batch.QueryRow())
	if err == nil {
		err = g.judge(r, &rows.target)
	}
	if err != nil {
		rows.batch.Close()
		return nil, r.fail(&rows.target, err)
	}
	rows.Rows, _ = rows.batch.Query()
	return rows.prime()
}

// apart is query for what pgx does not take in a batch: a transaction of its own.
func (rows *viewRows) apart(conn *pgx.Conn, sql string, args []any) (pgx.Rows, error) {
	r := rows.read
	tx, err := conn.BeginTx(r.ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly, IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return nil, r.fail(&rows.target, err)
	}
	rows.tx = tx
	var g guardRow
	if err = g.scan(tx.QueryRow(r.ctx, rows.target.guardSQL())); err == nil {
		err = g.judge(r, &rows.target)
	}
	if err == nil {
		rows.Rows, err = tx.Query(r.ctx, sql, args...)
	}
	if err != nil {
		tx.Rollback(r.ctx)
		return nil, r.fail(&rows.target, err)
	}
	return rows.prime()
}

// viewRows are a view's rows: pgx's own, followed by the position after them.
type viewRows struct {
	pgx.Rows
	read   *read
	target target
	batch  pgx.BatchResults
	tx     pgx.Tx // instead of batch
	primed bool   // Next was called once already
	first  bool   // with this result
	ended  bool
}

// prime waits for the first row or the end, so that what fails before may still be tried elsewhere.
func (v *viewRows) prime() (pgx.Rows, error) {
	r := v.read
	v.primed, v.first = true, v.Rows.Next()
	if err := v.Rows.Err(); err != nil && !v.first {
		v.ended = true
		if v.batch != nil {
			v.batch.Close()
		} else {
			v.tx.Rollback(r.ctx)
		}
		return nil, r.fail(&v.target, err)
	}
	v.target.count()
	if !v.first {
		v.Close() // empty: the connection is free already
	}
	return v, nil
}

func (v *viewRows) Next() bool {
	if v.primed {
		v.primed = false
		return v.first
	}
	if v.Rows.Next() {
		return true
	}
	v.Close()
	return false
}

func (v *viewRows) Close() {
	v.Rows.Close()
	if v.ended {
		return
	}
	v.ended = true
	r := v.read
	known := !r.tracks(&v.target)
	switch {
	case v.batch != nil:
		if !known && v.Rows.Err() == nil {
			known = v.target.after(r, v.batch.QueryRow())
		}
		v.batch.Close()
	default:
		if !known && v.Rows.Err() == nil {
			known = v.target.after(r, v.tx.QueryRow(r.ctx, afterSQL))
		}
		v.tx.Rollback(r.ctx)
	}
	v.target.end()
	if !known {
		r.db.saw(r.ctx, r.scope, v.target.tag)
	}
}

func (t *target) count() {
	t.node.reads.Add(1)
	if t.epoch == nil {
		t.node.db.counts.readsReplica.Add(1)
		now := time.Now()
		t.node.mu.Lock()
		t.node.health.took(now.Sub(t.began), now)
		t.node.health.succeeded(now)
		t.node.mu.Unlock()
	} else {
		t.node.db.counts.readsPrimary.Add(1)
	}
}

// after raises what the scope has read to the position in row.
func (t *target) after(r *read, row pgx.Row) bool {
	var replica bool
	var text *string
	var timeline *uint32
	if err := row.Scan(&replica, &text, &timeline); err != nil || text == nil || replica != (t.epoch == nil) {
		return false
	}
	l, err := lsn.ParsePG(*text)
	if err != nil {
		return false
	}
	var at lsn.Position
	switch {
	case t.epoch != nil:
		at = lsn.Position{Timeline: t.epoch.timeline, LSN: l}
	case t.several: // the server was on that timeline before
		if at = (lsn.Position{Timeline: t.shown.Timeline, LSN: l}); timeline != nil && *timeline != at.Timeline {
			return false
		}
	default:
		shown, ok := t.node.raise(t.state.id, l, received(timeline))
		if !ok {
			return false
		}
		at = shown
	}
	r.scope.Domain(t.tag).Saw(at.String())
	return true
}

func (v *viewRows) Err() error { return cancelled(v.read.ctx, readError(v.Rows.Err())) }

func (v *viewRows) Scan(dest ...any) error {
	err := v.Rows.Scan(dest...)
	if err != nil {
		v.Close()
	}
	return err
}

func (v *viewRows) Values() ([]any, error) {
	x, err := v.Rows.Values()
	if err != nil {
		v.Close()
	}
	return x, err
}

// batch runs one attempt of a view's batch, up to the answer of the guard.
func (r *read) batch(t target, b *pgx.Batch) (pgx.BatchResults, error) {
	all := &pgx.Batch{}
	all.Queue(t.guardSQL())
	for _, q := range b.QueuedQueries {
		if err := checkOn(t.conn.Conn(), q.SQL); err != nil {
			t.end()
			return nil, err
		}
	}
	for _, q := range b.QueuedQueries { // copies: pgx keeps a connection's statement in what it has sent
		all.QueuedQueries = append(all.QueuedQueries, &pgx.QueuedQuery{SQL: q.SQL, Arguments: q.Arguments, Fn: q.Fn})
	}
	v := &viewBatch{read: r, target: t, left: len(b.QueuedQueries)}
	if r.tracks(&t) {
		all.Queue(afterSQL).QueryRow(func(row pgx.Row) error {
			v.known = v.target.after(r, row)
			return nil
		})
	}
	v.BatchResults = t.conn.Conn().SendBatch(r.ctx, all)
	var g guardRow
	err := g.scan(v.BatchResults.QueryRow())
	if err == nil {
		err = g.judge(r, &v.target)
	}
	if err != nil {
		for _, q := range all.QueuedQueries {
			q.Fn = nil // closing would call it with an answer that is thrown away
		}
		v.BatchResults.Close()
		return nil, r.fail(&v.target, err)
	}
	t.count()
	return v, nil
}

type viewBatch struct {
	pgx.BatchResults
	read   *read
	target target
	left   int // of the caller's queries; the position after them is not for the caller
	known  bool
	ended  bool
	err    error
}

var errNoMore = errors.New("no more results in batch") // as pgx says it

func (v *viewBatch) more() bool {
	if v.left <= 0 {
		return false
	}
	v.left--
	return true
}

func (v *viewBatch) Exec() (pgconn.CommandTag, error) {
	if !v.more() {
		return pgconn.CommandTag{}, errNoMore
	}
	tag, err := v.BatchResults.Exec()
	return tag, readError(err)
}

func (v *viewBatch) Query() (pgx.Rows, error) {
	if !v.more() {
		return errRows{errNoMore}, errNoMore
	}
	rows, err := v.BatchResults.Query()
	return txRows{rows, v.read.ctx}, readError(err)
}

func (v *viewBatch) QueryRow() pgx.Row {
	rows, _ := v.Query()
	return row{rows}
}

func (v *viewBatch) Close() error {
	if v.ended {
		return v.err
	}
	v.ended = true
	v.err = cancelled(v.read.ctx, readError(v.BatchResults.Close()))
	v.target.end()
	if r := v.read; r.tracks(&v.target) && !v.known {
		r.db.saw(r.ctx, r.scope, v.target.tag)
	}
	return v.err
}

// begin runs one attempt of a view's transaction. The guard comes before BEGIN: with one snapshot for the whole transaction a
// position read inside would prove nothing.
func (r *read) begin(t target, o pgx.TxOptions) (pgx.Tx, error) {
	conn := t.conn.Conn()
	var g guardRow
	err := g.scan(conn.QueryRow(r.ctx, t.guardSQL()))
	if err == nil {
		g.committed = true
		err = g.judge(r, &t)
	}
	var inner pgx.Tx
	if err == nil {
		inner, err = conn.BeginTx(r.ctx, pgx.TxOptions{BeginQuery: beginReadOnly(o)})
	}
	if err != nil {
		return nil, r.fail(&t, err)
	}
	t.state.view = true
	t.count()
	return &viewTx{Tx: inner, read: r, target: t}, nil
}

// beginReadOnly begins a transaction and takes a snapshot in the same round trip: from then on the server itself refuses to
// let it write, whatever is set.
func beginReadOnly(o pgx.TxOptions) string {
	sql := "begin"
	if o.IsoLevel != "" {
		sql += " isolation level " + string(o.IsoLevel)
	}
	sql += " read only"
	if o.DeferrableMode != "" {
		sql += " " + string(o.DeferrableMode)
	}
	return sql + "; select 1"
}

func checkInTx(conn *pgx.Conn, sql string) error {
	if err := checkOn(conn, sql); err != nil {
		return err
	}
	if why := sqllex.ClassifyInTx(sql).Refused; why != "" {
		return fmt.Errorf("%w: %s", ErrReadOnlyView, why)
	}
	return nil
}
