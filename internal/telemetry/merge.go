package telemetry

import (
	"cmp"
	"slices"
	"strings"
)

// Merge makes one snapshot of several: counters and gauges are added, histograms bucket by bucket, of a Max or Min the
// largest or smallest counts. The result is sorted by name and attributes.
func Merge(snapshots ...[]Sample) []Sample {
	var merged []Sample
	index := map[string]int{}
	for _, snapshot := range snapshots {
		for _, s := range snapshot {
			id := s.id()
			i, ok := index[id]
			if !ok {
				index[id] = len(merged)
				merged = append(merged, s)
				continue
			}
			m := &merged[i]
			switch s.Kind {
			case Counter, Gauge:
				m.Value += s.Value
			case Max:
				m.Value = max(m.Value, s.Value)
			case Min:
				m.Value = min(m.Value, s.Value)
			case Histogram:
				if m.Buckets != nil && s.Buckets != nil {
					sum := m.Buckets.Add(*s.Buckets)
					m.Buckets = &sum
				} else if m.Buckets == nil {
					m.Buckets = s.Buckets
				}
			}
		}
	}
	slices.SortStableFunc(merged, func(a, b Sample) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.id(), b.id()))
	})
	return merged
}

// Retained returns what of a snapshot outlives its process: counters and histograms.
func Retained(snapshot []Sample) []Sample {
	var kept []Sample
	for _, s := range snapshot {
		if s.Kind == Counter || s.Kind == Histogram {
			kept = append(kept, s)
		}
	}
	return kept
}

// id tells series apart: name, kind and attributes in the order of their keys.
func (s Sample) id() string {
	attrs := slices.SortedStableFunc(slices.Values(s.Attrs), func(a, b Attr) int { return strings.Compare(a.Key, b.Key) })
	var b strings.Builder
	b.WriteString(s.Name)
	b.WriteByte(0)
	b.WriteString(string(s.Kind))
	for _, a := range attrs {
		b.WriteByte(0)
		b.WriteString(a.Key)
		b.WriteByte(0)
		b.WriteString(a.Value)
	}
	return b.String()
}
