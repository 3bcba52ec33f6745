// Package pool measures pool beside pgxpool on a real primary with two streaming replicas: what one row costs without a scope,
// and under one whose position the replicas are known to have, have without its being known, or lack; what a write costs, with
// and without its position; how many reads one and two replicas serve; and how many reads after a write are stale where
// replicas take turns, as resolvers do it that know nothing of positions.
//
// stmts/op is what the servers counted, the pool's own statements included. All servers and the client share one machine, so
// replicas add no processors here, and throughput says only what routing costs.
//
//	cd bench && GOWORK=off go test -run '^$' -bench . -benchmem ./pool
package pool
