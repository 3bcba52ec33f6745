package ratelimit

import (
	"fmt"
	"time"
)

// Unit is a unit of the calendar, for [Calendar].
type Unit int

// The units of the calendar.
const (
	Minute Unit = iota + 1
	Hour
	Day   // from midnight
	Week  // from Monday's midnight
	Month // from the 1st's midnight
)

// String returns "minute", "hour", "day", "week" or "month".
func (u Unit) String() string {
	if u < Minute || u > Month {
		return fmt.Sprintf("Unit(%d)", int(u))
	}
	return [...]string{"minute", "hour", "day", "week", "month"}[u-1]
}

// Window returns the unit of a quota's calendar that t is in, from start up to end. Days have 23 to 25 hours where clocks change.
func (r Rule) Window(t time.Time) (start, end time.Time) {
	t = t.In(r.Location)
	year, month, day := t.Date()
	midnight := func(day int) time.Time { return time.Date(year, month, day, 0, 0, 0, 0, r.Location) }
	switch r.Unit {
	case Minute:
		start = t.Add(-time.Duration(t.Second())*time.Second - time.Duration(t.Nanosecond()))
		return start, start.Add(time.Minute)
	case Hour:
		start = t.Add(-time.Duration(t.Minute())*time.Minute - time.Duration(t.Second())*time.Second - time.Duration(t.Nanosecond()))
		return start, start.Add(time.Hour)
	case Week:
		monday := day - (int(t.Weekday())+6)%7
		return midnight(monday), midnight(monday + 7)
	case Month:
		return midnight(1), time.Date(year, month+1, 1, 0, 0, 0, 0, r.Location)
	}
	return midnight(day), midnight(day + 1)
}
