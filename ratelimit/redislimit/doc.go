// Package redislimit keeps the limits of package ratelimit in Redis (7 or later, single, Sentinel or Cluster), so that any number of
// processes hold one limit together.
//
//	rdb, err := redisconn.Open("redis://localhost:6379/0")
//	limiter, err := ratelimit.New("client", ratelimit.PerSecond(50), ratelimit.Options{Store: redislimit.New(rdb)})
//
// A decision is one run of one script on one key, which expires when its bucket has drained or its unit has ended; permits in flight
// are in a second one, in the same slot of a Cluster. Time is Redis's own: of a quota a process offers the three units around what it
// takes for now, and the script picks the one that it is. Keys are named fairlead:limit:{<limiter>:<hash>}: what a client sent, a
// token perhaps, does not reach Redis, and its length does not matter.
//
// A script that runs is done: replicas get its effect. But replication is asynchronous. After a failover at most
// burst + rate·(lag + clock step) permits more are granted to a key, and what a new primary's clock puts into the future is cut
// to what the limit allows, so no key is blocked for longer than its burst takes to come back.
//
// An evicted key grants a fresh burst. Use maxmemory-policy noeviction on a Redis that holds limits; the first decision of a limiter
// logs a warning where another one is in force. With noeviction a full Redis refuses to write, and Options.OnError decides.
package redislimit
