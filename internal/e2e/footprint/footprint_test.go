package footprint

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const library = "github.com/fairlead/fairlead"

// drivers are the modules that only who asks for them may get.
var drivers = []string{
	"github.com/jackc/pgx", "github.com/redis/go-redis", "github.com/urfave/cli",
	"go.opentelemetry.io/otel/sdk", "google.golang.org/grpc",
}

func TestOnePart(t *testing.T) {
	for _, test := range []struct {
		part    string
		modules int // third-party modules that the application's go.mod may come to name
		drivers []string
	}{
		{part: "cache", modules: 11}, // seven are OpenTelemetry's API and what it names
	} {
		t.Run(test.part, func(t *testing.T) {
			app := newApp(t, test.part)
			app.run("mod", "tidy")

			for _, pkg := range strings.Fields(app.run("list", "-deps", ".")) {
				if driver := driverOf(pkg); driver != "" && !slices.Contains(test.drivers, driver) {
					t.Errorf("the build of an application that imports %s has %s", test.part, pkg)
				}
			}

			var mod struct{ Require []struct{ Path string } }
			if err := json.Unmarshal([]byte(app.run("mod", "edit", "-json")), &mod); err != nil {
				t.Fatal(err)
			}
			var third []string
			for _, required := range mod.Require {
				if required.Path == library {
					continue
				}
				third = append(third, required.Path)
				if driver := driverOf(required.Path); driver != "" && !slices.Contains(test.drivers, driver) {
					t.Errorf("the go.mod of an application that imports %s names %s", test.part, required.Path)
				}
			}
			if len(third) > test.modules {
				t.Errorf("the go.mod of an application that imports %s names %d modules, want at most %d: %q",
					test.part, len(third), test.modules, third)
			}
			app.run("build", "-o", os.DevNull, ".")
		})
	}
}

type app struct {
	t   *testing.T
	dir string
}

// newApp makes an empty application that imports one part from the clone that this test is in.
func newApp(t *testing.T, part string) app {
	t.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"go.mod":  fmt.Sprintf("module app\n\ngo 1.26.0\n\nrequire %s v0.0.0\n\nreplace %s => %q\n", library, library, root),
		"main.go": fmt.Sprintf("package main\n\nimport _ %q\n\nfunc main() {}\n", library+"/"+part),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return app{t: t, dir: dir}
}

// run runs the go command in the application's folder and returns what it prints.
func (a app) run(args ...string) string {
	a.t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		a.t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

func driverOf(path string) string {
	for _, driver := range drivers {
		if path == driver || strings.HasPrefix(path, driver+"/") {
			return driver
		}
	}
	return ""
}
