package redisconn

import (
	"context"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Script is a Lua script, sent by its digest. It must be safe to run again: its answer may get lost and go-redis repeats
// it. It is safe for concurrent use.
type Script struct {
	src    string
	script *redis.Script
}

// sources finds a script that a server has forgotten by the digest it was sent with.
var sources sync.Map // digest -> source

// NewScript returns a script; keep it in a package variable.
func NewScript(src string) *Script {
	s := &Script{src: src, script: redis.NewScript(src)}
	sources.Store(s.script.Hash(), src)
	return s
}

// Queue adds a run of s to a pipeline made by Client.Pipeline and returns the command that will hold its answer.
func (s *Script) Queue(ctx context.Context, p redis.Pipeliner, keys []string, args ...any) *redis.Cmd {
	return p.EvalSha(ctx, s.script.Hash(), keys, args...)
}

// Run runs s: one round trip, two after a restart or SCRIPT FLUSH. On Cluster the first key decides the server, and all keys
// must be in its slot. The answer is read from the returned command as usual (Text, Int64, Slice, …).
func (c *Client) Run(ctx context.Context, s *Script, keys []string, args ...any) *redis.Cmd {
	if c.life.closed.Load() {
		cmd := redis.NewCmd(ctx)
		cmd.SetErr(ErrClosed)
		return cmd
	}
	cmd := s.script.Run(ctx, c.redis, keys, args...)
	if err := c.outcome(cmd.Err()); err != cmd.Err() {
		cmd.SetErr(err)
	}
	return cmd
}

// Pipeline sends the commands that queue adds in one round trip (Cluster: one a server, side by side) and returns the first
// error among them; each command holds its own. They are independent of each other: a script that a server has forgotten is
// loaded and run again after the others. Every command must have a key, or Cluster sends it to any server.
func (c *Client) Pipeline(ctx context.Context, queue func(redis.Pipeliner)) error {
	if c.life.closed.Load() {
		return ErrClosed
	}
	p := c.redis.Pipeline()
	queue(p)
	cmds, err := p.Exec(ctx)
	if again := forgotten(cmds); len(again) > 0 {
		c.reloads.Add(1)
		c.resend(ctx, again)
	}
	err = c.outcome(firstError(cmds, err))
	for _, cmd := range cmds {
		if cmd.Err() != nil {
			cmd.SetErr(translate(cmd.Err()))
		}
	}
	return err
}

// firstError is the first command's error; err, of the whole, counts where there is no command.
func firstError(cmds []redis.Cmder, err error) error {
	for _, cmd := range cmds {
		if cmd.Err() != nil {
			return cmd.Err()
		}
	}
	if len(cmds) > 0 {
		return nil
	}
	return err
}

func forgotten(cmds []redis.Cmder) []*redis.Cmd {
	var again []*redis.Cmd
	for _, cmd := range cmds {
		if c, ok := cmd.(*redis.Cmd); ok && c.Name() == "evalsha" && redis.HasErrorPrefix(c.Err(), "NOSCRIPT") {
			again = append(again, c)
		}
	}
	return again
}

func (c *Client) resend(ctx context.Context, again []*redis.Cmd) {
	p := c.redis.Pipeline()
	second := make([]*redis.Cmd, len(again))
	for i, cmd := range again {
		args := append([]any{"eval"}, cmd.Args()[1:]...)
		src, ok := sources.Load(args[1])
		if !ok {
			continue
		}
		args[1] = src
		second[i] = p.Do(ctx, args...)
		second[i].SetFirstKeyPos(3)
	}
	p.Exec(ctx)
	for i, cmd := range again {
		if second[i] != nil {
			cmd.SetErr(second[i].Err())
			cmd.SetVal(second[i].Val())
		}
	}
}
