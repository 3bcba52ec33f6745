package compat

import (
	"context"
	_ "embed"
	"errors"
	"reflect"
	"testing"

	"github.com/georgysavva/scany/v2/pgxscan"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/fairlead/fairlead/internal/e2e/compat/sqlcgen"
	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/causal"
)

//go:embed sqlcgen/schema.sql
var schemaSQL string

func schema(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, schemaSQL)
	return err
}

// The interfaces that libraries ask for.
var (
	_ sqlcgen.DBTX    = (*pool.Pool)(nil)
	_ sqlcgen.DBTX    = pool.View{}
	_ pgxscan.Querier = (*pool.Pool)(nil)
	_ pgxscan.Querier = pool.View{}
)

// Code that sqlc generated runs on the pool, on a view that decides by itself, and in transactions of both; what it reads on a
// read-only view is what was written before.
func TestSqlc(t *testing.T) {
	db := open(t)
	for name, q := range map[string]sqlcgen.DBTX{"pool": db, "auto": db.Auto()} {
		t.Run(name, func(t *testing.T) {
			before := db.Stats()
			ctx, _ := causal.Begin(t.Context())
			queries := sqlcgen.New(q)
			author, err := queries.CreateAuthor(ctx, sqlcgen.CreateAuthorParams{Name: "Ada " + name, Bio: pgtype.Text{String: "b", Valid: true}})
			if err != nil {
				t.Fatal(err)
			}
			n, err := queries.AddBooks(ctx, []sqlcgen.AddBooksParams{{AuthorID: author.ID, Title: "B", Pages: 20}, {AuthorID: author.ID, Title: "A", Pages: 10}})
			if err != nil || n != 2 {
				t.Fatal(n, err)
			}
			if err := queries.RenameAuthor(ctx, sqlcgen.RenameAuthorParams{ID: author.ID, Name: "Ada L."}); err != nil {
				t.Fatal(err)
			}
			tag, err := queries.TagBooks(ctx, sqlcgen.TagBooksParams{AuthorID: author.ID, Tag: "x"})
			if err != nil || tag.RowsAffected() != 2 {
				t.Fatal(tag, err)
			}
			want := []sqlcgen.BooksOfRow{{Title: "A", Pages: 10, Author: "Ada L."}, {Title: "B", Pages: 20, Author: "Ada L."}}
			for where, q := range map[string]*sqlcgen.Queries{"the same": queries, "a read-only view": sqlcgen.New(db.ReadOnly())} {
				got, err := q.GetAuthor(ctx, author.ID)
				if err != nil || got.Name != "Ada L." {
					t.Errorf("%s: %+v, %v", where, got, err)
				}
				books, err := q.BooksOf(ctx, author.ID)
				if err != nil || !reflect.DeepEqual(books, want) {
					t.Errorf("%s: %+v, %v", where, books, err)
				}
				if _, err := q.GetAuthor(ctx, -1); !errors.Is(err, pgx.ErrNoRows) || !pool.IsNotFound(err) {
					t.Errorf("%s: %v", where, err)
				}
				q.CountBooks(ctx, []int64{author.ID, -1}).QueryRow(func(i int, n int64, err error) {
					if err != nil || n != []int64{2, 0}[i] {
						t.Errorf("%s: batch %d: %d, %v", where, i, n, err)
					}
				})
				q.TitlesOf(ctx, []int64{author.ID}).Query(func(_ int, titles []string, err error) {
					if err != nil || !reflect.DeepEqual(titles, []string{"A", "B"}) {
						t.Errorf("%s: %q, %v", where, titles, err)
					}
				})
			}
			queries.RenameBooks(ctx, []sqlcgen.RenameBooksParams{{AuthorID: author.ID, Title: "C"}}).Exec(func(_ int, err error) {
				if err != nil {
					t.Error(err)
				}
			})
			err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
				n, err := queries.WithTx(tx).DeleteBooksOf(ctx, author.ID)
				if n != 2 {
					t.Errorf("%d books deleted", n)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
			if books, err := sqlcgen.New(db.ReadOnly()).BooksOf(ctx, author.ID); err != nil || len(books) != 0 {
				t.Errorf("%+v, %v", books, err)
			}
			after := db.Stats()
			if after.ReadsReplica+after.ReadsPrimary == before.ReadsReplica+before.ReadsPrimary {
				t.Error("no view was used")
			}
			if _, err := sqlcgen.New(db.ReadOnly()).CreateAuthor(ctx, sqlcgen.CreateAuthorParams{Name: "x"}); !errors.Is(err, pool.ErrReadOnlyView) {
				t.Errorf("a read-only view: %v", err)
			}
		})
	}
}

type book struct {
	Title string
	Pages int32
}

func TestScanyAndPgxHelpers(t *testing.T) {
	db := open(t)
	ctx, _ := causal.Begin(t.Context())
	author, err := sqlcgen.New(db).CreateAuthor(ctx, sqlcgen.CreateAuthorParams{Name: "Ada"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sqlcgen.New(db).AddBooks(ctx, []sqlcgen.AddBooksParams{{AuthorID: author.ID, Title: "A", Pages: 1}, {AuthorID: author.ID, Title: "B", Pages: 2}}); err != nil {
		t.Fatal(err)
	}
	const sql = "select title, pages from books where author_id = $1 order by title"
	want := []book{{"A", 1}, {"B", 2}}
	for name, q := range map[string]pgxscan.Querier{"pool": db, "auto": db.Auto(), "read-only": db.ReadOnly()} {
		t.Run(name, func(t *testing.T) {
			var all []book
			if err := pgxscan.Select(ctx, q, &all, sql, author.ID); err != nil || !reflect.DeepEqual(all, want) {
				t.Errorf("scany: %+v, %v", all, err)
			}
			var one book
			if err := pgxscan.Get(ctx, q, &one, sql+" limit 1", author.ID); err != nil || one != want[0] {
				t.Errorf("scany: %+v, %v", one, err)
			}
			if err := pgxscan.Get(ctx, q, &one, sql, -1); !pgxscan.NotFound(err) {
				t.Errorf("scany: %v", err)
			}
			rows, err := q.Query(ctx, sql, author.ID)
			if err != nil {
				t.Fatal(err)
			}
			all, err = pgx.CollectRows(rows, pgx.RowToStructByName[book])
			if err != nil || !reflect.DeepEqual(all, want) {
				t.Errorf("CollectRows: %+v, %v", all, err)
			}
			rows, _ = q.Query(ctx, sql, author.ID)
			if _, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[book]); !errors.Is(err, pgx.ErrTooManyRows) {
				t.Errorf("CollectExactlyOneRow: %v", err)
			}
			rows, _ = q.Query(ctx, sql, -1)
			if _, err := pgx.CollectOneRow(rows, pgx.RowToStructByPos[book]); !errors.Is(err, pgx.ErrNoRows) {
				t.Errorf("CollectOneRow: %v", err)
			}
			rows, _ = q.Query(ctx, "select nonsense")
			if _, err := pgx.CollectRows(rows, pgx.RowToMap); err == nil {
				t.Error("CollectRows: no error")
			}
			var title string
			sum, seen := 0, 0
			rows, _ = q.Query(ctx, sql, author.ID)
			if _, err := pgx.ForEachRow(rows, []any{&title, &seen}, func() error { sum += seen; return nil }); err != nil || sum != 3 {
				t.Errorf("ForEachRow: %d, %v", sum, err)
			}
			rows, _ = q.Query(ctx, sql, author.ID)
			if _, err := pgx.ForEachRow(rows, []any{&title, &seen}, func() error { return errStop }); !errors.Is(err, errStop) {
				t.Errorf("ForEachRow: %v", err)
			}
		})
	}
	for _, n := range db.Stats().Nodes {
		if n.InUse != 0 {
			t.Errorf("%d connections to %s are still in use", n.InUse, n.Name)
		}
	}
}

var errStop = errors.New("stop")
