package pool

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// misread says that the server of conn may see other strings in sql than the lexer does: with standard_conforming_strings
// off, a backslash keeps a quote from ending one. Then nothing that the lexer says of sql counts.
func misread(conn *pgx.Conn, sql string) bool {
	return strings.IndexByte(sql, '\\') >= 0 && conn.PgConn().ParameterStatus("standard_conforming_strings") == "off"
}

func checkOn(conn *pgx.Conn, sql string) error {
	if misread(conn, sql) {
		return fmt.Errorf("%w: what a statement with a backslash does is not certain with standard_conforming_strings off", ErrReadOnlyView)
	}
	return nil
}
