package fairlead_test

import (
	"encoding/json"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The nested modules are only ever built from a clone, against the library beside them.
func TestNestedModules(t *testing.T) {
	goVersion := readModule(t, "go.mod").Go

	var nested []string
	for _, path := range modFiles(t) {
		dir := filepath.ToSlash(filepath.Dir(path))
		if dir == "." {
			continue
		}
		mod := readModule(t, path)
		if want := module + "/" + dir; mod.Module.Path != want {
			t.Errorf("%s: module is %s, want %s", path, mod.Module.Path, want)
		}
		if mod.Go != goVersion {
			t.Errorf("%s: go is %s, want %s as in the root", path, mod.Go, goVersion)
		}
		if strings.HasPrefix(dir, "internal/tools") {
			continue // tools: they use nothing of ours
		}
		nested = append(nested, "./"+dir)

		pinned := slices.ContainsFunc(mod.Require, func(v modVersion) bool { return v.Path == module && v.Version != "v0.0.0" })
		up := strings.TrimSuffix(strings.Repeat("../", strings.Count(dir, "/")+1), "/")
		replaced := slices.ContainsFunc(mod.Replace, func(r modReplace) bool { return r.Old.Path == module && r.New.Path == up })
		if pinned || !replaced {
			t.Errorf("%s: want replace %s => %s, and v0.0.0 of it if any", path, module, up)
		}
	}

	// go.work is for editors and for people: it has them all, but for the tools, whose dependencies would raise the
	// versions of everybody else's.
	work, err := exec.Command("go", "work", "edit", "-json", "go.work").Output()
	if err != nil {
		t.Fatalf("go work edit: %v", err)
	}
	var workspace struct{ Use []struct{ DiskPath string } }
	if err := json.Unmarshal(work, &workspace); err != nil {
		t.Fatal(err)
	}
	var used []string
	for _, use := range workspace.Use {
		used = append(used, use.DiskPath)
	}
	slices.Sort(used)
	want := append([]string{"."}, nested...)
	slices.Sort(want)
	if !slices.Equal(used, want) {
		t.Errorf("go.work uses %q, want %q", used, want)
	}
}

type modVersion struct{ Path, Version string }

type modReplace struct{ Old, New modVersion }

type modFile struct {
	Module  struct{ Path string }
	Go      string
	Require []modVersion
	Replace []modReplace
}

func readModule(t *testing.T, path string) modFile {
	t.Helper()
	out, err := exec.Command("go", "mod", "edit", "-json", path).Output()
	if err != nil {
		t.Fatalf("go mod edit %s: %v", path, err)
	}
	var mod modFile
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	return mod
}

func modFiles(t *testing.T) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != "." && (entry.Name()[0] == '.' || entry.Name() == "testdata" || entry.Name() == "node_modules"):
			return filepath.SkipDir
		case entry.Name() == "go.mod":
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
