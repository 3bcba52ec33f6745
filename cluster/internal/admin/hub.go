package admin

import (
	"context"
	"slices"
	"sync"
	"time"
)

// hub looks at the cluster each second, also while nobody watches, so that whoever opens the page sees the two minutes
// before. It renders only for viewers, and once for all of them.
type hub struct {
	src    Source
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	recent  []Snapshot // of the last rateSpan, oldest first
	history []point
	events  []event // newest first
	viewers int
	frame   map[string]string // sections; nil while not rendered
	tick    chan struct{}     // closed and replaced at each look
}

func newHub(src Source) *hub {
	ctx, cancel := context.WithCancel(context.Background())
	h := &hub{src: src, cancel: cancel, done: make(chan struct{}), tick: make(chan struct{})}
	h.look()
	go h.run(ctx)
	return h
}

func (h *hub) run(ctx context.Context) {
	defer close(h.done)
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			h.look()
		case <-ctx.Done():
			return
		}
	}
}

// close ends the looks, and with them every stream.
func (h *hub) close() {
	h.cancel()
	<-h.done
}

func (h *hub) look() {
	now := h.src.Latest()
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.recent); n > 0 {
		events := eventsBetween(h.recent[n-1], now)
		slices.Reverse(events)
		h.events = slices.Concat(events, h.events)
		h.events = h.events[:min(len(h.events), shownEvents)]
	}
	h.recent = append(h.recent, now)
	for len(h.recent) > 1 && now.Time.Sub(h.recent[1].Time) >= rateSpan {
		h.recent = slices.Delete(h.recent, 0, 1)
	}
	h.history = append(h.history, newPoint(now, newFigures(now, h.before())))
	if extra := len(h.history) - historyLen; extra > 0 {
		h.history = slices.Delete(h.history, 0, extra)
	}
	h.frame = nil
	if h.viewers > 0 {
		h.frame = h.view().sections(h.history)
	}
	close(h.tick)
	h.tick = make(chan struct{})
}

// before is what rates are counted from: the oldest snapshot at hand, the zero one at first.
func (h *hub) before() Snapshot {
	if len(h.recent) < 2 {
		return Snapshot{}
	}
	return h.recent[0]
}

func (h *hub) view() view { // mu held
	return newView(h.recent[len(h.recent)-1], h.before(), h.history, h.events)
}

// sections are the parts of the page as of the last look.
func (h *hub) sections() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.frame == nil {
		h.frame = h.view().sections(h.history)
	}
	return h.frame
}

// fresh is the view at this moment, for who asks once: the last look may be a second old, and from before the first worker.
func (h *hub) fresh() (view, map[string]string) {
	now := h.src.Latest()
	h.mu.Lock()
	defer h.mu.Unlock()
	v := newView(now, h.before(), h.history, h.events)
	return v, v.sections(h.history)
}

// watch calls send with the sections that changed, at once with all of them and then each second, until ctx or the hub
// ends or send fails.
func (h *hub) watch(ctx context.Context, send func(changed map[string]string) error) {
	h.mu.Lock()
	h.viewers++
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.viewers--
		h.mu.Unlock()
	}()
	sent := map[string]string{}
	for {
		h.mu.Lock()
		tick := h.tick
		h.mu.Unlock()
		sections := h.sections()
		changed := map[string]string{}
		for id, html := range sections {
			if old, ok := sent[id]; !ok || old != html {
				changed[id] = html
			}
		}
		if send(changed) != nil {
			return
		}
		sent = sections
		select {
		case <-tick:
		case <-ctx.Done():
			return
		case <-h.done:
			return
		}
	}
}

func (h *hub) scaling() scaling {
	h.mu.Lock()
	defer h.mu.Unlock()
	return newScaling(newFigures(h.recent[len(h.recent)-1], h.before()), h.history[len(h.history)-1])
}
