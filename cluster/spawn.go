//go:build unix

package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/fairlead/fairlead/cluster/internal/machine"
	"github.com/fairlead/fairlead/cluster/internal/sys"
	"github.com/fairlead/fairlead/cluster/internal/wire"
	"github.com/fairlead/fairlead/internal/process"
)

// spawner turns the machine's decisions into processes. It is used by the state's goroutine only.
type spawner struct {
	opts    Options
	sockets []*boundSocket
	path    string
	exes    map[int]*sys.Executable
	exeErrs map[int]error // why one could not be opened
	devNull int
	workers int // that share the machine
	stdout  *output
	stderr  *output
	logs    *logs
}

func newSpawner(o Options, sockets []*socket) (*spawner, error) {
	sp := &spawner{opts: o, exes: make(map[int]*sys.Executable), exeErrs: make(map[int]error), devNull: -1}
	var errs []error
	for _, s := range sockets {
		b := &boundSocket{socket: s}
		if s.path != "" {
			var err error
			if b.file, err = os.Lstat(s.path); err != nil {
				errs = append(errs, fmt.Errorf("cluster: listener %q: %w", s.name, err))
			}
		}
		if err := b.detach(); err != nil {
			errs = append(errs, err)
		}
		sp.sockets = append(sp.sockets, b)
	}
	exe, err := sys.ThisExecutable()
	if err != nil {
		errs = append(errs, fmt.Errorf("cluster: this program: %w", err))
	} else {
		sp.exes[0], sp.path = exe, exe.Path
	}
	if sp.devNull, err = sys.DevNull(); err != nil {
		errs = append(errs, fmt.Errorf("cluster: %w", err))
	}
	if len(errs) > 0 {
		sp.closeSockets()
		sp.removePaths()
		return nil, errors.Join(errs...)
	}
	sp.workers = o.Workers
	sp.logs = newLogs()
	sp.stdout, sp.stderr = newOutputs(os.Stdout, os.Stderr, sp.logs)
	return sp, nil
}

// open takes hold of the program as it is at its path now.
func (sp *spawner) open(version int) {
	exe, err := sys.OpenExecutable(sp.path)
	if err != nil {
		sp.exeErrs[version] = err
		return
	}
	sp.exes[version] = exe
}

func (sp *spawner) release(version int) {
	if exe := sp.exes[version]; exe != nil {
		exe.Close()
	}
	delete(sp.exes, version)
	delete(sp.exeErrs, version)
}

func (sp *spawner) closeSockets() {
	for _, s := range sp.sockets {
		for _, fd := range s.fds {
			sys.CloseFD(fd)
		}
		s.fds = nil
	}
}

// removePaths removes the files of unix sockets, unless somebody has put other ones there.
func (sp *spawner) removePaths() {
	for _, s := range sp.sockets {
		if s.path == "" {
			continue
		}
		if info, err := os.Lstat(s.path); err == nil && os.SameFile(info, s.file) {
			os.Remove(s.path)
		}
	}
}

func (sp *spawner) close() {
	sp.closeSockets()
	sp.removePaths()
	for v := range sp.exes {
		sp.release(v)
	}
	sys.CloseFD(sp.devNull)
	sp.stdout.close(time.Second)
	sp.stderr.close(time.Second)
	sp.logs.close()
}

// memoryShare is the GOMEMLIMIT of one of so many workers, 0 if there is none to set. They share it with one more: a reload
// has that many for a while.
func memoryShare(workers int) int64 {
	if os.Getenv("GOMEMLIMIT") != "" {
		return 0
	}
	return process.MemoryShare(process.MemoryLimit(), workers+1)
}

// adoption is the order to accept for other slots too, with their sockets.
func (sp *spawner) adoption(slots []int) wire.Message {
	m := wire.Message{Type: wire.Adopt}
	for _, slot := range slots {
		for _, s := range sp.sockets {
			if s.shared == "" || slot >= len(s.fds) || len(m.FDs) == wire.MaxFDs {
				continue
			}
			if fd, err := sys.Dup(s.fds[slot]); err == nil {
				m.Names, m.Slots, m.FDs = append(m.Names, s.name), append(m.Slots, slot), append(m.FDs, fd)
			}
		}
	}
	return m
}

func (sp *spawner) spawn(w machine.Worker) (*proc, error) {
	exe := sp.exes[w.Version]
	if exe == nil {
		return nil, sp.exeErrs[w.Version]
	}
	for _, s := range sp.sockets {
		if err := s.grow(w.Slot + 1); err != nil {
			return nil, err
		}
	}
	cfg := workerConfig{Slot: w.Slot, Generation: w.Generation, InstanceID: newInstanceID(), Listeners: make(map[string]int), Packets: make(map[string]int)}
	conn, childConn, err := sys.SocketPair()
	if err != nil {
		return nil, err
	}
	defer sys.CloseFD(childConn)
	stdout, childOut, err := sys.Pipe()
	if err != nil {
		conn.Close()
		return nil, err
	}
	defer sys.CloseFD(childOut)
	stderr, childErr, err := sys.Pipe()
	if err != nil {
		conn.Close()
		stdout.Close()
		return nil, err
	}
	defer sys.CloseFD(childErr)

	files := []int{sp.devNull, childOut, childErr, childConn}
	for _, s := range sp.sockets {
		if s.packet != nil {
			cfg.Packets[s.name] = len(files)
			files = append(files, s.fds[0])
			continue
		}
		cfg.Listeners[s.name] = len(files)
		files = append(files, s.fds[s.of(w.Slot)])
		if s.shared != "" {
			cfg.Own = append(cfg.Own, s.name)
		}
	}
	words := newLastWords(crashFile())
	if words.crash != nil {
		cfg.Crash = len(files)
		files = append(files, int(words.crash.Fd()))
	}
	config, err := json.Marshal(cfg)
	if err == nil {
		env := process.Environ(os.Environ(), process.Role{Name: process.RoleWorker, Workers: sp.workers, Config: string(config)})
		if share := memoryShare(sp.workers); share > 0 {
			env = append(env, "GOMEMLIMIT="+strconv.FormatInt(share, 10))
		}
		var pid int
		if pid, err = sys.Spawn(exe.SpawnPath(), os.Args, env, files); err == nil {
			sp.stdout.pump(w.Slot, stdout, nil)
			sp.stderr.pump(w.Slot, stderr, words)
			p := newProc(w.ID, pid, cfg.InstanceID, wire.NewConn(conn))
			p.end = exit{Slot: w.Slot, Generation: w.Generation, PID: pid, InstanceID: cfg.InstanceID}
			p.words = words
			return p, nil
		}
	}
	if words.crash != nil {
		words.crash.Close()
	}
	conn.Close()
	stdout.Close()
	stderr.Close()
	return nil, fmt.Errorf("starting %s: %w", exe.Path, err)
}
