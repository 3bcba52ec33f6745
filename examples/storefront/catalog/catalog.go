// Package catalog fills a database with the shop's tables and products: the demo's, and those of tests.
package catalog

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

//go:embed schema.sql
var schema string

// Load creates the tables in the database at url, which must not have them yet, and n products with ids 1 to n. progress,
// if not nil, is called now and then with the number of products sent so far.
func Load(ctx context.Context, url string, n int, progress func(done int)) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))

	if _, err := conn.Exec(ctx, schema); err != nil {
		return fmt.Errorf("creating the tables: %w", err)
	}
	rows := pgx.CopyFromSlice(n, func(i int) ([]any, error) {
		if progress != nil && i%1000 == 0 {
			progress(i)
		}
		return product(i + 1), nil
	})
	columns := []string{"id", "category", "name", "description", "price_cents", "stock"}
	if _, err := conn.CopyFrom(ctx, pgx.Identifier{"products"}, columns, rows); err != nil {
		return fmt.Errorf("loading products: %w", err)
	}
	// The index after the rows: it is built once instead of kept up n times.
	if _, err := conn.Exec(ctx, `create index products_by_category on products (category, id); analyze`); err != nil {
		return err
	}
	if progress != nil {
		progress(n)
	}
	return nil
}

// Categories are the products' categories. Product id is in Categories[id % len(Categories)].
var Categories = []string{"anchors", "blocks", "charts", "cleats", "compasses", "fenders", "flags", "lamps", "ropes", "sails"}

var (
	adjectives = []string{"Light", "Heavy", "Folding", "Brass", "Galvanised", "Offshore", "Coastal", "Compact", "Classic", "Racing", "Floating"}
	sentences  = []string{
		"Made for boats that stay out when others turn back.",
		"Tested in salt water for a year before it went on sale.",
		"Every edge that a line may touch is rounded, so that it does not chafe.",
		"Parts that wear can be replaced with an ordinary spanner.",
		"Comes with a leaflet that is worth reading.",
		"The colour fades a little in the sun, which does no harm.",
		"Fits the mounting holes of the model before it.",
		"Works with gloves on, in the dark and upside down.",
		"The makers have used the same alloy since their grandparents' time.",
		"Weighed, measured and numbered by hand.",
		"Can be taken apart and put together again without losing a spring.",
		"Packed in cardboard that the next owner will want to keep.",
		"Not the cheapest one, but the last one you will buy.",
		"Rinse with fresh water once a year and forget about it otherwise.",
		"Sailors who had the old one asked us to change nothing, and we listened.",
		"Looks better with age.",
	}
)

func product(id int) []any {
	category := Categories[id%len(Categories)]
	name := fmt.Sprintf("%s %s no. %d", adjectives[id%len(adjectives)], strings.TrimSuffix(category, "s"), id)
	var description strings.Builder
	for i := 0; description.Len() < 800; i++ { // an odd step meets each of the 16 sentences
		description.WriteString(sentences[(id+i*(1+2*(id%8)))%len(sentences)] + " ")
	}
	return []any{int64(id), category, name, strings.TrimSpace(description.String()), int32(100 + id*37%50_000), int32(1_000_000)}
}

// ProgressLine returns a progress function that keeps one line of w up to date.
func ProgressLine(w io.Writer, n int) func(done int) {
	began, last := time.Now(), -1
	return func(done int) {
		percent := done * 100 / n
		if percent == last {
			return
		}
		last = percent
		fmt.Fprintf(w, "\rloading products: %d of %d (%d %%)", done, n, percent)
		if done == n {
			fmt.Fprintf(w, " in %.1f s\n", time.Since(began).Seconds())
		}
	}
}
