package admin

import (
	"math"
	"slices"
	"strings"

	"github.com/fairlead/fairlead/internal/telemetry"
)

// card is what one component tells.
type card struct {
	kind, name string
	level      level
	state      string // in a word or two; "" for nothing to say
	rows       []cardRow
	table      *cardTable
}

type cardRow struct {
	label, value string
	share        float64 // of a bar, 0 to 1; NaN for none
}

type cardTable struct {
	head []string
	rows [][]string
}

func plain(label, value string) cardRow { return cardRow{label, value, math.NaN()} }

func perSecond(v float64) string { return number(v) + "/s" }

// newCards makes a card for each component whose names are known, and a plain one for every other.
func newCards(f figures) []card {
	known := map[string]bool{}
	var cards []card
	each := func(prefix, sample, key string, make func(name string, of []string) card) {
		known[prefix] = true
		if _, ok := f.now[sample]; !ok {
			return
		}
		names := f.values(sample, key)
		if len(names) == 0 {
			cards = append(cards, make("", nil))
		}
		for _, name := range names {
			cards = append(cards, make(name, []string{key, name}))
		}
	}
	each("fairlead.cache.", "fairlead.cache.gets", "cache", f.cacheCard)
	each("fairlead.pool.", "fairlead.pool.epoch", "pool", f.poolCard)
	known["db.client."] = true
	each("fairlead.session.", "fairlead.session.loads", "session", f.sessionCard)
	each("fairlead.ratelimit.", "fairlead.ratelimit.decisions", "limiter", f.ratelimitCard)
	each("fairlead.overload.", "fairlead.overload.limit", "limiter", f.overloadCard)
	each("fairlead.breaker.", "fairlead.breaker.state", "breaker", f.breakerCard)
	each("fairlead.retry.", "fairlead.retry.requests", "budget", f.retryCard)
	each("fairlead.redis.", "fairlead.redis.calls", "-", f.redisCard)
	if c := f.runtimeCard(); c != nil {
		cards = append(cards, *c)
	}
	for _, prefix := range []string{"http.server.", "fairlead.cluster.", "fairlead.drain.", "go.", "process."} {
		known[prefix] = true
	}
	return append(cards, f.otherCards(known)...)
}

func (f figures) cacheCard(name string, of []string) card {
	c := card{kind: "cache", name: name, level: fine}
	if v, ok := f.value("fairlead.cache.connected", of...); ok && v == 0 {
		c.level, c.state = warn, "cut off"
	}
	hits := hitRatio(f, of...)
	load := f.dist("fairlead.cache.load.duration", of...)
	c.rows = []cardRow{
		{"hits", percent(hits) + " %", hits},
		plain("gets", perSecond(f.rate("fairlead.cache.gets", of...))),
		plain("loads", perSecond(f.rate("fairlead.cache.loads", of...))),
		plain("joined another's load", perSecond(f.rate("fairlead.cache.coalesced", of...))),
	}
	if load.Count() > 0 {
		c.rows = append(c.rows, plain("load p99", duration(load.Quantile(0.99))))
	}
	stale := f.rate("fairlead.cache.gets", append([]string{"result", "stale"}, of...)...)
	failed := f.rate("fairlead.cache.gets", append([]string{"result", "error"}, of...)...)
	if stale > 0 {
		c.rows = append(c.rows, plain("served stale", perSecond(stale)))
	}
	if failed > 0 {
		c.level = worse(c.level, warn)
		c.rows = append(c.rows, plain("failed", perSecond(failed)))
	}
	c.rows = append(c.rows,
		plain("invalidated", perSecond(f.rate("fairlead.cache.invalidations", of...))),
		plain("entries in memory", number(f.or0("fairlead.cache.entries", of...))))
	if pending := f.or0("fairlead.cache.pending", of...); pending > 0 {
		c.level = worse(c.level, warn)
		c.rows = append(c.rows, plain("invalidations to send", number(pending)))
	}
	return c
}

func (f figures) poolCard(name string, of []string) card {
	c := card{kind: "pool", name: name, level: fine}
	if f.or0("fairlead.pool.primary.missing", of...) > 0 {
		c.level, c.state = bad, "no primary"
	}
	replica := f.rate("fairlead.pool.route", append([]string{"target", "replica"}, of...)...)
	primary := f.rate("fairlead.pool.route", append([]string{"target", "primary"}, of...)...)
	onReplicas := math.NaN()
	if replica+primary > 0 {
		onReplicas = replica / (replica + primary)
	}
	c.rows = []cardRow{
		{"view reads on replicas", percent(onReplicas) + " %", onReplicas},
		plain("view reads", perSecond(replica+primary)),
	}
	for _, r := range []struct{ label, name string }{
		{"spilled to the primary", "fairlead.pool.spilled"},
		{"waited for a replica", "fairlead.pool.waited"},
		{"stale answers avoided", "fairlead.pool.stale.avoided"},
		{"refused, saturated", "fairlead.pool.saturated"},
		{"retried", "fairlead.pool.retry"},
	} {
		if v := f.rate(r.name, of...); v > 0 {
			c.rows = append(c.rows, plain(r.label, perSecond(v)))
		}
	}
	for _, r := range []struct{ label, name string }{
		{"failovers", "fairlead.pool.failover"},
		{"outcomes unknown", "fairlead.pool.outcome.unknown"},
	} {
		if v := f.or0(r.name, of...); v > 0 {
			c.rows = append(c.rows, plain(r.label, number(v)))
		}
	}
	c.table = &cardTable{head: []string{"node", "role", "lag", "in use", "waiting", "reads/s"}}
	for _, node := range f.values("fairlead.pool.node.up", "node", of...) {
		at := append([]string{"node", node}, of...)
		role := "?"
		for _, r := range f.values("fairlead.pool.node.up", "role", at...) {
			if v, _ := f.value("fairlead.pool.node.up", append([]string{"role", r}, at...)...); v > 0 || role == "?" {
				role = r
			}
		}
		lag := "–"
		if v := f.or0("fairlead.pool.replica.lag", at...); role == "replica" {
			lag = duration(v)
			if lagging(v) {
				c.level = worse(c.level, warn)
			}
		}
		if v, ok := f.value("fairlead.pool.node.up", at...); ok && v == 0 {
			role, lag = role+", down", "–"
			c.level = worse(c.level, warn)
		}
		c.table.rows = append(c.table.rows, []string{node, role, lag,
			number(f.or0("db.client.connection.count", append([]string{"db.client.connection.state", "used"}, at...)...)),
			number(f.or0("db.client.connection.pending_requests", at...)),
			number(f.rate("fairlead.pool.node.reads", at...))})
	}
	return c
}

func (f figures) sessionCard(name string, of []string) card {
	c := card{kind: "sessions", name: name, level: fine}
	c.rows = []cardRow{
		plain("loads", perSecond(f.rate("fairlead.session.loads", of...))),
		plain("updates", perSecond(f.rate("fairlead.session.updates", of...))),
		plain("writes for them", perSecond(f.rate("fairlead.session.writes", of...))),
		plain("conflicts", perSecond(f.rate("fairlead.session.conflicts", of...))),
		plain("logins", perSecond(f.rate("fairlead.session.logins", of...))),
		plain("ended or revoked", perSecond(f.rate("fairlead.session.logouts", of...)+f.rate("fairlead.session.revoked", of...))),
	}
	if v := f.rate("fairlead.session.unavailable", of...); v > 0 {
		c.level, c.state = warn, "store fails"
		c.rows = append(c.rows, plain("store failures", perSecond(v)))
	}
	return c
}

func (f figures) ratelimitCard(name string, of []string) card {
	const decisions = "fairlead.ratelimit.decisions"
	c := card{kind: "rate limit", name: name, level: fine}
	if f.or0("fairlead.ratelimit.store_down", of...) > 0 {
		c.level, c.state = warn, "without its store"
	}
	refused := f.rate(decisions, append([]string{"outcome", "refused"}, of...)...) + f.rate(decisions, append([]string{"outcome", "denied"}, of...)...)
	share := math.NaN()
	if all := f.rate(decisions, of...); all > 0 {
		share = refused / all
	}
	c.rows = []cardRow{
		{"refused", percent(share) + " %", share},
		plain("allowed", perSecond(f.rate(decisions, append([]string{"outcome", "allowed"}, of...)...))),
		plain("refused", perSecond(refused)),
		plain("decided without the store", perSecond(f.rate("fairlead.ratelimit.local", of...))),
	}
	return c
}

func (f figures) overloadCard(name string, of []string) card {
	c := card{kind: "overload", name: name, level: fine}
	saturation := f.or0("fairlead.overload.saturation", of...)
	refused := f.rate("fairlead.overload.refused", of...)
	if refused > 0 {
		c.level, c.state = warn, "refusing"
	}
	c.rows = []cardRow{
		{"saturation", percent(saturation) + " %", min(1, saturation)},
		plain("may run", number(f.or0("fairlead.overload.limit", of...))),
		plain("run", number(f.or0("fairlead.overload.in_flight", of...))),
		plain("wait", number(f.or0("fairlead.overload.waiting", of...))),
		plain("admitted", perSecond(f.rate("fairlead.overload.admitted", of...))),
		plain("refused", perSecond(refused)),
	}
	if wait := f.dist("fairlead.overload.wait", of...); wait.Count() > 0 {
		c.rows = append(c.rows, plain("wait p99", duration(wait.Quantile(0.99))))
	}
	return c
}

func (f figures) breakerCard(name string, of []string) card {
	const calls = "fairlead.breaker.calls"
	c := card{kind: "breaker", name: name, level: fine, state: "closed"}
	switch f.or0("fairlead.breaker.state", of...) {
	case 1:
		c.level, c.state = warn, "half-open"
	case 2:
		c.level, c.state = bad, "open"
	}
	failed, all := f.rate(calls, append([]string{"result", "failure"}, of...)...), f.rate(calls, of...)
	share := math.NaN()
	if all > 0 {
		share = failed / all
	}
	c.rows = []cardRow{
		{"failed", percent(share) + " %", share},
		plain("calls", perSecond(all)),
		plain("rejected here", perSecond(f.rate("fairlead.breaker.rejections", of...))),
		plain("slow", perSecond(f.rate("fairlead.breaker.slow", of...))),
		plain("times tripped", number(f.or0("fairlead.breaker.trips", of...))),
	}
	return c
}

func (f figures) retryCard(name string, of []string) card {
	return card{kind: "retry budget", name: name, level: fine, rows: []cardRow{
		plain("requests", perSecond(f.rate("fairlead.retry.requests", of...))),
		plain("retries", perSecond(f.rate("fairlead.retry.retries", of...))),
		plain("recovered", perSecond(f.rate("fairlead.retry.recovered", of...))),
		plain("given up, no budget", perSecond(f.rate("fairlead.retry.exhausted", of...))),
	}}
}

func (f figures) redisCard(string, []string) card {
	c := card{kind: "redis", level: fine, rows: []cardRow{
		plain("calls", perSecond(f.rate("fairlead.redis.calls"))),
		plain("connections", number(f.or0("fairlead.redis.connections", "state", "open"))),
	}}
	if v := f.rate("fairlead.redis.unavailable"); v > 0 {
		c.level, c.state = warn, "unavailable"
		c.rows = append(c.rows, plain("unavailable", perSecond(v)))
	}
	if v := f.rate("fairlead.redis.connection.pool_timeout"); v > 0 {
		c.rows = append(c.rows, plain("waits that ran out", perSecond(v)))
	}
	return c
}

// runtimeCard is Go's: what it knows is shown, whatever the workers report.
func (f figures) runtimeCard() *card {
	c := card{kind: "runtime", level: fine}
	for _, r := range []struct {
		name, label string
		show        func(float64) string
	}{
		{"go.goroutine.count", "goroutines", number},
		{"go.memory.heap", "heap", bytes},
		{"process.memory.usage", "memory", bytes},
		{"go.memory.limit", "memory limit", bytes},
	} {
		if v, ok := f.value(r.name); ok {
			c.rows = append(c.rows, plain(r.label, r.show(v)))
		}
	}
	if _, ok := f.value("go.memory.gc.cycles"); ok {
		c.rows = append(c.rows, plain("collections", perSecond(f.rate("go.memory.gc.cycles"))))
	}
	for _, r := range []struct{ name, label string }{
		{"go.schedule.duration", "wait for a processor p99"},
		{"go.gc.pause.duration", "pauses p99"},
	} {
		if d := f.dist(r.name); d.Count() > 0 {
			c.rows = append(c.rows, plain(r.label, duration(d.Quantile(0.99))))
		}
	}
	if len(c.rows) == 0 {
		return nil
	}
	return &c
}

// otherCards shows what the page knows nothing of: the application's own components. One card a component, which is what
// the name says up to its last dot, and the attributes.
func (f figures) otherCards(known map[string]bool) []card {
	var names []string
next:
	for name := range f.now {
		for prefix := range known {
			if strings.HasPrefix(name, prefix) {
				continue next
			}
		}
		names = append(names, name)
	}
	slices.Sort(names)
	var cards []card
	index := map[string]int{}
	for _, name := range names {
		kind, label := "", name
		if i := strings.LastIndexByte(name, '.'); i >= 0 {
			kind, label = name[:i], name[i+1:]
		}
		kind = strings.TrimPrefix(kind, "fairlead.")
		for _, s := range f.now[name] {
			title, rest := "", ""
			for i, a := range s.Attrs {
				if i == 0 {
					title = a.Value
				} else {
					rest += " " + a.Value
				}
			}
			id := kind + "\x00" + title
			at, ok := index[id]
			if !ok {
				at = len(cards)
				index[id] = at
				cards = append(cards, card{kind: kind, name: title, level: fine})
			}
			cards[at].rows = append(cards[at].rows, plain(strings.ReplaceAll(label, "_", " ")+rest, f.otherValue(s)))
		}
	}
	return cards
}

func (f figures) otherValue(s telemetry.Sample) string {
	var of []string
	for _, a := range s.Attrs {
		of = append(of, a.Key, a.Value)
	}
	switch {
	case s.Kind == telemetry.Histogram:
		d := f.dist(s.Name, of...)
		if d.Count() == 0 {
			return none
		}
		return "p50 " + duration(d.Quantile(0.5)) + ", p99 " + duration(d.Quantile(0.99))
	case s.Kind == telemetry.Counter:
		return perSecond(f.rate(s.Name, of...))
	case s.Unit == "s":
		return duration(s.Value)
	}
	return number(s.Value)
}
