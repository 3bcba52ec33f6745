package sqllex

import (
	"strings"
	"testing"
)

var catalog = NewCatalog(
	[]string{"price", "Mixed", "lower", "upper", "substring", "count_words", "both", "été"},
	[]string{"note", "shout", "Loud", "both", "déjà"},
	map[string]string{
		"plain_view":  " SELECT t.a, price(t.a) AS price FROM t;",
		"deep_view":   " SELECT plain_view.a FROM plain_view;",
		"noisy_view":  " SELECT note(t.a) AS n FROM t;",
		"noisier":     " SELECT noisy_view.n FROM noisy_view;",
		"noisiest":    " SELECT noisier.n FROM noisier;",
		"locking":     " SELECT pg_try_advisory_lock(1) AS ok;",
		"of_two":      " SELECT 1;\x00 SELECT note(1);",
		"with_quoted": " SELECT \"substring\"(t.a, 1, 2) FROM t;",
	})

func TestCatalogProvesCalls(t *testing.T) {
	for sql, want := range map[string]bool{
		"select price(a) from t":                       true,
		"select PRICE (a) from t":                      true,
		"select shop.price(a) from t":                  true,
		"select \"price\"(a) from t":                   true,
		"select \"Mixed\"(a) from t":                   true,
		"select shop.\"Mixed\"(a) from t":              true,
		"select pg_catalog.\"substring\"(a, 1) from t": true,
		"select lower(a), count(*) from t":             true,
		"select * from count_words($1) x":              true,
		"select t.price from t":                        true,
		"select * from plain_view, deep_view":          true,
		"select * from with_quoted":                    true,
		"select 'note', \"x\" from t -- note":          true,

		"select Mixed(a) from t":                        false, // is mixed, which is not known
		"select \"PRICE\"(a) from t":                    false,
		"select unknown(a) from t":                      false,
		"select note(a) from t":                         false,
		"select t.note from t":                          false, // the same, if t has no such column
		"select (t).note from t":                        false,
		"select t.\"note\" from t":                      false,
		"select t.\"Loud\" from t":                      false,
		"select t.loud from t":                          true,
		"select t.U&\"no\\0074e\" from t":               false,
		"select both(a) from t":                         false,
		"select été(a) from t":                          false, // which letters are folded depends on the encoding
		"select \"été\"(a) from t":                      true,
		"select t.DÉJÀ from t":                          false,
		"select * from noisy_view":                      false,
		"select * from shop.noisy_view v":               false,
		"select * from \"noisy_view\"":                  false,
		"table noisier":                                 false,
		"with x as (table noisiest) table x":            false,
		"select * from locking":                         false,
		"select * from of_two":                          false,
		"select " + strings.Repeat("n", 64) + " from t": false, // is cut off
		"select price(a) from t for update":             false,
		"select price(a); select price(a)":              false,
		"select price(note(a)) from t":                  false,
		"select U&\"price\"(a) from t":                  false,
	} {
		if got := ClassifyKnowing(sql, catalog).Read; got != want {
			t.Errorf("%s: proven %v, want %v", sql, got, want)
		}
	}
	for _, sql := range unproven {
		if !strings.Contains(sql, "lower('x')") && ClassifyKnowing(sql, catalog).Read {
			t.Errorf("%q: is no proven read", sql)
		}
	}
	for _, sql := range reads {
		if !ClassifyKnowing(sql, NewCatalog(nil, nil, nil)).Read {
			t.Errorf("%q: is no read any more with an empty catalog", sql)
		}
		if ClassifyKnowing(sql, nil).Read {
			t.Errorf("%q: proven without a catalog", sql)
		}
	}
}

// A catalog that doubts a name makes no statement with that name a read, however it is written.
func FuzzClassifyKnowing(f *testing.F) {
	for _, sql := range reads {
		f.Add(sql)
	}
	f.Add("select price(note), \"note\" from t")
	f.Fuzz(func(t *testing.T, sql string) {
		if !ClassifyKnowing(sql, catalog).Read {
			return
		}
		for _, more := range []string{"\n; delete from t", "\nfor update", "\n, noisiest", "\n, note(1)", "\n, x.note", "\n, \"Loud\""} {
			if ClassifyKnowing(sql+more, catalog).Read {
				t.Errorf("%q is taken for a read", sql+more)
			}
		}
		if Classify("delete from t where exists (" + sql + "\n)").Read {
			t.Errorf("a delete around %q is taken for a read", sql)
		}
	})
}
