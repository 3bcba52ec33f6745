package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"text/tabwriter"
	"time"
)

// worker is a row of ls; unknown members are kept out of the table and in --json.
type worker struct {
	Slot        int     `json:"slot"`
	Generation  int     `json:"generation"`
	PID         int     `json:"pid"`
	State       string  `json:"state"`
	Uptime      float64 `json:"uptime_seconds"`
	Restarts    int     `json:"restarts"`
	RSS         int64   `json:"rss_bytes"`
	Heap        int64   `json:"heap_bytes"`
	Goroutines  int64   `json:"goroutines"`
	Connections int64   `json:"connections"`
	LastExit    string  `json:"last_exit"`
}

func list(ctx context.Context, c *client, w io.Writer, asJSON bool) error {
	var res struct {
		Workers json.RawMessage `json:"workers"`
	}
	if err := c.call(ctx, http.MethodGet, "/v1/workers", &res); err != nil {
		return err
	}
	if asJSON {
		_, err := fmt.Fprintf(w, "%s\n", res.Workers)
		return err
	}
	var workers []worker
	if err := json.Unmarshal(res.Workers, &workers); err != nil {
		return fmt.Errorf("%w on %s as a service would: %v", errUnreachable, c.path, err)
	}
	return table(w, workers)
}

func table(w io.Writer, workers []worker) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SLOT\tGEN\tPID\tSTATE\tUPTIME\tRESTARTS\tRSS\tHEAP\tGOROUTINES\tCONNS\tLAST EXIT")
	for _, x := range workers {
		if x.PID == 0 { // a slot that waits for its next worker
			fmt.Fprintf(tw, "%d\t-\t-\t%s\t-\t%d\t-\t-\t-\t-\t%s\n", x.Slot, x.State, x.Restarts, dash(x.LastExit))
			continue
		}
		fmt.Fprintf(tw, "%d\t%d\t%d\t%s\t%s\t%d\t%s\t%s\t%d\t%d\t%s\n", x.Slot, x.Generation, x.PID, x.State, uptime(x.Uptime),
			x.Restarts, size(x.RSS), size(x.Heap), x.Goroutines, x.Connections, dash(x.LastExit))
	}
	return tw.Flush()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// size prints bytes with the unit that leaves one to three digits before the point.
func size(n int64) string {
	if n <= 0 {
		return "-"
	}
	f, units := float64(n), []string{"B", "K", "M", "G", "T"}
	for f >= 1000 && len(units) > 1 {
		f, units = f/1024, units[1:]
	}
	digits := 0
	if f < 10 && units[0] != "B" {
		digits = 1
	}
	return strconv.FormatFloat(f, 'f', digits, 64) + units[0]
}

// uptime prints the two largest units.
func uptime(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}
