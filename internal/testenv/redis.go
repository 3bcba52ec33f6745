package testenv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// RedisOptions says what to start. The zero value is a server that keeps
// everything in memory only.
type RedisOptions struct {
	// Settings are added to the configuration, over testenv's own:
	// {"appendonly": "yes", "maxmemory": "10mb"}.
	Settings map[string]string
}

// Redis is one Redis server. Its methods are safe for concurrent use.
type Redis struct {
	*server
	addr     string
	home     *home // nil for a node of a cluster, which has it
	settings map[string]string
	client   *redis.Client
}

// StartRedis starts a server without a password and returns when it answers.
func StartRedis(ctx context.Context, options RedisOptions) (*Redis, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	h, err := openHome()
	if err != nil {
		return nil, err
	}
	r, err := newRedis(h, "redis", options.Settings)
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	r.home = h
	if err := r.Start(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func newRedis(h *home, name string, settings map[string]string) (*Redis, error) {
	path, err := redisServer()
	if err != nil {
		return nil, err
	}
	host, port, err := freePort()
	if err != nil {
		return nil, err
	}
	dir, err := h.mkdir(name)
	if err != nil {
		return nil, fmt.Errorf("testenv: %s: %w", name, err)
	}
	all := map[string]string{
		"bind":           host,
		"port":           strconv.Itoa(port),
		"dir":            dir,
		"save":           "",
		"appendonly":     "no",
		"protected-mode": "no",
	}
	maps.Copy(all, settings)
	addr := net.JoinHostPort(host, strconv.Itoa(port))
	return &Redis{
		server: &server{
			name:    name,
			command: command{path: path, args: []string{"redis-server", filepath.Join(dir, "redis.conf")}, dir: dir},
			log:     dir + ".log",
		},
		addr: addr, settings: all,
		client: redis.NewClient(&redis.Options{Addr: addr, Protocol: 2, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true}),
	}, nil
}

// Addr returns the host and port that the server listens on, always the same.
func (r *Redis) Addr() string { return r.addr }

// URL returns the server's URL, redis://host:port/0.
func (r *Redis) URL() string { return "redis://" + r.addr + "/0" }

// Start starts a server that was killed and returns when it answers. It is empty
// unless the settings say otherwise, except that a node of a cluster knows the
// cluster and its slots.
func (r *Redis) Start(ctx context.Context) error {
	if r.isShut() {
		return ErrClosed
	}
	conf := filepath.Join(r.dir, "redis.conf")
	if _, err := os.Stat(conf); errors.Is(err, os.ErrNotExist) { // else the server may have rewritten it
		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(r.settings)) {
			fmt.Fprintf(&b, "%s %s\n", name, strconv.Quote(r.settings[name]))
		}
		if err := writeServerFile(conf, b.String()); err != nil {
			return fmt.Errorf("testenv: %s: %w", r.name, err)
		}
	}
	if err := r.server.start(); err != nil {
		return err
	}
	return r.until(ctx, "start", func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", r.addr) // the client logs failures
		if err != nil {
			return err
		}
		conn.Close()
		return r.client.Ping(ctx).Err()
	})
}

// Calls returns how many times a command ("get", "evalsha", "client|list") was
// called since the start or ResetCounts, in scripts too.
func (r *Redis) Calls(ctx context.Context, command string) (int64, error) {
	info, err := r.client.Info(ctx, "commandstats").Result()
	if err != nil {
		return 0, fmt.Errorf("testenv: %s: %w", r.name, err)
	}
	_, line, found := strings.Cut(info, "cmdstat_"+command+":calls=")
	if !found {
		return 0, nil
	}
	digits, _, _ := strings.Cut(line, ",")
	return strconv.ParseInt(digits, 10, 64)
}

// ResetCounts sets all counts of Calls to zero.
func (r *Redis) ResetCounts(ctx context.Context) error {
	if err := r.client.ConfigResetStat(ctx).Err(); err != nil {
		return fmt.Errorf("testenv: %s: %w", r.name, err)
	}
	return nil
}

// Close kills the server and removes its files. It may be called more than once.
// A node of a cluster is closed with the cluster.
func (r *Redis) Close() error {
	if r.home == nil || !r.shut() {
		return nil
	}
	return errors.Join(r.remove(), r.home.close())
}

func (r *Redis) remove() error {
	return errors.Join(r.client.Close(), r.Kill(), os.RemoveAll(r.dir), os.RemoveAll(r.log))
}

// RedisCluster is a Redis Cluster of three primaries that share the slots.
type RedisCluster struct {
	// Nodes are its servers. Each can be killed, frozen and started by itself; while
	// one is gone the cluster answers CLUSTERDOWN, unless the setting
	// cluster-require-full-coverage is no.
	Nodes []*Redis

	home   *home
	closed atomic.Bool
}

// StartRedisCluster starts a cluster and returns when every node says that it is
// whole. That takes two seconds: a Redis primary does not trust a cluster earlier.
func StartRedisCluster(ctx context.Context, options RedisOptions) (*RedisCluster, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	h, err := openHome()
	if err != nil {
		return nil, err
	}
	c := &RedisCluster{home: h}
	if err := c.start(ctx, options); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *RedisCluster) start(ctx context.Context, options RedisOptions) error {
	const nodes, slots = 3, 16384
	for i := range nodes {
		host, bus, err := freePort()
		if err != nil {
			return err
		}
		settings := map[string]string{
			"cluster-enabled":      "yes",
			"cluster-port":         strconv.Itoa(bus), // the default, port + 10000, may not be free
			"cluster-announce-ip":  host,
			"bind-source-addr":     host, // else nodes meet each other as 127.0.0.1
			"cluster-node-timeout": "5000",
		}
		maps.Copy(settings, options.Settings)
		r, err := newRedis(c.home, fmt.Sprintf("redis-node%d", i+1), settings)
		if err != nil {
			return err
		}
		c.Nodes = append(c.Nodes, r)
		if err := r.Start(ctx); err != nil {
			return err
		}
		err = errors.Join(
			r.client.ClusterAddSlotsRange(ctx, i*slots/nodes, (i+1)*slots/nodes-1).Err(),
			// Distinct from the beginning, so that nobody has to agree on it.
			r.client.Do(ctx, "cluster", "set-config-epoch", i+1).Err(),
		)
		if err != nil {
			return fmt.Errorf("testenv: %s: %w", r.name, err)
		}
	}
	for _, r := range c.Nodes[1:] {
		host, port, err := net.SplitHostPort(r.addr)
		if err != nil {
			return err
		}
		if err := c.Nodes[0].client.Do(ctx, "cluster", "meet", host, port, r.settings["cluster-port"]).Err(); err != nil {
			return fmt.Errorf("testenv: %s: %w", r.name, err)
		}
	}
	for _, r := range c.Nodes {
		err := r.until(ctx, "join the cluster", func(ctx context.Context) error {
			info, err := r.client.ClusterInfo(ctx).Result()
			if err != nil {
				return err
			}
			for _, want := range []string{"cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:3", "cluster_size:3"} {
				if !strings.Contains(info, want+"\r\n") {
					return fmt.Errorf("not yet %s", want)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Addrs returns the hosts and ports of the nodes.
func (c *RedisCluster) Addrs() []string {
	addrs := make([]string, len(c.Nodes))
	for i, r := range c.Nodes {
		addrs[i] = r.addr
	}
	return addrs
}

// URL returns the cluster's URL in the form that go-redis parses:
// redis://host:port?addr=host:port&addr=host:port.
func (c *RedisCluster) URL() string {
	addrs := c.Addrs()
	return "redis://" + addrs[0] + "?addr=" + strings.Join(addrs[1:], "&addr=")
}

// Close kills the nodes and removes their files. It may be called more than once.
func (c *RedisCluster) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	var errs []error
	for _, r := range c.Nodes {
		r.shut()
		errs = append(errs, r.remove())
	}
	return errors.Join(append(errs, c.home.close())...)
}
