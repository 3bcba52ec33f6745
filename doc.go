// Package fairlead is the overview of a toolkit that lets an ordinary net/http service take ten times its traffic without
// a rewrite. The parts are packages of their own; each works alone, and together they keep promises that none could alone:
//
//   - a client never reads behind its own writes, whichever process and replica answers it;
//   - a deploy, a crash or a scale-down loses no connection that could be saved.
//
// A service made of all of them, errors left out (examples/shop is the whole program):
//
//	func main() {
//		cluster.Main(shop, cluster.Options{
//			Workers: 2,
//			Listen:  []cluster.Listen{{Name: "http", Addr: ":8080", ReusePort: true}},
//		})
//	}
//
//	func shop(ctx context.Context) error { // in each worker; ctx ends when the drain begins
//		svc, err := scale.New("shop", scale.Options{})
//		rdb, err := redisconn.Open(os.Getenv("REDIS_URL"))
//		db, err := pool.New(ctx, os.Getenv("DATABASE_URL"), pool.Options{})
//		products, err := cache.New("products", load(db), cache.Options[int64, Product]{TTL: time.Minute, Remote: rediscache.New(rdb)})
//		sessions, err := session.New[Visitor](redissession.New(rdb, redissession.Options{}), session.Options{})
//		perClient, err := ratelimit.New("client", ratelimit.PerSecond(50).Burst(100), ratelimit.Options{Store: redislimit.New(rdb)})
//		svc.Use(rdb, db, products, sessions, perClient) // probed, measured, closed in reverse
//		return svc.Serve(ctx, routes(db, products, sessions),
//			ratelimit.Middleware(perClient, ratelimit.ClientIP()), sessions.Middleware)
//	}
//
// # Map
//
//	need                                            package
//	several processes, reload without loss          cluster, scale/drain
//	the service around the handlers                 scale
//	replicas without stale reads                    pool
//	fewer queries, no stampedes                     cache, cache/rediscache
//	any process serves any request                  session, session/redissession
//	a limit a client, over the fleet                ratelimit, ratelimit/redislimit
//	several databases by key                        pool/shard
//	more load than capacity                         scale/overload
//	heavy computing beside light requests           scale/offload
//	a dependency that is slow or down               scale/breaker, scale/retry
//	one checked Redis client for all of them        scale/redisconn
//	read your writes with a store of your own       pool/causal
//
// # What it is not
//
// It is no framework: handlers stay net/http handlers, and a package can be used without the others. It is no distributed
// engine: past one machine the state lives in Redis and PostgreSQL, and replicas of the service are run by Kubernetes or
// its like. And it is not a way to make one request faster: several processes on a small machine mainly buy isolation and
// hitless reloads, and a replica does nothing for a database that is not busy.
package fairlead
