// Package telemetry is the one vocabulary of Fairlead's numbers: samples derived from the Stats structs of the components,
// a histogram that can be merged over processes, the merge itself and the Prometheus text that comes out of it.
package telemetry

import (
	"fmt"
	"iter"
	"reflect"
	"strings"
	"sync"
	"time"
)

// Kind says what a sample's value means and how samples of several processes become one.
type Kind string

const (
	Counter   Kind = "counter"   // only grows in a process; summed, and kept after the process has gone
	Gauge     Kind = "gauge"     // a level; summed over the processes that live
	Max       Kind = "max"       // a level whose largest value over the processes counts
	Min       Kind = "min"       // a level whose smallest value over the processes counts
	Histogram Kind = "histogram" // a distribution; bucket-added, kept like a counter
)

// Attr is a dimension of a sample. Never a key, token, user or SQL text.
type Attr struct {
	Key   string `json:"k"`
	Value string `json:"v"`
}

// Sample is one number, or one distribution, of one process at one moment.
type Sample struct {
	Name    string   `json:"name"` // dotted, as in OpenTelemetry: "fairlead.cache.gets"
	Kind    Kind     `json:"kind"`
	Unit    string   `json:"unit,omitempty"` // "s" for seconds, which a histogram's always are, "By" for bytes; empty for counts and ratios
	Attrs   []Attr   `json:"attrs,omitempty"`
	Value   float64  `json:"value,omitempty"`
	Buckets *Buckets `json:"buckets,omitempty"` // Kind Histogram only
}

// Samples derives samples from the exported fields of stats, a struct, that carry a tag
//
//	metric:"name,kind[,key=value...]"
//
// The key "unit" is no attribute: it names the unit as UCUM does, "By" for bytes. Values may be of any integer, unsigned, float or bool type, a time.Duration (reported in seconds) or Buckets. A field of
// struct type without a tag is descended into. attrs are added to every sample, before those of the tag. A malformed tag
// panics: it is a fault in the program text, which the component's own tests meet first.
func Samples(stats any, attrs ...Attr) iter.Seq[Sample] {
	return func(yield func(Sample) bool) {
		yieldFields(reflect.ValueOf(stats), attrs, yield)
	}
}

func yieldFields(v reflect.Value, attrs []Attr, yield func(Sample) bool) bool {
	for _, f := range fieldsOf(v.Type()) {
		fv := v.Field(f.index)
		if f.nested {
			if !yieldFields(fv, attrs, yield) {
				return false
			}
			continue
		}
		s := Sample{Name: f.name, Kind: f.kind, Unit: f.unit, Attrs: attrs}
		if len(f.attrs) > 0 {
			s.Attrs = append(attrs[:len(attrs):len(attrs)], f.attrs...)
		}
		if f.kind == Histogram {
			b := fv.Interface().(Buckets)
			s.Buckets = &b
		} else {
			s.Value = number(fv)
		}
		if !yield(s) {
			return false
		}
	}
	return true
}

func number(v reflect.Value) float64 {
	switch {
	case v.Type() == durationType:
		return time.Duration(v.Int()).Seconds()
	case v.CanInt():
		return float64(v.Int())
	case v.CanUint():
		return float64(v.Uint())
	case v.CanFloat():
		return v.Float()
	case v.Bool():
		return 1
	}
	return 0
}

type field struct {
	index  int
	nested bool
	name   string
	kind   Kind
	unit   string
	attrs  []Attr
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	bucketsType  = reflect.TypeFor[Buckets]()
	fieldCache   sync.Map // reflect.Type -> []field
)

func fieldsOf(t reflect.Type) []field {
	if c, ok := fieldCache.Load(t); ok {
		return c.([]field)
	}
	var fields []field
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, ok := sf.Tag.Lookup("metric")
		switch {
		case !sf.IsExported():
		case ok:
			f, err := parseTag(tag, sf.Type)
			if err != nil {
				panic(fmt.Sprintf("telemetry: %v.%s: tag metric:%q: %v", t, sf.Name, tag, err))
			}
			f.index = i
			fields = append(fields, f)
		case sf.Type.Kind() == reflect.Struct && sf.Type != bucketsType && sf.Type != reflect.TypeFor[time.Time]():
			fields = append(fields, field{index: i, nested: true})
		}
	}
	c, _ := fieldCache.LoadOrStore(t, fields)
	return c.([]field)
}

func parseTag(tag string, t reflect.Type) (field, error) {
	parts := strings.Split(tag, ",")
	if len(parts) < 2 || parts[0] == "" {
		return field{}, fmt.Errorf("must be name,kind[,key=value...]")
	}
	f := field{name: parts[0], kind: Kind(parts[1])}
	switch f.kind {
	case Counter, Gauge, Max, Min:
		switch t.Kind() {
		case reflect.Bool, reflect.Float32, reflect.Float64,
			reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
			reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		default:
			return field{}, fmt.Errorf("a %s cannot come from a %v", f.kind, t)
		}
	case Histogram:
		if t != bucketsType {
			return field{}, fmt.Errorf("a histogram comes from Buckets, not from %v", t)
		}
	default:
		return field{}, fmt.Errorf("kind must be counter, gauge, max, min or histogram")
	}
	if t == durationType || t == bucketsType {
		f.unit = "s"
	}
	for _, p := range parts[2:] {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return field{}, fmt.Errorf("%q must be key=value", p)
		}
		if k == "unit" {
			f.unit = v
			continue
		}
		f.attrs = append(f.attrs, Attr{k, v})
	}
	return f, nil
}
