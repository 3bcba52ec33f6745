package admin

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

const none = "–"

// number is v with three digits: 0.42, 7.1, 12, 345, 12.4k, 1.23M.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return none
	case a >= 999.5e6:
		return digits(v/1e9) + "G"
	case a >= 999_500:
		return digits(v/1e6) + "M"
	case a >= 9_999.5:
		return digits(v/1e3) + "k"
	case a >= 999.5:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return digits(v)
}

func digits(v float64) string {
	prec := 0
	switch a := math.Abs(v); {
	case v == math.Trunc(v):
	case a < 9.995:
		prec = 2
	case a < 99.95:
		prec = 1
	}
	s := strconv.FormatFloat(v, 'f', prec, 64)
	if prec == 2 && s[len(s)-1] == '0' {
		s = s[:len(s)-1]
	}
	return s
}

// duration is seconds in the unit that suits them.
func duration(s float64) string {
	switch {
	case math.IsNaN(s):
		return none
	case s == 0:
		return "0"
	case s < 0.9995e-3:
		return digits(s*1e6) + " µs"
	case s < 0.9995:
		return digits(s*1e3) + " ms"
	case s < 99.95:
		return digits(s) + " s"
	}
	return age(time.Duration(s * float64(time.Second)))
}

// age is a long duration in its two largest units.
func age(d time.Duration) string {
	switch s := int(d.Seconds()); {
	case s < 60:
		return fmt.Sprintf("%d s", max(0, s))
	case s < 3600:
		return fmt.Sprintf("%d min %02d s", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%d h %02d min", s/3600, s%3600/60)
	default:
		return fmt.Sprintf("%d d %02d h", s/86400, s%86400/3600)
	}
}

func percent(share float64) string {
	switch {
	case math.IsNaN(share):
		return none
	case share > 0 && share < 0.0005:
		return "<0.1"
	}
	return digits(math.Round(share*1000) / 10)
}

func bytes(v float64) string {
	switch {
	case v >= 999.5e6:
		return digits(v/1e9) + " GB"
	case v >= 999.5e3:
		return digits(v/1e6) + " MB"
	case v >= 999.5:
		return digits(v/1e3) + " kB"
	}
	return number(v) + " B"
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}
