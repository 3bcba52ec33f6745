package telemetry

import (
	"bufio"
	"io"
	"strconv"
	"strings"
)

// TextContentType is the media type of WriteText's output.
const TextContentType = "text/plain; version=0.0.4; charset=utf-8"

// A histogram is always shown on the same edges, or rate() over a bucket that came and went would break. They are powers of
// two of a nanosecond, 16 µs to 34 s, and edges of the log-linear ladder too, so the counts are exact.
const (
	firstShown = 14
	lastShown  = 35
)

// WriteText writes samples, sorted as Merge leaves them, in the Prometheus text format 0.0.4. Dots become underscores, counters
// end in _total, durations in _seconds and sizes in _bytes; a level called count is a plural, because the format keeps _count
// for histograms.
func WriteText(w io.Writer, samples []Sample) error {
	b := bufio.NewWriter(w)
	last := ""
	for _, s := range samples {
		name := textName(s)
		if name != last {
			last = name
			b.WriteString("# HELP " + name + " " + helpText(s.Name) + "\n")
			b.WriteString("# TYPE " + name + " " + textType(s.Kind) + "\n")
		}
		if s.Kind == Histogram {
			writeHistogram(b, name, s)
			continue
		}
		writeLine(b, name, s.Attrs, "", s.Value)
	}
	return b.Flush()
}

func writeHistogram(b *bufio.Writer, name string, s Sample) {
	var h Buckets
	if s.Buckets != nil {
		h = *s.Buckets
	}
	for exp := firstShown; exp <= lastShown; exp++ {
		edge := bucketOf(1<<exp - 1)
		writeLine(b, name+"_bucket", s.Attrs, formatFloat(upperEdge(edge)), float64(h.below(edge)))
	}
	count := float64(h.Count())
	writeLine(b, name+"_bucket", s.Attrs, "+Inf", count)
	writeLine(b, name+"_sum", s.Attrs, "", h.Sum)
	writeLine(b, name+"_count", s.Attrs, "", count)
}

func writeLine(b *bufio.Writer, name string, attrs []Attr, le string, value float64) {
	b.WriteString(name)
	if len(attrs) > 0 || le != "" {
		sep := byte('{')
		for _, a := range attrs {
			b.WriteByte(sep)
			sep = ','
			b.WriteString(textLabel(a.Key) + `="` + labelEscaper.Replace(a.Value) + `"`)
		}
		if le != "" {
			b.WriteByte(sep)
			b.WriteString(`le="` + le + `"`)
		}
		b.WriteByte('}')
	}
	b.WriteByte(' ')
	b.WriteString(formatFloat(value))
	b.WriteByte('\n')
}

// helpText is never empty, which would be a fault of the page in the eyes of its linters.
func helpText(name string) string {
	if d := Describe(name); d != "" {
		return d
	}
	return "The application's " + strings.NewReplacer("\\", "", "\n", " ").Replace(name) + "."
}

var labelEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func formatFloat(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

func textName(s Sample) string {
	name := textLabel(s.Name)
	if base, ok := strings.CutSuffix(name, "_count"); ok && s.Kind != Histogram {
		name = base + "s"
	}
	if (s.Unit == "s" || s.Kind == Histogram) && !strings.HasSuffix(name, "_seconds") {
		name += "_seconds"
	}
	if s.Unit == "By" && !strings.HasSuffix(name, "_bytes") {
		name += "_bytes"
	}
	if s.Kind == Counter {
		name += "_total"
	}
	return name
}

func textType(k Kind) string {
	switch k {
	case Counter, Histogram:
		return string(k)
	}
	return "gauge"
}

// textLabel maps everything outside [a-zA-Z0-9_] to an underscore.
func textLabel(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '_':
			return r
		}
		return '_'
	}, s)
}
