package testenv

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// errNoStatements is what QueryCount returns without the extension.
var errNoStatements = errors.New("testenv: pg_stat_statements is not installed; on Debian and Ubuntu it is part of postgresql, elsewhere of postgresql-contrib")

// QueryCount returns how many statements this node has completed in a database
// whose text is like a pattern of SQL's LIKE: "%from products%". An empty database
// means all, testenv's own queries included. Constants in the text are replaced by
// $1 and so on, statements that failed are not counted, and neither are those
// inside functions. Counts begin at zero when the node starts.
func (n *Node) QueryCount(ctx context.Context, database, like string) (int64, error) {
	if !n.pg.binaries.statements {
		return 0, errNoStatements
	}
	return get[int64](ctx, n, `select coalesce(sum(calls), 0)::bigint
		from pg_stat_statements s join pg_database d on d.oid = s.dbid
		where ($1 = '' or datname = $1) and query like $2`, database, like)
}

// ResetCounts sets the counts of a database on this node to zero; an empty
// database means all.
func (n *Node) ResetCounts(ctx context.Context, database string) error {
	if !n.pg.binaries.statements {
		return errNoStatements
	}
	return n.with(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `select pg_stat_statements_reset(0, oid, 0) from pg_database where datname = $1
			union all select pg_stat_statements_reset() where $1 = ''`, database)
		return err
	})
}
