// Package ratelimit measures a decision of ratelimit beside those of other limiters: in one process, where x/time/rate stands for
// what its users build, a map of limiters under a lock (it never forgets a key); and on a real Redis, exact and leased.
//
// ulule/limiter and go-limiter count in fixed windows, which let twice the limit through around a boundary; the others are leaky
// buckets. trips/op are round trips to Redis, counted in the client; a refusal is that of a key that goes on asking.
//
//	cd bench && GOWORK=off go test -run '^$' -bench . -benchmem ./ratelimit
package ratelimit
