package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"
)

const help = `{{.Name}} looks at and steers a service that runs in supervised workers.

USAGE
   clusterctl [--control PATH] COMMAND

COMMANDS{{range .VisibleCommands}}
   {{printf "%-20s" (printf "%s %s" .Name .ArgsUsage)}}{{.Usage}}{{end}}

OPTIONS
   --control PATH      control socket of the service; $CONTROL can name it too
   --help, -h          show this, or after a command what it takes

   clusterctl completion bash|zsh|fish|pwsh prints a script for that shell.

EXIT STATUS
   0 done   1 failed   2 wrong usage   3 unsupported   4 nobody answers
`

// arguments are checked before anybody is asked.
func arguments(cmd *cli.Command, least, most int) error {
	switch n := cmd.Args().Len(); {
	case n > most:
		return fmt.Errorf("%s: unexpected argument %q", cmd.Name, cmd.Args().Get(most))
	case n < least:
		return fmt.Errorf("%s: needs %s", cmd.Name, cmd.ArgsUsage)
	}
	return nil
}

func service(cmd *cli.Command) (*client, error) {
	path := cmd.String("control")
	if path == "" {
		return nil, errors.New("which service? Give --control PATH or set $CONTROL to its control socket")
	}
	return newClient(path), nil
}

// slotArg is the argument at i, "" if it is not there.
func slotArg(cmd *cli.Command, i int) (string, error) {
	slot := cmd.Args().Get(i)
	if n, err := strconv.Atoi(slot); slot != "" && (err != nil || n < 0) {
		return "", fmt.Errorf("%s: SLOT %q must be a number from 0", cmd.Name, slot)
	}
	return slot, nil
}

func command(stdout io.Writer) *cli.Command {
	return &cli.Command{
		Name:                          "clusterctl",
		Usage:                         "look at and steer a running service",
		HideVersion:                   true,
		HideHelpCommand:               true,
		EnableShellCompletion:         true,
		CustomRootCommandHelpTemplate: help,
		Flags: []cli.Flag{&cli.StringFlag{
			Name: "control", Usage: "control socket of the service", Sources: cli.EnvVars("CONTROL"), TakesFile: true,
		}},
		Commands: []*cli.Command{
			lsCommand(stdout), topCommand(stdout), logsCommand(stdout), profileCommand(stdout),
			{
				Name: "reload", Usage: "replace the workers by ones of the program as it is now", ArgsUsage: "[SLOT]",
				Description: "One slot after the other: the new worker has to become ready before the old one drains. When one fails,\nwhat was replaced is rolled back and the exit status is 1.",
				Action: func(ctx context.Context, cmd *cli.Command) error {
					slot, err := slotArg(cmd, 0)
					path := "/v1/reload"
					if slot != "" {
						path += "?slot=" + slot
					}
					return operate(ctx, cmd, stdout, path, errors.Join(err, arguments(cmd, 0, 1)))
				},
			},
			{
				Name: "scale", Usage: "change the number of workers", ArgsUsage: "N|+N|-N", SkipFlagParsing: true,
				Description: "To N, or by so many more or less. It waits until the new ones are ready; those that go drain.",
				Action: func(ctx context.Context, cmd *cli.Command) error {
					if a := cmd.Args().First(); a == "--help" || a == "-h" {
						return cli.ShowSubcommandHelp(cmd)
					}
					path, err := scalePath(cmd.Args().First())
					return operate(ctx, cmd, stdout, path, errors.Join(arguments(cmd, 1, 1), err))
				},
			},
			{
				Name: "upgrade", Usage: "reload, and replace the supervisor in its process too",
				Description: "This version's supervisor refuses: restart the service to replace it; reload replaces its workers.",
				Action: func(ctx context.Context, cmd *cli.Command) error {
					return operate(ctx, cmd, stdout, "/v1/upgrade", arguments(cmd, 0, 0))
				},
			},
			{
				Name: "stop", Usage: "stop the service gracefully and wait for its end",
				Action: func(ctx context.Context, cmd *cli.Command) error {
					c, err := service(cmd)
					if err = errors.Join(err, arguments(cmd, 0, 0)); err != nil {
						return err
					}
					return c.stop(ctx)
				},
			},
		},
		// Without a command, or with an unknown one.
		Action: func(ctx context.Context, cmd *cli.Command) error {
			if name := cmd.Args().First(); name != "" {
				return fmt.Errorf("unknown command %q: clusterctl --help lists them", name)
			}
			return cli.ShowRootCommandHelp(cmd)
		},
	}
}

// operate waits for something that changes the service, and says how long it took.
func operate(ctx context.Context, cmd *cli.Command, stdout io.Writer, path string, wrong error) error {
	c, err := service(cmd)
	if err = errors.Join(err, wrong); err != nil {
		return err
	}
	began := time.Now()
	if err := c.operate(ctx, path); err != nil {
		if answer := new(answerError); errors.As(err, &answer) && answer.status == 0 && answer != errInterrupted {
			answer.text = cmd.Name + " failed: " + answer.text
		}
		return err
	}
	fmt.Fprintf(stdout, "%s done in %.1fs\n", cmd.Name, time.Since(began).Seconds())
	return nil
}

func scalePath(arg string) (string, error) {
	n, err := strconv.Atoi(arg)
	switch {
	case err != nil || n == 0:
		return "", fmt.Errorf("scale: %q must be a number of workers from 1, or +N or -N", arg)
	case strings.HasPrefix(arg, "+"), n < 0:
		return fmt.Sprintf("/v1/scale?by=%d", n), nil
	}
	return fmt.Sprintf("/v1/scale?to=%d", n), nil
}

func lsCommand(stdout io.Writer) *cli.Command {
	return &cli.Command{
		Name: "ls", Usage: "list the workers; of a slot, how earlier ones ended too", ArgsUsage: "[SLOT]",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "as JSON, for programs"}},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			c, err := service(cmd)
			slot, slotErr := slotArg(cmd, 0)
			if err = errors.Join(err, slotErr, arguments(cmd, 0, 1)); err != nil {
				return err
			}
			if slot == "" {
				return list(ctx, c, onScreen(stdout), cmd.Bool("json"))
			}
			n, _ := strconv.Atoi(slot)
			return listSlot(ctx, c, onScreen(stdout), n, cmd.Bool("json"))
		},
	}
}

func topCommand(stdout io.Writer) *cli.Command {
	return &cli.Command{
		Name: "top", Usage: "watch the workers, as top does processes",
		Flags: []cli.Flag{&cli.DurationFlag{Name: "interval", Value: time.Second, Usage: "how often to look"}},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			c, err := service(cmd)
			every := cmd.Duration("interval")
			if every < 100*time.Millisecond {
				err = errors.Join(err, fmt.Errorf("top: --interval %v: must be at least 100ms", every))
			}
			if err = errors.Join(err, arguments(cmd, 0, 0)); err != nil {
				return err
			}
			out, ok := stdout.(*os.File)
			if !ok {
				return errNoTerminal
			}
			return top(ctx, c, out, os.Stdin, onScreen(stdout).paint, every)
		},
	}
}

func logsCommand(stdout io.Writer) *cli.Command {
	return &cli.Command{
		Name: "logs", Usage: "show what the workers and the supervisor said last", ArgsUsage: "[SLOT]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "and what they go on to say"},
			&cli.IntFlag{Name: "lines", Aliases: []string{"n"}, Value: 20, Usage: "how many lines of the past"},
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			c, err := service(cmd)
			slot, slotErr := slotArg(cmd, 0)
			n := cmd.Int("lines")
			if n < 0 {
				err = errors.Join(err, fmt.Errorf("logs: --lines %d: must be >= 0", n))
			}
			if err = errors.Join(err, slotErr, arguments(cmd, 0, 1)); err != nil {
				return err
			}
			return showLogs(ctx, c, output{stdout}, slot, n, cmd.Bool("follow"))
		},
	}
}

func profileCommand(stdout io.Writer) *cli.Command {
	kinds := []string{"cpu", "heap", "goroutine"}
	return &cli.Command{
		Name: "profile", Usage: "profile a worker: its cpu, heap or goroutine stacks", ArgsUsage: "SLOT KIND",
		Description: "KIND is cpu, heap or goroutine. Of cpu and heap it writes a file for go tool pprof;\nof goroutine it prints the stacks of all.",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "seconds", Aliases: []string{"s"}, Value: 10, Usage: "how long to look at the cpu"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "file, - is standard output (default: slotN-KIND.pprof, of goroutine -)"},
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			c, err := service(cmd)
			slot, slotErr := slotArg(cmd, 0)
			kind, seconds, file := cmd.Args().Get(1), cmd.Int("seconds"), cmd.String("output")
			if err = errors.Join(err, arguments(cmd, 2, 2), slotErr); err != nil {
				return err
			}
			if !slices.Contains(kinds, kind) {
				return fmt.Errorf("profile: %q must be cpu, heap or goroutine", kind)
			}
			switch {
			case file == "" && kind == "goroutine":
				file = "-"
			case file == "":
				file = fmt.Sprintf("slot%s-%s.pprof", slot, kind)
			}
			n, _ := strconv.Atoi(slot)
			return takeProfile(ctx, c, stdout, n, kind, seconds, file)
		},
	}
}
