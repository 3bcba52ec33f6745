// Package sqllex says what a statement can be trusted to be, from its text alone. It is a lexer and a few rules, not a
// parser: whatever it does not recognise counts as a write, so an answer may cost speed and never truth.
package sqllex

import "strings"

// Class is what is known about a query string.
type Class struct {
	// Read: one statement that the rules prove to be a plain read. False says nothing.
	//
	// Without a [Catalog] the proof takes tables for tables and pg_catalog's functions for themselves: a view over a writing
	// function, or an overload of lower() that writes, is out of a lexer's sight. Callers that need more let the server
	// confirm it, or bring the catalog.
	Read bool
	// Refused is why the string must not be sent where only reads may run, although the server might let it pass; "" if
	// there is no reason. It includes everything that could end a read-only transaction.
	Refused string
}

// Classify looks at a whole query string.
func Classify(sql string) Class {
	return judge(sql, false, nil)
}

// ClassifyKnowing is Classify with what the database's catalog says: functions that it declares stable or immutable are
// proven too, and whatever bears the name of something that may write is not. A nil catalog proves nothing.
func ClassifyKnowing(sql string, known *Catalog) Class {
	c := judge(sql, false, known)
	c.Read = c.Read && known != nil
	return c
}

// ClassifyInTx is Classify for a statement inside an explicit read-only transaction, where cursors, savepoints and
// SET LOCAL are harmless, but for settings that decide on the transaction itself.
func ClassifyInTx(sql string) Class {
	return judge(sql, true, nil)
}

func judge(sql string, inTx bool, known *Catalog) Class {
	l := lexer{src: sql}
	c := Class{Read: true}
	refuse := func(why string) {
		c.Read = false
		if c.Refused == "" {
			c.Refused = why
		}
	}
	var (
		first, second  string // the leading keywords; "(" does not count
		words          int    // tokens so far, while first is "set"
		setting        bool   // the next two tokens are set_config's first argument and what ends it
		named          bool   // the first of them has passed
		prev, prevPrev token
		ended          bool // a top-level semicolon has passed
	)
	for {
		t := l.next()
		if t.kind == end {
			break
		}
		if ended && !(t.kind == punct && t.text == ";") {
			refuse("it is more than one statement")
			break
		}
		if setting {
			switch {
			case !named && t.kind == literal && t.text != "" && !decides(t.text):
				named = true
			case named && t.kind == punct && t.text == ",":
				setting, named = false, false
			default:
				refuse("it calls set_config for a setting of the transaction, or one that is not a plain string")
				setting, named = false, false
			}
		}
		if first == "set" {
			words++
			name := t.text
			switch {
			case words == 1 && second == "" && t.kind == word: // LOCAL, or refused below
			case words == 2 && (t.kind != word && t.kind != quoted || t.escaped || decides(name)),
				words == 3 && prev.kind == word && prev.text == "session" && name == "characteristics":
				refuse("it sets what decides on the transaction")
			}
		}
		switch t.kind {
		case bad:
			c.Read = false
			if c.Refused == "" {
				c.Refused = "it does not end where it should"
			}
			return c
		case doubtful:
			c.Read = false
		case quoted:
			if t.escaped || known.doubts(t.text) { // t.f calls f(t) if t has no such column, so any place will do
				c.Read = false
			}
		case word:
			if known.doubts(t.text) {
				c.Read = false
			}
			switch {
			case first == "":
				first = t.text
			case second == "":
				second = t.text
			}
			if banned[t.text] {
				c.Read = false
			}
		case punct:
			if t.text == ";" {
				ended = first != "" || prev.kind != end
				continue
			}
			if first == "" && t.text != "(" {
				first = "?"
			}
			if t.text == "(" && (prev.kind == literal || prev.kind == punct && (prev.text == ")" || prev.text == "]")) {
				c.Read = false // no expression that this lexer knows
			}
			if t.text == "(" && (prev.kind == word || prev.kind == quoted) {
				qualified := prevPrev.kind == punct && prevPrev.text == "."
				if why := refusedCall(prev); why != "" {
					refuse(why)
				}
				setting = strings.EqualFold(prev.text, "set_config")
				plain := prev.kind == word && !qualified
				if !(plain && (pure[prev.text] || keyword(prev.text, prevPrev)) || known.pureCall(prev)) {
					c.Read = false
				}
			}
		}
		if first == "" && t.kind != punct {
			first = "?" // begins with something that no statement begins with
		}
		if t.kind == punct && t.text == "." && prev.kind == word && prev.text == "pg_catalog" {
			prev, prevPrev = token{}, token{} // pg_catalog.f is f
			continue
		}
		prevPrev, prev = prev, t
	}
	switch first {
	case "": // nothing but blanks and comments
		c.Read = false
	case "select", "values", "table", "with", "show":
	case "explain":
		c.Read = false
	default:
		c.Read = false
		if inTx && allowedInTx(first, second) {
			break
		}
		refuse("it does not begin like a read")
	}
	return c
}

// keyword says that name, after the token before, stands before a parenthesis as a word of SQL's own and calls nothing.
func keyword(name string, before token) bool {
	switch name {
	case "over", "filter":
		return before.kind == punct && before.text == ")"
	case "by":
		return before.kind == word && (before.text == "group" || before.text == "order" || before.text == "partition")
	case "materialized":
		return before.kind == word && (before.text == "as" || before.text == "not")
	}
	return reserved[name]
}

// decides says that a setting decides on a transaction's access mode or snapshot, for now or for later, or on what its
// strings mean. PostgreSQL takes settings' names in any case.
func decides(setting string) bool {
	name := lowerASCII(setting)
	return name == "transaction" || strings.HasPrefix(name, "transaction_") || strings.HasPrefix(name, "default_transaction_") ||
		name == "standard_conforming_strings" || name == "backslash_quote"
}

func allowedInTx(first, second string) bool {
	switch first {
	case "declare", "fetch", "move", "close", "savepoint", "release":
		return true
	case "rollback":
		return second == "to"
	case "set":
		return second == "local"
	}
	return false
}

// refusedCall names functions that the server runs in a read-only transaction although they change something that others
// can see, or that mean something else on a replica.
func refusedCall(t token) string {
	name := strings.ToLower(t.text)
	switch {
	case t.escaped:
		return "it calls a function by a name in Unicode escapes"
	case name == "pg_notify", strings.HasPrefix(name, "pg_advisory_"), strings.HasPrefix(name, "pg_try_advisory_"),
		strings.HasPrefix(name, "lo_") && name != "lo_get", name == "lowrite",
		strings.HasPrefix(name, "dblink"), strings.HasPrefix(name, "pg_logical_"),
		strings.HasPrefix(name, "pg_replication_"), strings.HasPrefix(name, "pg_drop_"), strings.HasPrefix(name, "pg_create_"),
		strings.HasPrefix(name, "pg_copy_"), name == "pg_switch_wal", name == "pg_promote",
		name == "pg_terminate_backend", name == "pg_cancel_backend", name == "pg_reload_conf",
		strings.HasPrefix(name, "pg_wal_replay_"):
		return "it calls " + name
	case name == "ts_stat", strings.HasPrefix(name, "crosstab"), name == "connectby":
		return "it runs a statement given as a string with " + name
	}
	for _, what := range [...]string{"query_to_xml", "table_to_xml", "schema_to_xml", "database_to_xml", "cursor_to_xml"} {
		if strings.HasPrefix(name, what) { // and …_and_xmlschema, …schema
			return "it runs a statement given as a string, or over whatever it finds, with " + name
		}
	}
	return ""
}

func set(words string) map[string]bool {
	m := make(map[string]bool)
	for w := range strings.FieldsSeq(words) {
		m[w] = true
	}
	return m
}

var (
	// banned words make a statement unproven wherever they stand outside quotes. FOR locks rows (and is also part of
	// substring(), which is then unproven too); INTO makes a table.
	banned = set(`into for insert update delete merge truncate create alter drop grant revoke lock copy call do execute
		prepare deallocate vacuum analyze cluster reindex refresh notify listen unlisten set reset discard begin start commit
		rollback savepoint release declare fetch move close comment security import checkpoint load reassign`)

	// reserved are the words before a parenthesis that PostgreSQL lets no function have as its name.
	reserved = set(`select from where and or not in exists any all some on using as having values when then else case union
		intersect except distinct limit offset lateral between array row with group order cast
		coalesce nullif greatest least extract position trim grouping
		numeric decimal dec varchar char character bit float timestamp time interval`)

	// pure are functions of pg_catalog that PostgreSQL 15 declares immutable or stable (every overload), or aggregates and
	// window functions over such.
	pure = set(`count sum avg min max bool_and bool_or every string_agg array_agg json_agg jsonb_agg json_object_agg
		jsonb_object_agg stddev stddev_pop stddev_samp variance var_pop var_samp percentile_cont percentile_disc mode corr
		row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value
		abs ceil ceiling floor round trunc sign mod power sqrt cbrt exp ln log log10 div pi degrees radians width_bucket
		lower upper initcap length char_length character_length octet_length bit_length concat concat_ws format left right
		lpad rpad ltrim rtrim btrim replace translate reverse repeat split_part strpos substr starts_with ascii chr md5
		to_hex quote_ident quote_literal quote_nullable regexp_replace regexp_match regexp_matches regexp_split_to_array
		regexp_split_to_table regexp_count regexp_like regexp_substr regexp_instr encode decode sha224 sha256 sha384 sha512
		to_char to_date to_number to_timestamp now date_trunc date_part age make_date make_time make_timestamp make_timestamptz
		make_interval justify_days justify_hours justify_interval isfinite date_bin transaction_timestamp
		statement_timestamp current_database current_schema version pg_typeof
		array_length array_upper array_lower array_ndims array_dims array_position array_positions array_append array_prepend
		array_cat array_remove array_replace array_to_string string_to_array cardinality unnest generate_series
		generate_subscripts
		to_json to_jsonb row_to_json array_to_json json_build_object jsonb_build_object json_build_array jsonb_build_array
		json_array_length jsonb_array_length json_array_elements jsonb_array_elements json_array_elements_text
		jsonb_array_elements_text json_each jsonb_each json_each_text jsonb_each_text json_object_keys jsonb_object_keys
		json_extract_path jsonb_extract_path json_extract_path_text jsonb_extract_path_text json_typeof jsonb_typeof
		json_strip_nulls jsonb_strip_nulls jsonb_set jsonb_insert jsonb_pretty jsonb_path_query jsonb_path_exists
		jsonb_path_match jsonb_path_query_array jsonb_path_query_first json_populate_record jsonb_populate_record
		json_to_record jsonb_to_record json_to_recordset jsonb_to_recordset
		to_tsvector to_tsquery plainto_tsquery phraseto_tsquery websearch_to_tsquery ts_rank ts_rank_cd ts_headline setweight
		num_nulls num_nonnulls isempty lower_inc upper_inc range_merge host masklen network
		timestamptz timetz
		pg_column_size pg_size_pretty pg_get_expr format_type obj_description col_description
		pg_table_is_visible has_table_privilege to_regclass to_regtype`)
)
