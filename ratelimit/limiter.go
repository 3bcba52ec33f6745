package ratelimit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// OnError says what a [Limiter] does while its store does not answer.
type OnError int

const (
	// Local lets each process hold the limit by itself, at its share of it (Options.Processes): for limits on traffic, where
	// refusing everybody would be worse than counting less exactly.
	Local OnError = iota
	// Deny refuses: for limits that guard a secret, such as login attempts.
	Deny
)

// String returns "local" or "deny".
func (o OnError) String() string {
	switch o {
	case Local:
		return "local"
	case Deny:
		return "deny"
	}
	return fmt.Sprintf("OnError(%d)", int(o))
}

const (
	defaultTimeout = 50 * time.Millisecond
	maxLease       = 10 * time.Second
	maxProcesses   = 10_000
	maxName        = 64
)

// Options configure a [Limiter]. The zero value counts in this process only.
type Options struct {
	// Store keeps the counts. Nil means a NewMemory(0) of the limiter's own.
	Store Store
	// OnError says what happens while the store does not answer. 0 is Local. A Memory always answers.
	OnError OnError
	// Lease lets a process take permits in advance from a remote store and use them for this long, so that it asks for one of
	// them out of many. The fleet is then granted at most burst + rate·(t + Lease) in any time t, the excess being no more than
	// the permits out on lease. A process that needs d permits a second takes d·Lease at once, at most a quarter of the burst,
	// and where that is less than two it asks for each. What it does not use is lost, so is what a killed process held. 250 ms is
	// a good value. 0 means that every decision asks the store; negative is an error, so is more than 10 s. Only limits made of
	// rates are leased.
	Lease time.Duration
	// Processes is how many processes share the limit, for the share each holds while Local decides. 0 means 1: then each
	// process holds the whole limit by itself. At most 10,000.
	Processes int
	// Timeout is how long a decision of a store may take before OnError decides. 0 means 50 ms; negative is an error. A Memory
	// does not take time.
	Timeout time.Duration
	// LimitFor, if not nil, returns the limit of a key: by plan, by tenant, out of settings that change while the program runs.
	// It is called for every request and must be fast and safe for concurrent use; build the limits beforehand. The zero Limit
	// means the limiter's own. An invalid one is an error of that request.
	LimitFor func(ctx context.Context, key string) Limit
	// Logger gets what degrades. Nil means slog.Default().
	Logger *slog.Logger
}

// Limiter decides who may go on, by key. It is safe for concurrent use.
type Limiter struct {
	name   string
	limit  Limit
	opts   Options
	logger *slog.Logger
	policy string // limit as a RateLimit-Policy

	memory *Memory // the store, if that is what it is; no call through an interface then
	remote *remote // else
	lines  lines
	counts counts

	closed  atomic.Bool
	closing chan struct{}
}

// New returns a Limiter. The name, of letters, digits, '.', '_' and '-', at most 64, tells limiters apart in the store, in header
// fields and in telemetry: two limiters of one name on one store count together. New does not talk to the store. It reports
// everything that is wrong at once.
func New(name string, limit Limit, opts Options) (*Limiter, error) {
	var errs []error
	if !validName(name) {
		errs = append(errs, fmt.Errorf("name %q: must be 1 to %d letters, digits, '.', '_' or '-'", name, maxName))
	}
	if err := limit.valid(); err != nil {
		errs = append(errs, split(err)...)
	}
	if opts.OnError != Local && opts.OnError != Deny {
		errs = append(errs, fmt.Errorf("Options.OnError = %d: must be Local or Deny", int(opts.OnError)))
	}
	if opts.Processes < 0 || opts.Processes > maxProcesses {
		errs = append(errs, fmt.Errorf("Options.Processes = %d: must be 0 to %d (0 means 1)", opts.Processes, maxProcesses))
	}
	if opts.Lease < 0 || opts.Lease > maxLease {
		errs = append(errs, fmt.Errorf("Options.Lease = %v: must be 0 to %v (0 means none)", opts.Lease, maxLease))
	}
	if opts.Timeout < 0 {
		errs = append(errs, fmt.Errorf("Options.Timeout = %v: must be >= 0 (0 means %v)", opts.Timeout, defaultTimeout))
	}
	if opts.Store == nil {
		opts.Store = NewMemory(0)
	}
	if c, ok := opts.Store.(interface{ Check() error }); ok {
		if err := c.Check(); err != nil {
			errs = append(errs, fmt.Errorf("Options.Store: %w", err))
		}
	}
	if err := supported(opts.Store, limit.rules); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		for i, err := range errs {
			errs[i] = fmt.Errorf("ratelimit: %s: %w", name, err)
		}
		return nil, errors.Join(errs...)
	}

	if opts.Processes == 0 {
		opts.Processes = 1
	}
	if opts.Timeout == 0 {
		opts.Timeout = defaultTimeout
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	l := &Limiter{name: name, limit: limit, opts: opts, logger: opts.Logger, closing: make(chan struct{})}
	l.policy = policyField(name, limit.rules)
	if m, ok := opts.Store.(*Memory); ok {
		l.memory = m
	} else {
		l.remote = newRemote(l)
	}
	return l, nil
}

// supported says what a store cannot count.
func supported(store Store, rules []Rule) error {
	counts := Rule.isRate
	if s, ok := store.(interface{ Supports(Rule) bool }); ok {
		counts = s.Supports
	}
	for _, r := range rules {
		if !counts(r) {
			return fmt.Errorf("Options.Store: a %T cannot count %s", store, r.describe(nil))
		}
	}
	return nil
}

func validName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

func split(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		return j.Unwrap()
	}
	return []error{err}
}

// Take asks for cost permits for key, at once or not at all. A refusal is a Decision, not an error.
//
// The error is ErrClosed after Close, the context's if that ended, one that says so if cost is below 1 or more than the limit
// could ever grant, and under Deny that of the store. A Decision beside an error does not allow.
//
// On a remote store a refusal is remembered for its RetryAfter, at most a second, and answered from memory: a key that hammers
// costs the store nothing. What is in flight may be given back at any time and is always asked for. A decision takes at most
// Options.Timeout; where the store has not answered, Options.OnError decides.
func (l *Limiter) Take(ctx context.Context, key string, cost int) (Decision, error) {
	d, _, err := l.take(ctx, key, cost)
	return d, err
}

// take also returns the rules that decided.
func (l *Limiter) take(ctx context.Context, key string, cost int) (Decision, []Rule, error) {
	if l.closed.Load() {
		return Decision{}, nil, fmt.Errorf("%s: %w", l.name, ErrClosed)
	}
	rules, err := l.rulesFor(ctx, key)
	if err != nil {
		return Decision{}, nil, err
	}
	if most := maxCost(rules); cost < 1 || cost > most {
		return Decision{}, rules, fmt.Errorf("ratelimit: %s: cost %d: must be 1 to %d, the most that the limit grants at once", l.name, cost, most)
	}
	ask := Ask{Name: l.name, Key: key, Cost: cost, Rules: rules}
	if holds(rules) {
		ask.ID = rand.Text()
	}
	var d Decision
	if l.memory != nil {
		if err := ctx.Err(); err != nil {
			return Decision{}, rules, err
		}
		d = l.memory.take(ask)
	} else if d, rules, err = l.remote.take(ctx, ask); err != nil {
		return d, rules, err
	}
	d.id = ask.ID
	l.counts.decided(d.Allowed)
	return d, rules, nil
}

// Return gives back the permits of a Decision that Take returned for key: those in flight, so that others may have them, and those
// of rates and quotas, which were then not used, as far as their time has not passed. Of a Decision that did not allow it gives
// back nothing. Calling it twice for permits of rates is a mistake that it cannot detect.
//
// Where several limits guard one request, ask the strictest last and give back what the others granted if it refuses.
//
// It is best effort: the error is the store's, ErrClosed or the context's, and permits in flight time out anyhow.
func (l *Limiter) Return(ctx context.Context, key string, d Decision) error {
	if l.closed.Load() {
		return fmt.Errorf("%s: %w", l.name, ErrClosed)
	}
	if !d.Allowed {
		return nil
	}
	rules, err := l.rulesFor(ctx, key)
	if err != nil {
		return err
	}
	ask := Ask{Name: l.name, Key: key, Cost: d.Granted, Rules: rules, ID: d.id, At: d.At}
	l.counts.returned.Add(1)
	if l.memory != nil {
		l.memory.giveBack(ask)
		return nil
	}
	return l.remote.giveBack(ctx, ask, d.from)
}

func (l *Limiter) rulesFor(ctx context.Context, key string) ([]Rule, error) {
	if l.opts.LimitFor == nil {
		return l.limit.rules, nil
	}
	limit := l.opts.LimitFor(ctx, key)
	if len(limit.rules) == 0 && len(limit.errs) == 0 {
		return l.limit.rules, nil
	}
	if err := limit.valid(); err != nil {
		return nil, fmt.Errorf("ratelimit: %s: LimitFor: %w", l.name, err)
	}
	if !onlyRates(limit.rules) {
		if err := supported(l.opts.Store, limit.rules); err != nil {
			return nil, fmt.Errorf("ratelimit: %s: LimitFor: %w", l.name, err)
		}
	}
	return limit.rules, nil
}

// Close makes every later call, and every Wait that still waits, return ErrClosed. It leaves the store open. It is safe to call
// more than once.
func (l *Limiter) Close() error {
	if !l.closed.Swap(true) {
		close(l.closing)
	}
	return nil
}
