// Package testenv starts real servers for tests and for the demo: a PostgreSQL
// primary with streaming replicas, a Redis server, a Redis Cluster, and a TCP
// proxy that injects faults between a client and any of them.
//
// Every server belongs to the process that started it. It listens on a loopback
// address of its own, keeps its files in a temporary directory of its own, and
// goes away with the process: Close takes it down at once, and if the process
// ends in any other way (os.Exit, a panic, kill -9) a watchdog process kills what
// is left and removes the directory within a second or so. The watchdog is the
// same executable, started again with an environment variable that this
// package's init looks for, in a session of its own so that ctrl-C does not
// reach it.
//
// The controls act on real processes. Kill is kill -9 of the whole server,
// Freeze is SIGSTOP: the kernel still accepts connections and bytes for a frozen
// server, and nobody answers. Servers run with fsync off: what they acknowledged
// survives Kill, since the page cache does, but not a crash of the machine.
//
// Servers need Linux; elsewhere everything compiles and the Start functions
// return [ErrUnsupported], except [StartProxy], which works everywhere. The
// binaries of PostgreSQL 15 or later and Redis 7 or later must be installed; they
// need not be on PATH, and no system service is used or started. As root, servers
// run as the user postgres or nobody.
//
// # In a test binary
//
// Start one server for all tests of a package, when the first test asks for it,
// and give each test a database or a key prefix of its own:
//
//	var postgres = testenv.Share(func(ctx context.Context) (*testenv.Postgres, error) {
//		return testenv.StartPostgres(ctx, testenv.PostgresOptions{Replicas: 2})
//	})
//
//	func TestMain(m *testing.M) {
//		os.Exit(testenv.Main(m.Run, postgres))
//	}
//
//	func TestReads(t *testing.T) {
//		pg, err := postgres.Get()
//		if err != nil {
//			t.Fatal(err)
//		}
//		db, err := pg.CreateDatabase(t.Context())
//		...
//		primary, replica := pg.Primary.URL(db), pg.Replicas[0].URL(db)
//	}
//
// A test that kills, promotes or reconfigures nodes starts servers for itself.
package testenv

import "errors"

// ErrUnsupported is returned by the Start functions on systems other than Linux.
var ErrUnsupported = errors.New("testenv: servers can be started on Linux only")

// ErrClosed is returned by the methods of a server or proxy after Close.
var ErrClosed = errors.New("testenv: closed")
