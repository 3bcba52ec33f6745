package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// With the servers' addresses set the test binary is the reader.
func TestMain(m *testing.M) {
	if os.Getenv(envURLs) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// What the terminal shows: old prices without a token, none with it, and the replica at work when it has caught up.
func TestReadYourWrites(t *testing.T) {
	var out strings.Builder
	if err := writer(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	t.Logf("\n%s", &out)
	lines := regexp.MustCompile(`(\d+) of (\d+) old, +(\d+) by the replica`).FindAllStringSubmatch(out.String(), -1)
	if len(lines) != 3 {
		t.Fatalf("%d lines of figures:\n%s", len(lines), &out)
	}
	if old := lines[0][1]; old == "0" {
		t.Error("without a token nothing is old: the replica does not show its lag")
	}
	if lines[1][1] != "0" || lines[2][1] != "0" {
		t.Error("a read with a token is old")
	}
	if lines[2][3] == "0" {
		t.Error("the replica serves nothing after it has caught up")
	}
}
