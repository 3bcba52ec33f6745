package admin

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
	"time"
)

// page writes HTML. Whatever comes from outside goes through text or attr, which escape it.
type page struct{ b strings.Builder }

func (p *page) raw(s ...string) {
	for _, s := range s {
		p.b.WriteString(s)
	}
}

func (p *page) text(s string) { p.b.WriteString(html.EscapeString(s)) }

// open begins an element: attributes are name, value, name, value.
func (p *page) open(tag string, attrs ...string) {
	p.raw("<", tag)
	for i := 0; i+1 < len(attrs); i += 2 {
		if attrs[i+1] != "" {
			p.raw(" ", attrs[i], `="`, html.EscapeString(attrs[i+1]), `"`)
		}
	}
	p.raw(">")
}

func (p *page) element(tag, text string, attrs ...string) {
	p.open(tag, attrs...)
	p.text(text)
	p.raw("</", tag, ">")
}

// sections are the parts of the page that change, by the id of the element they are in.
func (v view) sections(history []point) map[string]string {
	return map[string]string{
		"verdict": render(v.renderVerdict),
		"tiles":   render(func(p *page) { v.renderTiles(p, history) }),
		"workers": render(v.renderWorkers),
		"routes":  render(v.renderRoutes),
		"cards":   render(v.renderCards),
		"events":  render(v.renderEvents),
	}
}

func render(f func(*page)) string {
	var p page
	f(&p)
	return p.b.String()
}

// sign is the level as a shape, since colour alone says nothing to many.
func sign(l level) string {
	return map[level]string{fine: "✓", warn: "!", bad: "✕"}[l]
}

func (p *page) badge(l level, text string) {
	p.open("span", "class", "badge "+string(l))
	p.element("i", sign(l), "aria-hidden", "true")
	p.raw(" ")
	p.text(text)
	p.raw("</span>")
}

func (v view) renderVerdict(p *page) {
	name := v.service
	if name == "" {
		name = "service"
	}
	p.open("div", "class", "verdict "+string(v.level))
	p.element("span", sign(v.level), "class", "sign", "aria-hidden", "true")
	p.open("div")
	p.open("p", "id", "words", "role", "status")
	p.element("b", name)
	p.raw(" ")
	p.text(v.verdict)
	p.raw("</p>")
	if len(v.reasons) > 0 {
		p.raw("<ul>")
		for _, r := range v.reasons {
			p.element("li", r)
		}
		p.raw("</ul>")
	}
	p.raw("</div></div>")
}

func (v view) renderTiles(p *page, history []point) {
	for _, t := range v.tiles {
		p.open("article", "class", "tile "+string(t.level), "data-key", t.key)
		p.open("h3")
		p.text(t.label)
		p.raw("</h3>")
		p.open("p", "class", "figure")
		p.text(t.value)
		if t.unit != "" && t.value != none {
			p.element("small", t.unit)
		}
		p.raw("</p>")
		p.element("p", t.note, "class", "note")
		spark(p, t, history, v.events)
		p.raw("</article>")
	}
}

const (
	sparkWidth  = historyLen - 1
	sparkHeight = 36
)

// spark draws the last two minutes, the newest at the right, with a line at each event that explains a step.
func spark(p *page, t tile, history []point, events []event) {
	top := 0.0
	for _, x := range t.history {
		if !math.IsNaN(x) {
			top = max(top, x)
		}
	}
	label := "no values yet"
	if top > 0 || len(t.history) > 0 {
		label = fmt.Sprintf("%s, the last two minutes: at most %s", t.label, t.unitOf(top))
	}
	p.open("svg", "viewBox", fmt.Sprintf("0 0 %d %d", sparkWidth, sparkHeight), "preserveAspectRatio", "none", "role", "img", "aria-label", label)
	scale := 0.0
	if top > 0 {
		scale = (sparkHeight - 4) / top
	}
	x := func(i int) int { return sparkWidth - (len(t.history) - 1 - i) }
	var line, area strings.Builder
	begun := -1
	flush := func(end int) {
		if begun >= 0 {
			fmt.Fprintf(&area, "V%dH%dZ", sparkHeight, x(begun))
		}
		begun = -1
	}
	for i, value := range t.history {
		if math.IsNaN(value) {
			flush(i - 1)
			continue
		}
		y := strconv.FormatFloat(sparkHeight-1-value*scale, 'f', 1, 64)
		op := "L"
		if begun < 0 {
			begun, op = i, "M"
		}
		fmt.Fprintf(&line, "%s%d %s", op, x(i), y)
		fmt.Fprintf(&area, "%s%d %s", op, x(i), y)
	}
	flush(len(t.history) - 1)
	p.raw(`<path class="area" d="`, area.String(), `"/><path class="line" d="`, line.String(), `"/>`)
	if len(history) > 0 {
		newest := history[len(history)-1].at
		for _, e := range events {
			back := int(newest.Sub(e.at).Round(time.Second).Seconds())
			if back < 0 || back > sparkWidth || !marks[e.kind] {
				continue
			}
			at := strconv.Itoa(sparkWidth - back)
			p.open("line", "class", "mark "+e.kind+" "+string(e.level), "x1", at, "x2", at, "y1", "0", "y2", strconv.Itoa(sparkHeight))
			p.element("title", e.text)
			p.raw("</line>")
		}
	}
	p.raw("</svg>")
	if top > 0 {
		p.element("span", "max "+t.unitOf(top), "class", "peak")
	}
}

// marks are the kinds of events that explain a step in a chart.
var marks = map[string]bool{"reload": true, "crash": true, "breaker": true, "pool": true}

func (v view) renderWorkers(p *page) {
	heads := []struct{ text, title string }{
		{"slot", "a stable place; a reload puts a new process into it"}, {"gen", "how many processes have stood there"}, {"pid", ""}, {"state", ""}, {"uptime", ""},
		{"restarts", "after crashes"}, {"cpu", "processors in use"}, {"memory", "resident"}, {"heap", ""}, {"goroutines", ""},
		{"sched p99", "how long goroutines wait for a processor"}, {"conns", ""}, {"req/s", ""}, {"last exit", ""},
	}
	p.raw("<table><thead><tr>")
	for i, h := range heads {
		class := "num"
		if i == 3 || i == len(heads)-1 {
			class = ""
		}
		p.element("th", h.text, "scope", "col", "class", class, "title", h.title)
	}
	p.raw("</tr></thead><tbody>")
	for _, w := range v.workers {
		p.open("tr", "data-key", fmt.Sprintf("%d/%d/%s", w.Slot, w.Generation, waits(w)), "class", "worker "+w.State)
		num := func(s string) { p.element("td", s, "class", "num") }
		num(strconv.Itoa(w.Slot))
		num(numberOrNone(w.Generation))
		num(numberOrNone(w.PID))
		p.raw("<td>")
		p.badge(levelOf(w.State), w.State)
		p.raw("</td>")
		if w.PID == 0 {
			num(none)
			num(strconv.Itoa(w.Restarts))
			for range 7 {
				num(none)
			}
		} else {
			num(age(time.Duration(w.Uptime * float64(time.Second))))
			num(strconv.Itoa(w.Restarts))
			num(number(w.CPU))
			num(bytes(float64(w.RSS)))
			num(bytes(float64(w.Heap)))
			num(number(float64(w.Goroutines)))
			num(duration(w.SchedP99))
			num(number(float64(w.Connections)))
			num(number(w.RPS))
		}
		p.element("td", w.LastExit, "class", "exit", "title", w.LastExit)
		p.raw("</tr>")
	}
	p.raw("</tbody></table>")
}

func waits(w Worker) string {
	if w.PID == 0 {
		return "waits"
	}
	return ""
}

func numberOrNone(n int) string {
	if n == 0 {
		return none
	}
	return strconv.Itoa(n)
}

func (v view) renderRoutes(p *page) {
	if len(v.routes) == 0 {
		p.element("p", "No requests in the last seconds.", "class", "empty")
		return
	}
	p.raw(`<table><thead><tr><th scope="col">route</th><th scope="col" class="num">req/s</th><th scope="col" class="num">p50</th>` +
		`<th scope="col" class="num">p99</th><th scope="col" class="num">5xx</th><th scope="col" class="num">4xx</th></tr></thead><tbody>`)
	for _, r := range v.routes {
		p.open("tr", "data-key", r.method+" "+r.pattern)
		p.raw("<td>")
		p.element("span", r.method, "class", "method")
		p.raw(" ")
		pattern := r.pattern
		if pattern == "" {
			pattern = "(no route)"
		}
		p.text(pattern)
		p.raw("</td>")
		for _, s := range []string{number(r.rps), duration(r.p50), duration(r.p99)} {
			p.element("td", s, "class", "num")
		}
		class := "num"
		if r.errors > 0.01 {
			class = "num warn"
		}
		p.element("td", percent(r.errors)+" %", "class", class)
		p.element("td", percent(r.refused)+" %", "class", "num")
		p.raw("</tr>")
	}
	p.raw("</tbody></table>")
}

func (v view) renderCards(p *page) {
	for _, c := range v.cards {
		class := "card " + string(c.level)
		if c.table != nil {
			class += " wide"
		}
		p.open("article", "class", class, "data-key", c.kind+"/"+c.name)
		p.raw("<h3>")
		p.element("small", c.kind)
		p.raw(" ")
		p.text(c.name)
		switch {
		case c.state != "":
			p.raw(" ")
			p.badge(c.level, c.state)
		case c.level != fine:
			p.raw(" ")
			p.badge(c.level, "look here")
		}
		p.raw("</h3><dl>")
		for _, r := range c.rows {
			p.open("div", "data-key", r.label)
			p.element("dt", r.label)
			p.element("dd", r.value)
			if !math.IsNaN(r.share) {
				p.raw(`<svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" height="4"/>`)
				p.open("rect", "class", "fill", "width", strconv.FormatFloat(100*min(1, max(0, r.share)), 'f', 1, 64), "height", "4")
				p.raw("</rect></svg>")
			}
			p.raw("</div>")
		}
		p.raw("</dl>")
		if c.table != nil {
			p.raw(`<div class="scroll"><table><thead><tr>`)
			for i, h := range c.table.head {
				p.element("th", h, "scope", "col", "class", numFrom(i, 2))
			}
			p.raw("</tr></thead><tbody>")
			for _, row := range c.table.rows {
				p.open("tr", "data-key", row[0])
				for i, cell := range row {
					p.element("td", cell, "class", numFrom(i, 2))
				}
				p.raw("</tr>")
			}
			p.raw("</tbody></table></div>")
		}
		p.raw("</article>")
	}
}

func numFrom(i, first int) string {
	if i >= first {
		return "num"
	}
	return ""
}

func (v view) renderEvents(p *page) {
	if len(v.events) == 0 {
		p.element("p", "Nothing has happened since the supervisor started.", "class", "empty")
		return
	}
	p.raw("<ol>")
	for i, e := range v.events {
		p.open("li", "data-key", fmt.Sprintf("%d/%d", e.at.UnixMilli(), len(v.events)-i), "class", string(e.level))
		p.open("time", "datetime", e.at.UTC().Format(time.RFC3339))
		p.text(e.at.UTC().Format("15:04:05"))
		p.raw("</time> ")
		p.badge(e.level, e.kind)
		p.raw(" ")
		p.text(e.text)
		p.raw("</li>")
	}
	p.raw("</ol>")
}
