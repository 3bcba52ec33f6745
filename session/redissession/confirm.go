package redissession

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fairlead/fairlead/scale/redisconn"
)

// script is one that can also be sent over a connection of our choice.
type script struct {
	*redisconn.Script
	raw *redis.Script
}

func newScript(src string) script { return script{redisconn.NewScript(src), redis.NewScript(src)} }

// run runs a script that may change something, and has replicas confirm it if Options say so.
func (s *Store) run(ctx context.Context, sc script, keys []string, args ...any) *redis.Cmd {
	if s.confirm == 0 {
		return s.rdb.Run(ctx, sc.Script, keys, args...)
	}
	send := sc.raw.EvalSha
	for try := 0; ; try++ {
		cmd, acks, err := s.sendAndWait(ctx, send, keys, args)
		switch {
		case err == nil && acks >= int64(s.confirm):
			return cmd
		case err == nil:
			err = fmt.Errorf("%w: %d of %d replicas have confirmed the change", redisconn.ErrUnavailable, acks, s.confirm)
		case try < 2 && redis.HasErrorPrefix(err, "NOSCRIPT"):
			send = sc.raw.Eval
			continue
		case try < 2 && redis.HasErrorPrefix(err, "MOVED"):
			s.rdb.Redis().(*redis.ClusterClient).ReloadState(ctx)
			continue
		case unanswered(err):
			err = fmt.Errorf("%w: %w", redisconn.ErrUnavailable, err)
		}
		cmd.SetErr(err)
		return cmd
	}
}

type sender func(ctx context.Context, c redis.Scripter, keys []string, args ...any) *redis.Cmd

// sendAndWait sends a script and, in the same write to the same connection, WAIT. That counts the replicas which have all that
// the server had done before it, whichever connection had asked: so a second try, which finds the change done, is not taken
// for confirmed.
func (s *Store) sendAndWait(ctx context.Context, send sender, keys []string, args []any) (*redis.Cmd, int64, error) {
	patience := 100 * time.Millisecond
	if end, ok := ctx.Deadline(); ok {
		patience = time.Until(end) * 3 / 4
	}
	var node *redis.Client
	switch c := s.rdb.Redis().(type) {
	case *redis.Client:
		node = c
	case *redis.ClusterClient: // WAIT has no key: in a pipeline of the Cluster's client it would go to any node
		var err error
		if node, err = c.MasterForKey(ctx, keys[0]); err != nil {
			return redis.NewCmd(ctx), 0, err
		}
	}
	p := node.Pipeline()
	cmd := send(ctx, p, keys, args...)
	acks := p.Do(ctx, "wait", s.confirm, max(patience.Milliseconds(), 1)) // 0 would be for ever
	p.Exec(ctx)
	if cmd.Err() != nil {
		return cmd, 0, cmd.Err()
	}
	n, err := acks.Int64()
	return cmd, n, err
}

// unanswered tells errors of the connection, or of a server's state, from those of a script.
func unanswered(err error) bool {
	if errors.Is(err, context.Canceled) {
		return false // the caller's
	}
	if _, ok := errors.AsType[redis.Error](err); !ok {
		return true
	}
	for _, prefix := range []string{"LOADING", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "NOREPLICAS", "MISCONF", "MOVED", "ASK"} {
		if redis.HasErrorPrefix(err, prefix) {
			return true
		}
	}
	return false
}
