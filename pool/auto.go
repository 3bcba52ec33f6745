package pool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fairlead/fairlead/pool/internal/sqllex"
)

// Auto returns a view that decides statement by statement: what is proven to be a read goes where [Pool.ReadOnly] sends it,
// everything else to the primary, as the pool's own methods do. It fits where one value has to do for both, as in code that
// sqlc generated.
//
// A read is one SELECT, VALUES, TABLE, SHOW or WITH of these, without INTO and locking clauses, that calls only functions
// which PostgreSQL declares stable or immutable; the catalog is asked about an application's own functions and views, and
// asked again within a minute. Any doubt makes a write: comments that do not end, more than one statement, names of prepared
// statements, arguments that rewrite the text. BEGIN with pgx.ReadOnly goes where reads go, every other one to the primary.
//
// What is taken for a read still runs read-only. If the server finds that it writes (a function declared stable that is not;
// an operator, a cast or a policy over a volatile one) it has changed nothing, and it runs once more, on the primary, where
// that text goes from then on. Only what servers let pass in a read-only transaction is out of sight there, of which the
// advisory locks matter: keep them out of functions that are declared stable.
func (p *Pool) Auto() View {
	v := p.ReadOnly()
	v.auto = true
	return v
}

// proven says that v may run sql as a read.
func (v View) proven(ctx context.Context, sql string, args []any) bool {
	for _, a := range args {
		switch a.(type) {
		case pgx.NamedArgs, pgx.StrictNamedArgs: // they change names of parameters to numbers
		case pgx.QueryRewriter:
			return false
		}
	}
	if sqllex.Classify(sql).Refused != "" { // most writes: no catalog is needed, which may have to be waited for
		return false
	}
	return sqllex.ClassifyKnowing(sql, v.db.auto.known(ctx, v.db)).Read && !v.db.auto.wrote(sql)
}

// refuted notes that the server refused sql as a write, and says whether it has to go to the primary.
func (v View) refuted(sql string, err error) bool {
	if !errors.Is(err, ErrReadOnlyView) {
		return false
	}
	v.db.auto.learn(sql)
	return true
}

func (v View) autoExec(ctx context.Context, sql string, args []any) (pgconn.CommandTag, error) {
	if v.proven(ctx, sql, args) {
		tag, err := v.execRead(ctx, sql, args)
		if !v.refuted(sql, err) {
			return tag, err
		}
	}
	return v.db.Exec(ctx, sql, args...)
}

func (v View) autoQuery(ctx context.Context, sql string, args []any) (pgx.Rows, error) {
	if v.proven(ctx, sql, args) {
		rows, err := v.query(ctx, sql, args)
		if !v.refuted(sql, err) {
			return autoRows{rows, v, sql}, err
		}
	}
	return v.db.Query(ctx, sql, args...)
}

// autoRows notes a write that shows only after rows were delivered, when it is too late to run it elsewhere.
type autoRows struct {
	pgx.Rows
	view View
	sql  string
}

func (r autoRows) Err() error {
	err := r.Rows.Err()
	r.view.refuted(r.sql, err)
	return err
}

func (v View) autoQueryRow(ctx context.Context, sql string, args []any) pgx.Row {
	if !v.proven(ctx, sql, args) {
		return v.db.QueryRow(ctx, sql, args...)
	}
	rows, _ := v.query(ctx, sql, args)
	return autoRow{row{rows}, v, ctx, sql, args}
}

// autoRow delivers nothing before it is known that the whole statement was a read.
type autoRow struct {
	row
	view View
	ctx  context.Context
	sql  string
	args []any
}

func (r autoRow) Scan(dest ...any) error {
	err := r.row.Scan(dest...)
	if r.view.refuted(r.sql, err) {
		return r.view.db.QueryRow(r.ctx, r.sql, r.args...).Scan(dest...)
	}
	return err
}

func (v View) autoBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	for _, q := range b.QueuedQueries {
		if !v.proven(ctx, q.SQL, q.Arguments) {
			return v.db.SendBatch(ctx, b)
		}
	}
	if len(b.QueuedQueries) == 0 {
		return v.db.SendBatch(ctx, b)
	}
	a := &autoBatch{view: v, ctx: ctx, queries: b.QueuedQueries}
	a.now = v.sendBatch(ctx, a.rest())
	return a
}

// autoBatch are the results of a batch of reads. If one turns out to write, it and those behind it are sent to the primary:
// what came before has changed nothing, and its results stand.
type autoBatch struct {
	view    View
	ctx     context.Context
	queries []*pgx.QueuedQuery
	next    int // in queries
	now     pgx.BatchResults
	primary bool
	err     error // of a statement or a callback: the rest is not run
	ended   bool
}

// rest is a batch of the queries whose results have not been asked for. Their callbacks are called by Close.
func (a *autoBatch) rest() *pgx.Batch {
	b := &pgx.Batch{}
	for _, q := range a.queries[a.next:] {
		b.QueuedQueries = append(b.QueuedQueries, &pgx.QueuedQuery{SQL: q.SQL, Arguments: q.Arguments})
	}
	return b
}

// turn sends the rest to the primary if err says that the query at i writes.
func (a *autoBatch) turn(i int, err error) bool {
	if a.primary || i >= len(a.queries) || !a.view.refuted(a.queries[i].SQL, err) {
		return false
	}
	a.now.Close()
	a.primary, a.next = true, i
	a.now = a.view.db.SendBatch(a.ctx, a.rest())
	a.next = i + 1
	return true
}

// take returns the index of the query whose results come next.
func (a *autoBatch) take() int {
	a.next++
	return a.next - 1
}

func (a *autoBatch) Exec() (pgconn.CommandTag, error) {
	i := a.take()
	tag, err := a.now.Exec()
	if a.turn(i, err) {
		tag, err = a.now.Exec()
	}
	a.note(i, err)
	return tag, err
}

// note keeps the error of query i, as pgx does.
func (a *autoBatch) note(i int, err error) {
	if a.err == nil && i < len(a.queries) && !errors.Is(err, pgx.ErrNoRows) {
		a.err = err
	}
}

func (a *autoBatch) Query() (pgx.Rows, error) {
	i := a.take()
	rows, err := a.now.Query()
	r := &batchRows{Rows: rows, batch: a, i: i}
	if !a.primary && err == nil {
		r.primed, r.first = true, rows.Next()
		if !r.first {
			err = rows.Err()
		}
		if a.turn(i, err) {
			rows, err = a.now.Query()
			r = &batchRows{Rows: rows, batch: a, i: i}
		}
	}
	a.note(i, err)
	return r, err
}

// batchRows are rows of which the first may have been waited for.
type batchRows struct {
	pgx.Rows
	batch         *autoBatch
	i             int
	primed, first bool
}

func (r *batchRows) Next() bool {
	more := r.first
	if !r.primed {
		more = r.Rows.Next()
	}
	r.primed = false
	if !more {
		r.batch.note(r.i, r.Rows.Err())
	}
	return more
}

func (r *batchRows) Close() {
	r.Rows.Close()
	r.batch.note(r.i, r.Rows.Err())
}

func (a *autoBatch) QueryRow() pgx.Row {
	i := a.take()
	return &batchRow{a, i, a.now.QueryRow()}
}

// batchRow delivers nothing before it is known that its query was a read.
type batchRow struct {
	batch *autoBatch
	i     int
	row   pgx.Row
}

func (r *batchRow) Scan(dest ...any) error {
	err := r.row.Scan(dest...)
	if r.batch.turn(r.i, err) {
		err = r.batch.now.QueryRow().Scan(dest...)
	}
	r.batch.note(r.i, err)
	return err
}

func (a *autoBatch) Close() error {
	if a.ended {
		return a.err
	}
	for a.err == nil && a.next < len(a.queries) {
		if q := a.queries[a.next]; q.Fn != nil {
			if err := q.Fn(a); err != nil {
				a.err = err
			}
		} else {
			a.Exec()
		}
	}
	a.ended = true
	a.note(0, a.now.Close())
	return a.err
}

// Tx is nil: a batch that begins a transaction goes to the primary.
func (a *autoBatch) Tx() pgx.Tx { return nil }

func (v View) autoBegin(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error) {
	if o.AccessMode == pgx.ReadOnly && o.BeginQuery == "" && o.CommitQuery == "" {
		return v.begin(ctx, o)
	}
	return v.db.BeginTx(ctx, o)
}

const (
	catalogAge  = time.Minute // of what is known about functions
	catalogWait = time.Second // of the statements that come before anything is
	maxLearnt   = 1000        // statements that turned out to write
)

// autoState is what [Pool.Auto] knows about the database.
type autoState struct {
	mu      sync.Mutex
	catalog *sqllex.Catalog
	digest  string    // of the tables that it was made from
	asked   time.Time // when the latest look began
	looking chan struct{}
	learnt  map[string]struct{}
}

// known returns the catalog: after a minute it is looked at again, while the old one serves. Without one it waits for it,
// and returns nil if it cannot be had.
func (a *autoState) known(ctx context.Context, p *Pool) *sqllex.Catalog {
	a.mu.Lock()
	c, looking := a.catalog, a.looking
	age := time.Since(a.asked)
	if looking == nil && (age > catalogAge || c == nil && age > catalogWait) {
		looking = make(chan struct{})
		if p.background(func() { a.look(p, looking) }) {
			a.looking, a.asked = looking, time.Now()
		} else {
			looking = nil
		}
	}
	a.mu.Unlock()
	if c != nil || looking == nil {
		return c
	}
	timer := time.NewTimer(catalogWait)
	defer timer.Stop()
	select {
	case <-looking:
	case <-timer.C:
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.catalog
}

// background runs f, which Close will wait for; it is false if the pool is closed.
func (p *Pool) background(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Load() {
		return false
	}
	p.tasks.Go(f)
	return true
}

func (a *autoState) look(p *Pool, done chan struct{}) {
	ctx, cancel := context.WithTimeout(p.ctx, catalogWait)
	defer cancel()
	a.mu.Lock()
	old := a.digest
	a.mu.Unlock()
	catalog, digest, err := readCatalog(ctx, p, old)
	if err != nil && ctx.Err() == nil {
		p.opt.log.Warn("the catalog could not be read: statements with functions of the application go to the primary", "error", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil && catalog != nil {
		a.catalog, a.digest = catalog, digest
		a.learnt = nil
	}
	a.looking = nil
	close(done)
}

const (
	// digestSQL changes whenever a function or a view does: every change makes a new row version.
	digestSQL = `select (select coalesce(sum(hashtextextended(oid::text || xmin::text, 0)), 0) from pg_proc)::text || ' ' ||
		(select coalesce(sum(hashtextextended(oid::text || xmin::text, 0)), 0) from pg_rewrite)::text || ' ' ||
		(select coalesce(sum(hashtextextended(oid::text || xmin::text, 0)), 0) from pg_class where relkind = 'v')::text`

	// Some of pg_catalog's functions are declared stable and yet tell about one server, or take a transaction's id.
	functionsSQL = `select proname::text,
		bool_and(prokind in ('f', 'w') and provolatile <> 'v' and
			not (pronamespace = 'pg_catalog'::regnamespace and proname ~ '^(pg_|txid_|inet_|lo_|binary_upgrade_)')),
		bool_or(pronamespace <> 'pg_catalog'::regnamespace and (prokind in ('p', 'a') or provolatile = 'v'))
		from pg_proc group by 1`

	viewsSQL = `select c.relname::text, pg_get_viewdef(c.oid) from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where c.relkind = 'v' and n.nspname not in ('pg_catalog', 'information_schema')`
)

// readCatalog returns nil if the catalog is still that of digest old.
func readCatalog(ctx context.Context, p *Pool, old string) (*sqllex.Catalog, string, error) {
	tx, err := p.ReadOnly().BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return nil, "", err
	}
	defer tx.Rollback(ctx)
	var digest string
	if err := tx.QueryRow(ctx, digestSQL).Scan(&digest); err != nil || digest == old {
		return nil, digest, err
	}
	var pure, volatile []string
	var name string
	var isPure, isVolatile bool
	rows, _ := tx.Query(ctx, functionsSQL)
	_, err = pgx.ForEachRow(rows, []any{&name, &isPure, &isVolatile}, func() error {
		if isPure {
			pure = append(pure, name)
		}
		if isVolatile {
			volatile = append(volatile, name)
		}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("functions: %w", err)
	}
	views := make(map[string]string)
	var definition *string
	rows, _ = tx.Query(ctx, viewsSQL)
	_, err = pgx.ForEachRow(rows, []any{&name, &definition}, func() error {
		d := ""
		if definition != nil { // else it was dropped just now
			d = *definition
		}
		if other, ok := views[name]; ok {
			d = other + "\x00" + d
		}
		views[name] = d
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("views: %w", err)
	}
	return sqllex.NewCatalog(pure, volatile, views), digest, nil
}

func (a *autoState) wrote(sql string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.learnt[sql]
	return ok
}

func (a *autoState) learn(sql string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.learnt == nil || len(a.learnt) >= maxLearnt {
		a.learnt = make(map[string]struct{})
	}
	a.learnt[sql] = struct{}{}
}
