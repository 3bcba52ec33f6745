//go:build soak

package rediscache_test

import "testing"

func TestSoakOwnWrites(t *testing.T) {
	const pairs = 20_000
	ownWritesOverProcesses(t, pairs)
	t.Logf("soak: %d writes, each read on another process with the bus 500 ms late: none stale for the writer", pairs)
}

func TestSoakSixteenProcesses(t *testing.T) {
	const rounds = 500
	sixteenProcesses(t, rounds)
	t.Logf("soak: %d rounds over 16 processes: one origin call for each cold and each invalidated key", rounds)
}

func TestSoakIntervals(t *testing.T) {
	const rounds = 3000
	server := redisServer(t)
	_, busURL := proxied(t, server)
	intervals(t, server.URL(), busURL, rounds)
	t.Logf("soak: %d rounds of readers and writers on three nodes: every read in its interval", rounds)
}
