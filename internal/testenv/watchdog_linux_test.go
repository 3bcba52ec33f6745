package testenv

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// childVariable makes the test binary a process that starts servers and then ends
// as the variable says.
const childVariable = "TESTENV_TEST_CHILD"

func child() {
	role := os.Getenv(childVariable)
	if role == "" {
		return
	}
	if role == "close" {
		childThatCloses()
	}
	h, err := openHome()
	if err != nil {
		panic(err)
	}
	fmt.Println(h.dir)
	pg, err := StartPostgres(context.Background(), PostgresOptions{Replicas: 1})
	if err != nil {
		panic(err)
	}
	if _, err := StartRedis(context.Background(), RedisOptions{}); err != nil {
		panic(err)
	}
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	must(pg.Replicas[0].Freeze())
	for _, n := range pg.nodes() {
		fmt.Println(sharedMemoryOf(n))
	}
	fmt.Println("ready")
	if role == "panic" {
		panic("as asked")
	}
	select {}
}

func childThatCloses() {
	for range 2 {
		a, err := StartRedis(context.Background(), RedisOptions{})
		if err != nil {
			panic(err)
		}
		b, err := StartRedis(context.Background(), RedisOptions{})
		if err != nil {
			panic(err)
		}
		fmt.Println(homes.current.dir)
		fmt.Println(homes.current.watchdog.cmd.Process.Pid)
		if err := errors.Join(a.Close(), b.client.Ping(context.Background()).Err(), b.Close()); err != nil {
			panic(err)
		}
		fmt.Println("closed")
	}
	os.Exit(0)
}

// sharedMemoryOf returns the id of a node's System V shared memory segment.
func sharedMemoryOf(n *Node) int {
	b, err := os.ReadFile(filepath.Join(n.dir, "postmaster.pid"))
	if err != nil {
		panic(err)
	}
	id, err := strconv.Atoi(strings.Fields(strings.Split(string(b), "\n")[6])[1])
	if err != nil {
		panic(err)
	}
	return id
}

// segmentExists reports whether a System V shared memory segment exists.
func segmentExists(t *testing.T, id int) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/sysvipc/shm")
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[1] == strconv.Itoa(id) {
			return true
		}
	}
	return false
}

func startChild(t *testing.T, role string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childVariable+"="+role)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd, bufio.NewScanner(out)
}

func nextLine(t *testing.T, lines *bufio.Scanner) string {
	t.Helper()
	if !lines.Scan() {
		t.Fatal("the child ended early")
	}
	return lines.Text()
}

// expectGone expects that nothing is left of a home.
func expectGone(t *testing.T, home string, segments []int) {
	t.Helper()
	eventually(t, func() string {
		if pids := processesIn(home, 0); len(pids) > 0 {
			return fmt.Sprintf("processes %v still run", pids)
		}
		for _, id := range segments {
			if segmentExists(t, id) {
				return fmt.Sprintf("segment %d still exists", id)
			}
		}
		if _, err := os.Stat(home); !os.IsNotExist(err) {
			return fmt.Sprintf("%s still exists (%v)", home, err)
		}
		return ""
	})
}

// Whatever ends a process, its servers end too: running and frozen ones.
func TestServersEndWithTheProcess(t *testing.T) {
	for role, end := range map[string]func(*exec.Cmd) error{
		"panic": nil,
		"kill":  func(c *exec.Cmd) error { return c.Process.Kill() },
		// What ctrl-C does: the whole process group is told.
		"interrupt": func(c *exec.Cmd) error { return syscall.Kill(-c.Process.Pid, syscall.SIGINT) },
	} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			cmd, lines := startChild(t, role)
			home := nextLine(t, lines)
			var segments []int
			for line := nextLine(t, lines); line != "ready"; line = nextLine(t, lines) {
				id, err := strconv.Atoi(line)
				must(t, err)
				segments = append(segments, id)
			}
			if end != nil {
				if n := len(processesIn(home, 0)); n < 3 {
					t.Errorf("%d processes, want at least those of three servers", n)
				}
				for _, id := range segments {
					if !segmentExists(t, id) {
						t.Errorf("segment %d does not exist while its server runs", id)
					}
				}
				must(t, end(cmd))
			}
			cmd.Wait()
			expectGone(t, home, segments)
		})
	}
}

// Nothing is left either of a process that is killed while its servers start.
func TestKilledWhileStarting(t *testing.T) {
	for _, stage := range []string{
		templateDir,                // initdb
		"primary-1/postmaster.pid", // the primary starts
		"redis-3/redis.conf",       // Redis starts
	} {
		t.Run(strings.ReplaceAll(stage, "/", " "), func(t *testing.T) {
			cmd, lines := startChild(t, "kill")
			home := nextLine(t, lines)
			eventually(t, func() string {
				if _, err := os.Stat(filepath.Join(home, stage)); err != nil {
					return err.Error()
				}
				return ""
			})
			must(t, cmd.Process.Kill())
			cmd.Wait()
			expectGone(t, home, nil)
		})
	}
}

func TestSweepOnlyHomes(t *testing.T) {
	dir := t.TempDir()
	if err := sweep(dir); err == nil {
		t.Error("sweep took a directory that is no home")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}

// Close leaves nothing: no process, file or segment.
func TestCloseLeavesNothing(t *testing.T) {
	pg, err := StartPostgres(t.Context(), PostgresOptions{Replicas: 1})
	must(t, err)
	r, err := StartRedis(t.Context(), RedisOptions{})
	must(t, err)
	must(t, pg.Replicas[0].Freeze())
	must(t, r.Freeze())
	var segments []int
	var paths []string
	for _, n := range pg.nodes() {
		segments = append(segments, sharedMemoryOf(n))
		paths = append(paths, n.dir, n.log)
	}
	paths = append(paths, r.dir, r.log)
	for range 2 {
		must(t, pg.Close())
		must(t, r.Close())
	}
	for _, path := range paths {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left (%v)", path, err)
		}
		if pids := processesIn(path, 0); len(pids) > 0 {
			t.Errorf("processes %v are left", pids)
		}
	}
	for _, id := range segments {
		if segmentExists(t, id) {
			t.Errorf("segment %d is left", id)
		}
	}
}

// The last Close removes the home and ends the watchdog, and the next start has
// new ones: in a child, since the other tests share this process's home.
func TestLastCloseRemovesHome(t *testing.T) {
	_, lines := startChild(t, "close")
	for range 2 {
		home, watchdog := nextLine(t, lines), nextLine(t, lines)
		if line := nextLine(t, lines); line != "closed" {
			t.Fatal(line)
		}
		if _, err := os.Stat(home); !os.IsNotExist(err) {
			t.Errorf("%s is left (%v)", home, err)
		}
		if _, err := os.Stat("/proc/" + watchdog); !os.IsNotExist(err) {
			t.Errorf("the watchdog still runs (%v)", err)
		}
	}
}
