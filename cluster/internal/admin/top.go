package admin

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"
)

// writeTop is the page as text, for watch and for a terminal on the machine.
func (v view) writeTop(w io.Writer) {
	name := v.service
	if name == "" {
		name = "service"
	}
	fmt.Fprintf(w, "%s  %s  %s\n", name, v.verdict, v.at.UTC().Format("15:04:05 UTC"))
	for _, r := range v.reasons {
		fmt.Fprintf(w, "  %s\n", r)
	}
	fmt.Fprintln(w)
	var tiles []string
	for _, t := range v.tiles {
		value := t.value
		switch {
		case t.unit == "/s":
			value += t.unit
		case t.unit != "" && value != none:
			value += " " + t.unit
		}
		tiles = append(tiles, strings.ToLower(t.label)+" "+value)
	}
	fmt.Fprintf(w, "%s\n\n", strings.Join(tiles, " · "))

	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "SLOT\tGEN\tPID\tSTATE\tUPTIME\tRESTARTS\tCPU\tMEMORY\tGOROUTINES\tCONNS\tREQ/S\t")
	for _, x := range v.workers {
		if x.PID == 0 {
			fmt.Fprintf(t, "%d\t-\t-\t%s\t-\t%d\t-\t-\t-\t-\t-\t\n", x.Slot, x.State, x.Restarts)
			continue
		}
		fmt.Fprintf(t, "%d\t%d\t%d\t%s\t%s\t%d\t%s\t%s\t%d\t%d\t%s\t\n", x.Slot, x.Generation, x.PID, x.State, age(time.Duration(x.Uptime*float64(time.Second))),
			x.Restarts, number(x.CPU), bytes(float64(x.RSS)), x.Goroutines, x.Connections, number(x.RPS))
	}
	t.Flush()
	if len(v.routes) > 0 {
		fmt.Fprintln(w)
		t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "ROUTE\tREQ/S\tP50\tP99\t5XX\t4XX")
		for _, r := range v.routes {
			fmt.Fprintf(t, "%s %s\t%s\t%s\t%s\t%s %%\t%s %%\n", r.method, r.pattern, number(r.rps), duration(r.p50), duration(r.p99), percent(r.errors), percent(r.refused))
		}
		t.Flush()
	}
	for _, c := range v.cards {
		fmt.Fprintf(w, "\n%s %s", c.kind, c.name)
		if c.state != "" {
			fmt.Fprintf(w, " (%s)", c.state)
		}
		var rows []string
		for _, r := range c.rows {
			rows = append(rows, r.label+" "+r.value)
		}
		fmt.Fprintf(w, ": %s\n", strings.Join(rows, ", "))
		if c.table != nil {
			t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
			fmt.Fprintf(t, "  %s\n", strings.ToUpper(strings.Join(c.table.head, "\t")))
			for _, row := range c.table.rows {
				fmt.Fprintf(t, "  %s\n", strings.Join(row, "\t"))
			}
			t.Flush()
		}
	}
	if len(v.events) > 0 {
		fmt.Fprintln(w)
		for _, e := range v.events[:min(len(v.events), 10)] {
			fmt.Fprintf(w, "%s  %-4s  %s\n", e.at.UTC().Format("15:04:05"), e.level, e.text)
		}
	}
}

// scaling is what an autoscaler may go by; the answer of /api/scaling.
type scaling struct {
	Saturation  float64 `json:"saturation"`   // requests that run or wait for each that may run, of the worst worker; 0 when nothing limits them
	InFlight    float64 `json:"in_flight"`    // requests being served
	Queued      float64 `json:"queued"`       // requests and offloaded tasks that wait
	PoolWaiting float64 `json:"pool_waiting"` // callers that wait for a database connection
	RPS         float64 `json:"requests_per_second"`
	Refused     float64 `json:"refused_per_second"`
	CPU         float64 `json:"cpu_cores"`
	P99         float64 `json:"p99_seconds"`
}

func newScaling(f figures, last point) scaling {
	finite := func(v float64) float64 {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return 0
		}
		return v
	}
	return scaling{
		Saturation:  finite(last.saturation),
		InFlight:    last.inFlight,
		Queued:      f.or0("fairlead.overload.waiting") + f.or0("fairlead.offload.waiting"),
		PoolWaiting: f.or0("db.client.connection.pending_requests"),
		RPS:         last.rps,
		Refused:     last.refused,
		CPU:         last.cpu,
		P99:         finite(last.p99),
	}
}
