package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/pool/internal/lsn"
)

func TestBadOptions(t *testing.T) {
	t.Setenv("FAIRLEAD_WORKERS", "many")
	_, err := New(t.Context(), "postgres://u:secret@host/db", Options{MaxConns: -5, Replicas: []string{"postgres://u:secret@host:port/db", "postgres://ok/db"}})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"pool: Options.MaxConns = -5: must be >= 0 (0 means max(4, 2*GOMAXPROCS) shared among the workers)",
		`pool: FAIRLEAD_WORKERS = "many": must be a number >= 0`,
		"pool: Options.Replicas[0]: ",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the error has the password: %v", err)
	}
	_, err = New(t.Context(), "postgres://u:secret@host:port/db", Options{Workers: -1})
	for _, want := range []string{"pool: url: ", "pool: Options.Workers = -1: must be >= 0"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in\n%v", want, err)
		}
	}
	if _, err := NewWithConfig(t.Context(), nil, Options{}); err == nil {
		t.Error("a nil config was accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	t.Setenv("FAIRLEAD_WORKERS", "")
	if _, err := New(ctx, "postgres://u@127.0.0.1:1/db", Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestServersOfURLs(t *testing.T) {
	t.Setenv("FAIRLEAD_WORKERS", "2")
	base, err := pgxpool.ParseConfig("postgres://u:p@one:1,two:2/db?sslmode=prefer&application_name=x")
	if err != nil {
		t.Fatal(err)
	}
	hook := func(context.Context, *pgx.Conn) error { return nil }
	base.AfterConnect = hook
	s, err := Options{Replicas: []string{"postgres://r:q@three:3,one:1/db2?sslmode=disable&application_name=y", "postgres://r:q@two:2/db"}}.settle(base, false)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range s.configs {
		got = append(got, fmt.Sprintf("%s %s %s %s tls:%v fallbacks:%d hook:%v", address(c), c.ConnConfig.User, c.ConnConfig.Database,
			c.ConnConfig.RuntimeParams["application_name"], c.ConnConfig.TLSConfig != nil, len(c.ConnConfig.Fallbacks), c.AfterConnect != nil))
	}
	want := []string{
		"one:1 u db x tls:true fallbacks:1 hook:true",
		"two:2 u db x tls:true fallbacks:1 hook:true",
		"three:3 r db2 y tls:false fallbacks:0 hook:true",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestMaxConns(t *testing.T) {
	for _, c := range []struct {
		name    string
		options Options
		inURL   bool
		env     string
		want    int32
	}{
		{"explicit", Options{MaxConns: 3}, true, "8", 3},
		{"URL", Options{}, true, "8", 7},
		{"default shared by few", Options{Workers: 1000}, false, "", 2},
		{"default shared by env", Options{}, false, "1000", 2},
	} {
		t.Setenv("FAIRLEAD_WORKERS", c.env)
		base, err := pgxpool.ParseConfig("postgres://u@host/db?pool_max_conns=7")
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.options.settle(base, c.inURL)
		if err != nil || s.configs[0].MaxConns != c.want {
			t.Errorf("%s: %d, %v", c.name, s.configs[0].MaxConns, err)
		}
	}
}

func TestErrors(t *testing.T) {
	server := func(severity, code string) error { return &pgconn.PgError{Severity: severity, Code: code} }
	gone := &pgconn.PgError{Severity: "FATAL", Code: "57P01"}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name    string
		ctx     context.Context
		sql     string
		err     error
		lost    bool
		unknown bool
		safe    bool
	}{
		{"nothing", t.Context(), "insert", nil, false, false, false},
		{"the server refused it", t.Context(), "insert", server("ERROR", "23505"), false, false, false},
		{"a conflict", t.Context(), "insert", server("ERROR", "40001"), false, false, true},
		{"a deadlock", t.Context(), "insert", server("ERROR", "40P01"), false, false, true},
		{"killed by an administrator", t.Context(), "insert", gone, true, true, false},
		{"connection lost in a write", t.Context(), "insert", io.ErrUnexpectedEOF, true, true, false},
		{"connection lost in a read", t.Context(), "select 1", io.ErrUnexpectedEOF, true, false, false},
		{"the context ended", ended, "insert", context.Canceled, true, true, false},
		{"the server cancelled it for us", ended, "insert", server("ERROR", "57014"), false, false, false},
		{"a bad argument", t.Context(), "insert", errors.New("cannot encode"), false, false, false},
		{"nothing was sent", t.Context(), "insert", &unsentError{io.EOF}, true, false, true},
		{"no primary", t.Context(), "insert", fmt.Errorf("%w: x", ErrNoPrimary), false, false, true},
		{"saturated", t.Context(), "insert", fmt.Errorf("%w: x", ErrSaturated), false, false, true},
		{"closed", t.Context(), "insert", ErrClosed, false, false, false},
	} {
		err := outcome(c.ctx, c.sql, c.err, c.lost)
		if errors.Is(err, ErrOutcomeUnknown) != c.unknown || SafeToRetry(err) != c.safe || !errors.Is(err, c.err) {
			t.Errorf("%s: %v (unknown %v, safe %v)", c.name, err, errors.Is(err, ErrOutcomeUnknown), SafeToRetry(err))
		}
		if c.ctx == ended && c.err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v does not say that the context ended", c.name, err)
		}
	}
	if !IsNotFound(fmt.Errorf("load: %w", pgx.ErrNoRows)) || IsNotFound(io.EOF) || IsNotFound(nil) {
		t.Error("IsNotFound")
	}
}

// Staleness is told by the samples: a replica is as old as the oldest commit that it may lack.
func TestStalenessBySamples(t *testing.T) {
	var s samples
	start := time.Unix(1000, 0)
	at := func(i int) time.Time { return start.Add(time.Duration(i) * 500 * time.Millisecond) }
	pos := func(timeline uint32, i int) lsn.Position {
		return lsn.Position{Timeline: timeline, LSN: uint64(i) * 100}
	}
	for i := 1; i <= 20_000; i++ {
		s.add(at(i), pos(1, i))
	}
	if len(s.all) > maxSamples {
		t.Errorf("%d samples are kept", len(s.all))
	}
	if got := s.newestAt(pos(1, 20_000)); !got.Equal(at(20_000)) {
		t.Errorf("a current replica is of %v", got)
	}
	for _, i := range []int{19_990, 19_000, 15_000, 10_000, 2_000} {
		got := s.newestAt(pos(1, i))
		if got.After(at(i)) {
			t.Errorf("a replica at %v is said to be of %v", at(i), got)
		}
		age, said := at(20_000).Sub(at(i)), at(20_000).Sub(got)
		if said > age+age/4+time.Second {
			t.Errorf("a replica %v old is said to be %v old", age, said)
		}
	}
	if got := s.newestAt(lsn.Position{Timeline: 1, LSN: 1}); !got.IsZero() {
		t.Errorf("a replica from before all samples is of %v", got)
	}
	s.add(at(20_001), pos(2, 20_001))
	if got := s.newestAt(pos(1, 30_000)); got.After(at(20_000)) {
		t.Error("a position on another timeline counts")
	}
}
