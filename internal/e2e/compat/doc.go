// Package compat checks that what is written for pgx and pgxpool works with pool unchanged: code that sqlc generated, scany,
// pgx's helpers and hooks, and a real PgBouncer between.
package compat
