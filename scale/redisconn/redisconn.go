// Package redisconn is the one Redis client that every part of an application shares.
//
// [Open] makes a client from a URL, [New] takes a go-redis client of the application's own; both check, once, the settings
// without which the parts could not keep their promises, and name the field that is wrong. The adapters (rediscache,
// redissession, redislimit) take a [Client] and cannot fail.
//
// Nothing here dials before the first command: an application starts while Redis is away. A command that did not reach
// Redis, or whose answer did not come back, fails with [ErrUnavailable]; an error that Redis itself answered is passed on.
// After ErrUnavailable the outcome is unknown, and go-redis itself may have sent the command up to four times: scripts
// that run here must be safe to run again.
//
// # A server that does not answer
//
// A breaker for each server (package scale/breaker) keeps callers from waiting for one that is gone; of a Cluster only the
// shards that are down are cut off. A command that fails, or whose context runs out, is not counted, since a budget of 50 ms
// may be missed for many reasons. It starts a PING on a connection of its own, one at a time, and that answer counts: an
// error at once, silence after 250 ms, twice. Then calls fail with ErrUnavailable without being sent, and a PING each 250 ms
// finds out when the server is back. When nobody has asked for 5 s the PINGs end, and the next call waits for one.
//
// The guard sits in the go-redis client and holds for commands that the application sends through it, too.
package redisconn

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/fairlead/fairlead/internal/telemetry"
	"github.com/fairlead/fairlead/scale/breaker"
)

var (
	// ErrUnavailable says that Redis could not be reached, did not answer in time or cannot serve now (loading, cluster
	// down, demoted). Whether a command was applied is unknown.
	ErrUnavailable = errors.New("redisconn: Redis is unavailable")
	// ErrClosed is returned by every call after Close.
	ErrClosed = errors.New("redisconn: client is closed")
)

// Client runs commands and scripts on one Redis: a single server, a Sentinel group or a Cluster. It is safe for
// concurrent use.
type Client struct {
	redis redis.UniversalClient
	own   bool // Close closes redis too
	life  *life
	hosts *breaker.Hosts // a breaker a server

	calls       atomic.Uint64
	unavailable atomic.Uint64
	refused     atomic.Uint64
	reloads     atomic.Uint64
}

// Open returns a client for a URL:
//
//	redis://user:password@host:6379/0                     one server (rediss:// for TLS, unix:// for a socket)
//	redis://host1:26379,host2:26379/0?master_name=main    Sentinel; the hosts are the sentinels
//	redis://host1:6379,host2:6379                         Cluster, several nodes named; or one with ?cluster=true
//
// Query parameters are those of go-redis's ParseURL, ParseFailoverURL and ParseClusterURL (pool_size, dial_timeout, …).
// A connection that is refused is dialled once, not five times.
// It does not dial.
func Open(rawURL string) (*Client, error) {
	client, err := open(rawURL)
	if err != nil {
		return nil, fmt.Errorf("redisconn: URL %s: %w", redact(rawURL), err)
	}
	c, err := New(client)
	if err != nil {
		client.Close()
		return nil, err
	}
	c.own = true
	return c, nil
}

func open(rawURL string) (redis.UniversalClient, error) {
	first, query := rawURL, url.Values{}
	if i := strings.IndexByte(rawURL, '?'); i >= 0 {
		q, err := url.ParseQuery(rawURL[i+1:])
		if err != nil {
			return nil, errors.New("malformed query")
		}
		first, query = rawURL[:i], q
	}
	first, more := splitHosts(first)
	for _, host := range more {
		query.Add("addr", host)
	}
	cluster := query.Get("cluster") == "true" || query.Has("addr")
	query.Del("cluster")
	if len(query) > 0 {
		first += "?" + query.Encode()
	}
	switch {
	case query.Get("master_name") != "":
		o, err := redis.ParseFailoverURL(first)
		if err != nil {
			return nil, clean(err)
		}
		if o.RouteByLatency || o.RouteRandomly || o.ReplicaOnly {
			return nil, errors.New("route_by_latency, route_randomly and replica_only must be off: a replica's answer may be old")
		}
		o.ContextTimeoutEnabled, o.DialerRetries = true, 1
		return redis.NewFailoverClient(o), nil
	case cluster:
		o, err := redis.ParseClusterURL(first)
		if err != nil {
			return nil, clean(err)
		}
		o.ContextTimeoutEnabled, o.DialerRetries = true, 1
		return redis.NewClusterClient(o), nil
	default:
		o, err := redis.ParseURL(first)
		if err != nil {
			return nil, clean(err)
		}
		o.ContextTimeoutEnabled, o.DialerRetries = true, 1
		return redis.NewClient(o), nil
	}
}

// splitHosts takes the second and later of comma-separated hosts out of a URL, which net/url refuses to parse.
func splitHosts(u string) (first string, more []string) {
	scheme, rest, ok := strings.Cut(u, "://")
	if !ok || scheme == "unix" {
		return u, nil
	}
	authority, path, slash := strings.Cut(rest, "/")
	user, hosts := "", authority
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		user, hosts = authority[:at+1], authority[at+1:]
	}
	parts := strings.Split(hosts, ",")
	first = scheme + "://" + user + parts[0]
	if slash {
		first += "/" + path
	}
	return first, parts[1:]
}

// clean drops the URL, which may hold a password, from net/url's errors.
func clean(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return errors.New(strings.TrimPrefix(err.Error(), "redis: "))
}

func redact(rawURL string) string {
	scheme, rest, ok := strings.Cut(rawURL, "://")
	if !ok {
		return "(not a URL)"
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		rest = "***@" + rest[at+1:]
	}
	rest, _, _ = strings.Cut(rest, "?")
	return scheme + "://" + rest
}

// New returns a Client around a go-redis client of the application's: a *redis.Client, one for Sentinel, or a
// *redis.ClusterClient. It reports every setting that does not fit, by field:
//
//   - ContextTimeoutEnabled must be true: without it a 50 ms context waits 5 s for a stopped Redis;
//   - ReadOnly, RouteByLatency and RouteRandomly must be false: a replica's answer may be old, and an old answer undoes a
//     revocation, an invalidation or a limit. ReplicaOnly of FailoverOptions must be false too; go-redis does not show it.
//
// On Cluster, pass the client before its first command: only servers that it meets afterwards are guarded. Closing the
// Client leaves the application's own client open, and unguarded.
func New(client redis.UniversalClient) (*Client, error) {
	var errs []error
	need := func(ok bool, field, text string) {
		if !ok {
			errs = append(errs, fmt.Errorf("redisconn: %s: %s", field, text))
		}
	}
	const replicas = "must be false: a replica's answer may be old"
	switch c := client.(type) {
	case *redis.Client:
		if c == nil {
			return nil, errors.New("redisconn: client is nil: pass a *redis.Client or a *redis.ClusterClient")
		}
		need(c.Options().ContextTimeoutEnabled, "Options.ContextTimeoutEnabled = false", "must be true, or a call's deadline is ignored")
	case *redis.ClusterClient:
		if c == nil {
			return nil, errors.New("redisconn: client is nil: pass a *redis.Client or a *redis.ClusterClient")
		}
		o := c.Options()
		need(o.ContextTimeoutEnabled, "ClusterOptions.ContextTimeoutEnabled = false", "must be true, or a call's deadline is ignored")
		need(!o.RouteByLatency, "ClusterOptions.RouteByLatency = true", replicas)
		need(!o.RouteRandomly, "ClusterOptions.RouteRandomly = true", replicas)
		need(!o.ReadOnly || o.RouteByLatency || o.RouteRandomly, "ClusterOptions.ReadOnly = true", replicas)
	default:
		return nil, fmt.Errorf("redisconn: client is a %T: must be a *redis.Client or a *redis.ClusterClient", client)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	hosts, err := newHosts()
	if err != nil {
		return nil, err
	}
	c := &Client{redis: client, hosts: hosts, life: newLife()}
	switch r := client.(type) {
	case *redis.Client:
		c.guard(r, nil)
	case *redis.ClusterClient:
		r.OnNewNode(func(node *redis.Client) {
			// Its replica may have taken over.
			c.guard(node, func() { r.ReloadState(context.Background()) })
		})
	}
	return c, nil
}

// Redis returns the go-redis client underneath, for commands of the application's own.
func (c *Client) Redis() redis.UniversalClient { return c.redis }

// Close makes every later call return ErrClosed, ends the checks of servers and closes the go-redis client if Open made it.
// It is safe to call twice.
func (c *Client) Close() error {
	if !c.life.end() || !c.own {
		return nil
	}
	return c.redis.Close()
}

// outcome counts a call and translates its error.
func (c *Client) outcome(err error) error {
	c.calls.Add(1)
	err = translate(err)
	if errors.Is(err, ErrUnavailable) {
		c.unavailable.Add(1)
	}
	return err
}

func translate(err error) error {
	switch {
	case err == nil, errors.Is(err, redis.Nil):
		return err
	case errors.Is(err, redis.ErrClosed):
		return fmt.Errorf("%w: %w", ErrClosed, err)
	case errors.Is(err, context.Canceled):
		return err // the caller went away; it says nothing of Redis
	case answered(err), errors.Is(err, ErrUnavailable):
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// answered tells an error of the command, which Redis answered, from one of its state, in which it serves nobody.
func answered(err error) bool {
	if _, ok := errors.AsType[redis.Error](err); !ok {
		return false
	}
	for _, prefix := range []string{"LOADING", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "NOREPLICAS", "MISCONF"} {
		if redis.HasErrorPrefix(err, prefix) {
			return false
		}
	}
	return true
}

// Stats is a snapshot of what a Client has done.
type Stats struct {
	Calls         uint64 `json:"calls" metric:"fairlead.redis.calls,counter"`                           // scripts and pipelines run
	Unavailable   uint64 `json:"unavailable" metric:"fairlead.redis.unavailable,counter"`               // of which failed with ErrUnavailable
	Refused       uint64 `json:"refused" metric:"fairlead.redis.refused,counter"`                       // commands and pipelines, on Cluster their parts, not sent to a server that is cut off
	ScriptReloads uint64 `json:"script_reloads" metric:"fairlead.redis.script_reloads,counter"`         // pipelines that met a server without their scripts
	Conns         uint32 `json:"conns" metric:"fairlead.redis.connections,gauge,state=open"`            // connections of the go-redis pool
	IdleConns     uint32 `json:"idle_conns" metric:"fairlead.redis.connections,gauge,state=idle"`       // of which idle
	PoolTimeouts  uint32 `json:"pool_timeouts" metric:"fairlead.redis.connection.pool_timeout,counter"` // waits for a connection that ran out
}

// Stats returns a snapshot.
func (c *Client) Stats() Stats {
	p := c.redis.PoolStats()
	return Stats{
		Calls: c.calls.Load(), Unavailable: c.unavailable.Load(), Refused: c.refused.Load(), ScriptReloads: c.reloads.Load(),
		Conns: p.TotalConns, IdleConns: p.IdleConns, PoolTimeouts: p.Timeouts,
	}
}

// Samples returns the numbers of Stats, and those of each server's breaker, for the page and /metrics.
func (c *Client) Samples() iter.Seq[telemetry.Sample] {
	return func(yield func(telemetry.Sample) bool) {
		for _, all := range []iter.Seq[telemetry.Sample]{telemetry.Samples(c.Stats()), c.hosts.Samples()} {
			for s := range all {
				if !yield(s) {
					return
				}
			}
		}
	}
}
