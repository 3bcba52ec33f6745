package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const wordLines = 24 // of a worker's last words; all are in --json

// exit is the end of a worker.
type exit struct {
	Generation int       `json:"generation"`
	PID        int       `json:"pid"`
	Time       time.Time `json:"time"`
	Status     string    `json:"status"`
	OK         bool      `json:"ok"`
	Reason     string    `json:"reason"`
	Crash      string    `json:"crash"`
	Stderr     string    `json:"stderr"`
	Tail       string    `json:"tail"`
}

// screen is where something is shown.
type screen struct {
	io.Writer
	paint paint
	width int // 0: no terminal, lines of any length
}

func (c *client) workers(ctx context.Context) ([]worker, json.RawMessage, error) {
	var res struct {
		Workers json.RawMessage `json:"workers"`
	}
	if err := c.call(ctx, http.MethodGet, "/v1/workers", &res); err != nil {
		return nil, nil, err
	}
	var workers []worker
	if err := json.Unmarshal(res.Workers, &workers); err != nil {
		return nil, nil, fmt.Errorf("%w on %s as a service would: %v", errUnreachable, c.path, err)
	}
	return workers, res.Workers, nil
}

func list(ctx context.Context, c *client, s screen, asJSON bool) error {
	workers, raw, err := c.workers(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		_, err := fmt.Fprintf(s, "%s\n", raw)
		return err
	}
	table(s, workers, s.paint, s.width)
	return nil
}

// listSlot shows one slot: its workers, and how the earlier ones ended.
func listSlot(ctx context.Context, c *client, s screen, slot int, asJSON bool) error {
	workers, raw, err := c.workers(ctx)
	if err != nil {
		return err
	}
	var res struct {
		Exits json.RawMessage `json:"exits"`
	}
	if err := c.call(ctx, http.MethodGet, "/v1/exits?slot="+strconv.Itoa(slot), &res); err != nil {
		return err
	}
	mine := slices.DeleteFunc(workers, func(w worker) bool { return w.Slot != slot })
	if len(mine) == 0 {
		return &answerError{text: fmt.Sprintf("there is no slot %d", slot)}
	}
	if asJSON {
		var rows, its []json.RawMessage
		json.Unmarshal(raw, &rows)
		for _, r := range rows {
			var w worker
			if json.Unmarshal(r, &w); w.Slot == slot {
				its = append(its, r)
			}
		}
		b, err := json.Marshal(map[string]any{"workers": its, "exits": res.Exits})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(s, "%s\n", b)
		return err
	}
	var exits []exit
	if err := json.Unmarshal(res.Exits, &exits); err != nil {
		return fmt.Errorf("%w on %s as a service would: %v", errUnreachable, c.path, err)
	}
	table(s, mine, s.paint, s.width)
	showExits(s, exits, time.Now())
	return nil
}

// showExits lists the exits, the newest first, and the last words of the newest that went wrong.
func showExits(s screen, exits []exit, now time.Time) {
	if len(exits) == 0 {
		return
	}
	fmt.Fprintf(s, "\n%s\n", s.paint.head("EARLIER WORKERS"))
	for _, e := range slices.Backward(exits) {
		ago := uptime(now.Sub(e.Time).Seconds()) + " ago"
		status := e.Status
		if e.Reason != "" {
			status += ": " + e.Reason
		}
		line := fmt.Sprintf("%-11s  generation %d  pid %d  ", ago, e.Generation, e.PID)
		room := 0
		if s.width > 0 {
			room = max(20, s.width-len(line))
		}
		status = cut(status, room)
		if !e.OK {
			status = s.paint.bad(status)
		}
		fmt.Fprintln(s, line+status)
	}
	for _, e := range slices.Backward(exits) {
		words := e.Crash
		if words == "" {
			words = e.Stderr
		}
		if words == "" {
			words = e.Tail
		}
		if e.OK || words == "" {
			continue
		}
		fmt.Fprintf(s, "\n%s\n", s.paint.head(fmt.Sprintf("LAST WORDS OF GENERATION %d", e.Generation)))
		lines := strings.Split(strings.TrimRight(words, "\n"), "\n")
		for _, l := range lines[:min(len(lines), wordLines)] {
			fmt.Fprintln(s, cut(strings.ReplaceAll(l, "\t", "    "), s.width))
		}
		if more := len(lines) - wordLines; more > 0 {
			fmt.Fprintln(s, s.paint.head(fmt.Sprintf("(%d more lines: clusterctl ls %s --json)", more, "SLOT")))
		}
		return
	}
}
