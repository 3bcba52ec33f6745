package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

var errNoTerminal = errors.New("top: needs a terminal; for programs there is ls --json")

// top shows the workers on the whole terminal, again and again, until q or a signal.
func top(ctx context.Context, c *client, out, in *os.File, p paint, every time.Duration) error {
	if _, _, ok := terminalSize(out); !ok {
		return errNoTerminal
	}
	if _, _, err := c.workers(ctx); err != nil {
		return err
	}
	pressed := make(chan byte)
	if restore, err := keys(in); err == nil {
		defer restore()
		go func() {
			for b := make([]byte, 1); ; {
				if _, err := in.Read(b); err != nil {
					return
				}
				pressed <- b[0]
			}
		}()
	}
	fmt.Fprint(out, "\x1b[?1049h\x1b[?25l") // another screen, no cursor
	defer fmt.Fprint(out, "\x1b[?25h\x1b[?1049l")
	tick := time.NewTicker(every)
	defer tick.Stop()
	resized := time.NewTicker(100 * time.Millisecond)
	defer resized.Stop()
	v := &view{path: c.path, paint: p}
	v.look(ctx, c)
	for lastW, lastH := 0, 0; ; {
		w, h, _ := terminalSize(out)
		if w != lastW || h != lastH || v.dirty {
			// Each line is cleared to its end, and what is below the last: nothing flickers.
			frame := bytes.ReplaceAll(v.frame(w, h), []byte("\n"), []byte("\x1b[K\n"))
			out.Write(slices.Concat([]byte("\x1b[H"), frame, []byte("\x1b[K\x1b[J")))
			lastW, lastH, v.dirty = w, h, false
		}
		select {
		case <-tick.C:
			v.look(ctx, c)
		case <-resized.C:
		case k := <-pressed:
			if k == 'q' || k == 'Q' || k == 3 || k == 4 {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// view is what top shows.
type view struct {
	path    string
	paint   paint
	workers []worker
	err     error
	at      time.Time
	rates   []float64 // requests a second, the newest last
	dirty   bool
}

const keptRates = 300

func (v *view) look(ctx context.Context, c *client) {
	workers, _, err := c.workers(ctx)
	v.at, v.dirty, v.err = time.Now(), true, err
	if err != nil {
		return // what was seen last stays
	}
	v.workers = workers
	total := 0.0
	for _, w := range workers {
		total += w.RPS
	}
	v.rates = append(v.rates, total)
	v.rates = v.rates[max(0, len(v.rates)-keptRates):]
}

// frame is the whole screen, without a newline at its end.
func (v *view) frame(width, height int) []byte {
	var b bytes.Buffer
	slots, ready := map[int]bool{}, map[int]bool{}
	var cpu float64
	var rss, conns int64
	restarts := map[int]int{}
	for _, w := range v.workers {
		slots[w.Slot] = true
		if w.State == "ready" {
			ready[w.Slot] = true
		}
		cpu, rss, conns = cpu+w.CPU, rss+w.RSS, conns+w.Connections
		restarts[w.Slot] = w.Restarts
	}
	again := 0
	for _, n := range restarts {
		again += n
	}
	clock := v.at.Format("15:04:05")
	fmt.Fprintf(&b, "%s%s%s\n", v.paint.bold(cut(v.path, width-len(clock)-2)),
		strings.Repeat(" ", max(1, width-len(clock)-len([]rune(cut(v.path, width-len(clock)-2))))), clock)
	state := fmt.Sprintf("%d of %d slots ready", len(ready), len(slots))
	if len(ready) < len(slots) || v.err != nil {
		state = v.paint.state("backoff", state)
	} else {
		state = v.paint.state("ready", state)
	}
	fmt.Fprintf(&b, "%s   cpu %.2f   rss %s   conns %d   restarts %d\n", state, cpu, size(rss), conns, again)
	now := 0.0
	if len(v.rates) > 0 {
		now = v.rates[len(v.rates)-1]
	}
	label := fmt.Sprintf("%7s req/s  ", rate(now))
	fmt.Fprintf(&b, "%s%s\n\n", label, v.paint.with("36", sparkline(v.rates, width-len(label))))
	if v.err != nil {
		fmt.Fprintf(&b, "%s\n\n", v.paint.bad(cut(v.err.Error(), width)))
	}
	var t bytes.Buffer
	table(&t, v.workers, v.paint, width)
	b.Write(t.Bytes())
	lines := bytes.Split(bytes.TrimRight(b.Bytes(), "\n"), []byte("\n"))
	if len(lines) > height-2 {
		lines = append(lines[:max(0, height-3)], []byte(v.paint.head("…")))
	}
	for len(lines) < height-1 {
		lines = append(lines, nil)
	}
	lines = append(lines, []byte(v.paint.head("q quits")))
	return bytes.Join(lines, []byte("\n"))
}

// sparkline draws the newest values, as many as fit, each as high as it is among them.
func sparkline(values []float64, width int) string {
	values = values[max(0, len(values)-max(0, width)):]
	if len(values) == 0 {
		return ""
	}
	bars := []rune("▁▂▃▄▅▆▇█")
	top := slices.Max(values)
	var b strings.Builder
	for _, v := range values {
		i := 0
		if top > 0 {
			i = int(v / top * float64(len(bars)-1))
		}
		b.WriteRune(bars[i])
	}
	return b.String()
}
