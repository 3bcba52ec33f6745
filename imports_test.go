package fairlead_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// importGraph is the imports of each package, without those of its tests. Packages of this module are written ./path.
type importGraph map[string][]string

// load adds the packages of this module and everything they need on an operating system.
func (g importGraph) load(t *testing.T, goos string) {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,ImportMap", "./...")
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOOS="+goos, "CGO_ENABLED=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("GOOS=%s go list: %v\n%s", goos, err, &stderr)
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg struct {
			ImportPath string
			Imports    []string
			ImportMap  map[string]string // the standard library's vendored packages
		}
		if err := dec.Decode(&pkg); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		path := relative(pkg.ImportPath)
		for _, imported := range pkg.Imports {
			if real, ok := pkg.ImportMap[imported]; ok {
				imported = real
			}
			if imported = relative(imported); !slices.Contains(g[path], imported) {
				g[path] = append(g[path], imported)
			}
		}
		if g[path] == nil {
			g[path] = []string{}
		}
	}
}

func (g importGraph) ours() []string {
	var ours []string
	for path := range g {
		if isOurs(path) {
			ours = append(ours, path)
		}
	}
	slices.Sort(ours)
	return ours
}

func (g importGraph) violations() []string {
	var found []string
	for _, path := range g.ours() {
		allowed, ok := ruleFor(path)
		if !ok {
			found = append(found, path+": no rule says what it may import: add one to arch_test.go")
			continue
		}
		for _, imported := range g[path] {
			if !isStd(imported) && !isInternalTo(path, imported) && !matchesAny(allowed, imported) {
				found = append(found, fmt.Sprintf("%s must not import %s", path, imported))
			}
		}
		for _, rule := range mustNotReach {
			if !matchesAny(rule.from, path) || matchesAny(rule.except, path) {
				continue
			}
			if way := g.wayTo(path, rule.target); way != nil {
				found = append(found, fmt.Sprintf("%s must not reach %s: %s (%s)",
					path, way[len(way)-1], rule.why, strings.Join(way, " -> ")))
			}
		}
	}
	return found
}

// wayTo returns a shortest chain of imports from a package to one of the targets, or nil.
func (g importGraph) wayTo(from string, targets []string) []string {
	cameFrom := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		path := queue[0]
		if path != from && matchesAny(targets, path) {
			var way []string
			for ; path != ""; path = cameFrom[path] {
				way = append(way, path)
			}
			slices.Reverse(way)
			return way
		}
		for _, imported := range g[path] {
			if _, seen := cameFrom[imported]; !seen {
				cameFrom[imported] = path
				queue = append(queue, imported)
			}
		}
	}
	return nil
}

// ruleFor returns the longest rule that covers a package.
func ruleFor(path string) (allowed []string, ok bool) {
	longest := -1
	for pattern, imports := range rules {
		if pattern == path || pattern == treeOf(path) || matches(pattern, path) {
			if size := len(strings.TrimSuffix(pattern, "/...")); size > longest {
				longest, allowed, ok = size, imports, true
			}
		}
	}
	return allowed, ok
}

// treeOf returns the package in whose internal folder a package lies, or else the package itself.
func treeOf(path string) string {
	if i := strings.LastIndex(path+"/", "/internal/"); i > len(".") {
		return path[:i]
	}
	return path
}

func isInternalTo(importer, imported string) bool {
	return treeOf(imported) != imported && treeOf(imported) == treeOf(importer)
}

func matchesAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, path) })
}

func matches(pattern, path string) bool {
	tree, isTree := strings.CutSuffix(pattern, "/...")
	return path == tree || isTree && strings.HasPrefix(path, tree+"/")
}

func relative(importPath string) string {
	if rest, ok := strings.CutPrefix(importPath+"/", module+"/"); ok {
		return strings.TrimSuffix("./"+rest, "/")
	}
	return importPath
}

func isOurs(path string) bool { return path == "." || strings.HasPrefix(path, "./") }

func isStd(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

func join(sets ...[]string) []string { return slices.Concat(sets...) }
