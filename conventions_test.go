package fairlead_test

import (
	"bytes"
	"go/ast"
	"go/doc"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What CONTRIBUTING.md asks for and a machine can check.

func TestFilesAreFormatted(t *testing.T) {
	for _, path := range goFiles(t) {
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		formatted, err := format.Source(src)
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(src, formatted) {
			t.Errorf("%s: run gofmt -w on it", path)
		}
	}
}

// Whatever a user can name has a comment: what it means, its unit, its default. Fields too, where they are options.
func TestExportedNamesAreDocumented(t *testing.T) {
	checked := 0
	for dir, files := range productionFiles(t) {
		fset := token.NewFileSet()
		var parsed []*ast.File
		for _, file := range files {
			f, err := parser.ParseFile(fset, file, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			parsed = append(parsed, f)
		}
		for _, missing := range undocumented(t, fset, parsed) {
			t.Errorf("%s: missing in a comment: %s", dir, missing)
		}
		checked++
	}
	if checked < 2 {
		t.Errorf("found only %d packages", checked)
	}
}

func TestDocumentationCheckFindsGaps(t *testing.T) {
	const src = `package p

type T struct{ X int }

func (T) M() {}

func (t T) Close() error { return nil }

func (t T) Error() string { return "" } // everybody knows it

// This is what it does.
func G() {}

// The H is fine.
func H() {}

type hidden struct{}

func (hidden) M() {}

func F() {}

// Options has one documented and one bare field.
type Options struct {
	// Max is documented.
	Max int
	Min int
	low int
	End int // End is documented too.
	// From and To are documented together.
	From int
	To   int
}

const A = 1

// Both are covered by this.
const (
	B = 1
	C = 2
)

var (
	// ErrD is documented.
	ErrD error
	ErrE error
)
`
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "p.go", src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	got := undocumented(t, fset, []*ast.File{file})
	want := []string{"A", "ErrE", "F", "G as the first word", "Options.Min", "T", "T.Close", "T.M", "package p"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// undocumented returns the exported names of a package that have no comment, or one that does not start with the name.
func undocumented(t *testing.T, fset *token.FileSet, files []*ast.File) []string {
	t.Helper()
	// All declarations, since with exported ones only the package would not say which methods are hidden.
	pkg, err := doc.NewFromFiles(fset, files, module, doc.AllDecls)
	if err != nil {
		t.Fatal(err)
	}
	var missing []string
	need := func(comment string, name ...string) {
		if strings.TrimSpace(comment) == "" {
			missing = append(missing, strings.Join(name, "."))
		}
	}
	// Tools show the first sentence by itself.
	needNamed := func(comment string, name ...string) {
		need(comment, name...)
		last := name[len(name)-1]
		if comment != "" && !regexp.MustCompile(`^((A|An|The) )?`+last+`\b`).MatchString(comment) {
			missing = append(missing, strings.Join(name, ".")+" as the first word")
		}
	}
	funcs := func(list []*doc.Func, of ...string) {
		for _, f := range list {
			known := f.Recv != "" && (f.Name == "Error" || f.Name == "Unwrap" || f.Name == "String")
			if ast.IsExported(f.Name) && f.Level == 0 && !known {
				needNamed(f.Doc, append(of, f.Name)...)
			}
		}
	}
	values := func(list []*doc.Value) {
		for _, group := range list {
			for _, spec := range group.Decl.Specs {
				spec := spec.(*ast.ValueSpec)
				for _, name := range spec.Names {
					if name.IsExported() {
						need(group.Doc+spec.Doc.Text()+spec.Comment.Text(), name.Name)
					}
				}
			}
		}
	}
	need(pkg.Doc, "package "+pkg.Name)
	funcs(pkg.Funcs)
	values(pkg.Consts)
	values(pkg.Vars)
	for _, typ := range pkg.Types {
		values(typ.Consts)
		values(typ.Vars)
		funcs(typ.Funcs)
		if !ast.IsExported(typ.Name) {
			continue
		}
		needNamed(typ.Doc, typ.Name)
		funcs(typ.Methods, typ.Name)
		if !strings.HasSuffix(typ.Name, "Options") {
			continue
		}
		for _, spec := range typ.Decl.Specs {
			body, ok := spec.(*ast.TypeSpec).Type.(*ast.StructType)
			if !ok || spec.(*ast.TypeSpec).Name.Name != typ.Name {
				continue
			}
			said := "" // one comment may name several fields
			for _, field := range body.Fields.List {
				comment := field.Doc.Text() + field.Comment.Text()
				said += comment
				for _, name := range field.Names {
					if name.IsExported() && !regexp.MustCompile(`\b`+name.Name+`\b`).MatchString(said) {
						need(comment, typ.Name, name.Name)
					}
				}
			}
		}
	}
	slices.Sort(missing)
	return missing
}

// productionFiles returns the files of each package that users can import, for Linux.
func productionFiles(t *testing.T) map[string][]string {
	t.Helper()
	packages := make(map[string][]string)
	for _, path := range goFiles(t) {
		dir := filepath.ToSlash(filepath.Dir(path))
		if strings.HasSuffix(path, "_test.go") || strings.Contains("/"+dir+"/", "/internal/") ||
			strings.HasPrefix(dir, "examples") || strings.HasPrefix(dir, "bench") {
			continue
		}
		// Which declarations exist twice, for other systems, does not matter here: the one with a comment would do, but
		// go/doc wants each once.
		if stem := strings.TrimSuffix(filepath.Base(path), ".go"); strings.HasSuffix(stem, "_other") ||
			strings.HasSuffix(stem, "_windows") || strings.HasSuffix(stem, "_darwin") || strings.HasSuffix(stem, "_freebsd") {
			continue
		}
		packages[dir] = append(packages[dir], path)
	}
	return packages
}

// goFiles returns the Go files of all modules.
func goFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch name := entry.Name(); {
		case err != nil:
			return err
		case entry.IsDir() && path != "." && (name[0] == '.' || name == "testdata" || name == "node_modules"):
			return filepath.SkipDir
		case !entry.IsDir() && strings.HasSuffix(name, ".go") && name[0] != '.':
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
