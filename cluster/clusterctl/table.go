package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// worker is a row of ls; unknown members are kept out of the table and in --json.
type worker struct {
	Slot        int     `json:"slot"`
	Generation  int     `json:"generation"`
	PID         int     `json:"pid"`
	State       string  `json:"state"`
	Uptime      float64 `json:"uptime_seconds"`
	Restarts    int     `json:"restarts"`
	CPU         float64 `json:"cpu_cores"`
	RSS         int64   `json:"rss_bytes"`
	Heap        int64   `json:"heap_bytes"`
	Goroutines  int64   `json:"goroutines"`
	SchedP99    float64 `json:"sched_p99_seconds"`
	Connections int64   `json:"connections"`
	RPS         float64 `json:"requests_per_second"`
	LastExit    string  `json:"last_exit"`
}

// column of the table. Those with a rank are left out where the terminal is too narrow, the highest first.
type column struct {
	title, short string
	left         bool
	rank         int
	cell         func(worker) string
}

// ofProcess is a cell that a slot without a process leaves empty.
func ofProcess(cell func(worker) string) func(worker) string {
	return func(w worker) string {
		if w.PID == 0 {
			return "-"
		}
		return cell(w)
	}
}

var columns = []column{
	{title: "SLOT", cell: func(w worker) string { return strconv.Itoa(w.Slot) }},
	{title: "GEN", cell: ofProcess(func(w worker) string { return strconv.Itoa(w.Generation) })},
	{title: "PID", cell: ofProcess(func(w worker) string { return strconv.Itoa(w.PID) })},
	{title: "STATE", left: true, cell: func(w worker) string { return w.State }},
	{title: "UPTIME", cell: ofProcess(func(w worker) string { return uptime(w.Uptime) })},
	{title: "RESTARTS", short: "RST", cell: func(w worker) string { return strconv.Itoa(w.Restarts) }},
	{title: "CPU", cell: ofProcess(func(w worker) string { return strconv.FormatFloat(w.CPU, 'f', 2, 64) })},
	{title: "RSS", cell: ofProcess(func(w worker) string { return size(w.RSS) })},
	{title: "HEAP", rank: 3, cell: ofProcess(func(w worker) string { return size(w.Heap) })},
	{title: "GOROUTINES", short: "GORO", rank: 2, cell: ofProcess(func(w worker) string { return strconv.FormatInt(w.Goroutines, 10) })},
	{title: "SCHED P99", short: "SCHED", rank: 1, cell: ofProcess(func(w worker) string { return duration(w.SchedP99) })},
	{title: "CONNS", cell: ofProcess(func(w worker) string { return strconv.FormatInt(w.Connections, 10) })},
	{title: "REQ/S", cell: ofProcess(func(w worker) string { return rate(w.RPS) })},
}

const (
	gap      = "  "
	exitWord = "LAST EXIT" // the last column takes what is left
)

// table writes the workers so that no line is longer than width; 0 is any length.
func table(w io.Writer, workers []worker, p paint, width int) {
	cols := slices.Clone(columns)
	titles, widths := measure(cols, workers, false)
	if width > 0 && sum(widths)+len(exitWord) > width {
		titles, widths = measure(cols, workers, true)
	}
	for rank := 3; rank > 0 && width > 0 && sum(widths)+longestExit(workers) > width; rank-- {
		if i := slices.IndexFunc(cols, func(c column) bool { return c.rank == rank }); i >= 0 {
			cols, titles, widths = slices.Delete(cols, i, i+1), slices.Delete(titles, i, i+1), slices.Delete(widths, i, i+1)
		}
	}
	room := 0
	if width > 0 {
		room = max(len(exitWord), width-sum(widths))
	}
	var b strings.Builder
	for i, c := range cols {
		b.WriteString(pad(titles[i], widths[i], c.left) + gap)
	}
	b.WriteString(exitWord)
	fmt.Fprintln(w, p.head(b.String()))
	for _, x := range workers {
		b.Reset()
		for i, c := range cols {
			cell := pad(c.cell(x), widths[i], c.left)
			if c.title == "STATE" {
				cell = p.state(x.State, cell)
			}
			b.WriteString(cell + gap)
		}
		b.WriteString(ending(dash(x.LastExit), room))
		fmt.Fprintln(w, b.String())
	}
}

func measure(cols []column, workers []worker, short bool) (titles []string, widths []int) {
	for _, c := range cols {
		title := c.title
		if short && c.short != "" {
			title = c.short
		}
		n := len(title)
		for _, x := range workers {
			n = max(n, utf8.RuneCountInString(c.cell(x)))
		}
		titles, widths = append(titles, title), append(widths, n)
	}
	return titles, widths
}

func sum(widths []int) int {
	n := 0
	for _, w := range widths {
		n += w + len(gap)
	}
	return n
}

// ending is how a worker ended, in short where the room is not enough; 0 is any.
func ending(exit string, room int) string {
	if room > 0 && utf8.RuneCountInString(exit) > room {
		exit = strings.NewReplacer("signal: ", "", "exit status", "exit").Replace(exit)
	}
	return cut(exit, room)
}

func longestExit(workers []worker) int {
	n := len(exitWord)
	for _, x := range workers {
		n = max(n, min(utf8.RuneCountInString(x.LastExit), len("signal: killed")))
	}
	return n
}

func pad(s string, width int, left bool) string {
	space := strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
	if left {
		return s + space
	}
	return space + s
}

// cut shortens s to n characters, if n is not 0.
func cut(s string, n int) string {
	r := []rune(s)
	if n <= 0 || len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
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

// rate prints requests a second: one decimal where that tells something.
func rate(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case v < 100_000:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v/1000, 'f', 0, 64) + "k"
}

// duration prints seconds with two digits and the unit that fits.
func duration(seconds float64) string {
	if seconds <= 0 {
		return "-"
	}
	v, units := seconds*1e6, []string{"µs", "ms", "s"}
	for v >= 1000 && len(units) > 1 {
		v, units = v/1000, units[1:]
	}
	digits := 0
	if v < 10 {
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64) + units[0]
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
