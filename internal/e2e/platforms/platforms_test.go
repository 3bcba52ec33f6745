//go:build !race

package platforms

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/tools/go/packages"
)

const root = "../../.."

func TestTypeCheck(t *testing.T) {
	for _, goos := range []string{"darwin", "windows", "freebsd"} {
		for _, dir := range modules(t) {
			t.Run(goos+"/"+dir, func(t *testing.T) {
				errs, checked := typeCheck(t, filepath.Join(root, dir), goos)
				for _, err := range errs {
					t.Error(err)
				}
				if checked == 0 {
					t.Error("found no package")
				}
			})
		}
	}
}

// The check must be able to fail, and only on the system concerned.
func TestTypeCheckFindsErrors(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"go.mod": "module m\n\ngo 1.26.0\n",
		"m.go":   "package m\n\nvar pid = getpid()\n",
		// The function is missing on Windows, and the test of it has a mistake of its own on macOS.
		"m_unix.go":        "//go:build unix\n\npackage m\n\nimport \"syscall\"\n\nfunc getpid() int { return syscall.Getpid() }\n",
		"m_darwin_test.go": "package m\n\nvar s string = getpid()\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for goos, want := range map[string]int{"linux": 0, "freebsd": 0, "windows": 1, "darwin": 1} {
		if errs, _ := typeCheck(t, dir, goos); len(errs) != want {
			t.Errorf("%s: errors %v, want %d", goos, errs, want)
		}
	}
}

// typeCheck loads a module's packages and tests as goos sees them, and returns what is wrong with them and how many
// packages they are.
func typeCheck(t *testing.T, dir, goos string) (errs []packages.Error, checked int) {
	t.Helper()
	loaded, err := packages.Load(&packages.Config{
		// With the types of dependencies from source: their export data would have to be compiled first.
		Mode: packages.NeedName | packages.NeedImports | packages.NeedDeps | packages.NeedTypes | packages.NeedSyntax |
			packages.NeedTypesSizes | packages.NeedModule,
		Dir:   dir,
		Env:   append(os.Environ(), "GOWORK=off", "GOOS="+goos, "CGO_ENABLED=0"),
		Tests: true,
	}, "./...")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[packages.Error]bool) // a package and its test variant have the same errors
	for _, pkg := range loaded {
		for _, err := range pkg.Errors {
			if !seen[err] {
				seen[err] = true
				errs = append(errs, err)
			}
		}
	}
	return errs, len(loaded)
}

// modules returns the folders of the modules that hold code of ours.
func modules(t *testing.T) []string {
	t.Helper()
	var dirs []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && path != root &&
			(name[0] == '.' || name == "testdata" || name == "node_modules" || path == filepath.Join(root, "internal/tools")) {
			return filepath.SkipDir
		}
		if name == "go.mod" {
			dir, err := filepath.Rel(root, filepath.Dir(path))
			if err != nil {
				return err
			}
			dirs = append(dirs, filepath.ToSlash(dir))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}
