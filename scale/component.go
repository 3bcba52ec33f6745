package scale

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"strings"
	"time"
)

// component is what Use found out about a value.
type component struct {
	name    string
	ping    func(context.Context) error
	close   func() error
	samples func() iter.Seq[Sample]
}

func newComponent(v any) (component, error) {
	if v == nil {
		return component{}, errors.New("scale: Use: a component is nil")
	}
	c := component{name: typeName(v)}
	if p, ok := v.(interface{ Ping(context.Context) error }); ok {
		c.ping = p.Ping
	}
	switch cl := v.(type) {
	case interface{ Close() error }:
		c.close = cl.Close
	case interface{ Close() }:
		c.close = func() error { cl.Close(); return nil }
	}
	if s, ok := v.(interface{ Samples() iter.Seq[Sample] }); ok {
		c.samples = s.Samples
	}
	if c.ping == nil && c.close == nil && c.samples == nil {
		return component{}, fmt.Errorf("scale: Use: %T has none of Ping(context.Context) error, Close() error, Close() and Samples() iter.Seq[scale.Sample]", v)
	}
	return c, nil
}

// typeName is a type as its users write it, without type arguments: pool.Pool for a *pool.Pool.
func typeName(v any) string {
	name, _, _ := strings.Cut(strings.TrimLeft(fmt.Sprintf("%T", v), "*"), "[")
	return name
}

// safely runs f, and a panic of it becomes an error.
func safely(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}

// within runs f in a goroutine and waits for it that long. A late f is left to itself.
func within(d time.Duration, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- safely(f) }()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("not finished after %v", d)
	}
}
