// Clusterctl talks to the supervisor of a service that package cluster runs, over its control socket.
//
//	clusterctl --control PATH ls [--json]
//	clusterctl --control PATH reload [SLOT]
//	clusterctl --control PATH stop
//
// $CONTROL may stand in for --control. The exit status is 0 when it went well, 1 when the service says that it did not, 2
// for wrong usage, 3 when the service cannot do that at all, and 4 when nobody answers on the socket.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/urfave/cli/v3"
)

const (
	exitFailed      = 1
	exitUsage       = 2
	exitUnsupported = 3
	exitUnreachable = 4
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := command(stdout)
	cmd.Writer, cmd.ErrWriter = stdout, stderr
	cmd.ExitErrHandler = func(context.Context, *cli.Command, error) {}
	err := cmd.Run(ctx, args)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "clusterctl:", err)
	var answer *answerError
	switch {
	case errors.As(err, &answer) && answer.unsupported():
		return exitUnsupported
	case errors.As(err, &answer):
		return exitFailed
	case errors.Is(err, errUnreachable):
		return exitUnreachable
	}
	return exitUsage
}

func command(stdout io.Writer) *cli.Command {
	client := func(cmd *cli.Command) (*client, error) {
		path := cmd.String("control")
		if path == "" {
			return nil, errors.New("which service? Give --control PATH or set $CONTROL to its control socket")
		}
		return newClient(path), nil
	}
	tooMany := func(cmd *cli.Command, most int) error {
		if cmd.Args().Len() > most {
			return fmt.Errorf("%s: unexpected argument %q", cmd.Name, cmd.Args().Get(most))
		}
		return nil
	}
	return &cli.Command{
		Name:        "clusterctl",
		Usage:       "look at and steer a running service",
		HideVersion: true,
		Flags: []cli.Flag{&cli.StringFlag{
			Name: "control", Usage: "control socket of the service", Sources: cli.EnvVars("CONTROL"), TakesFile: true,
		}},
		Commands: []*cli.Command{
			{
				Name:  "ls",
				Usage: "list the workers",
				Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "as JSON, for programs"}},
				Action: func(ctx context.Context, cmd *cli.Command) error {
					c, err := client(cmd)
					if err = errors.Join(err, tooMany(cmd, 0)); err != nil {
						return err
					}
					return list(ctx, c, stdout, cmd.Bool("json"))
				},
			},
			{
				Name:      "reload",
				Usage:     "replace the workers one after the other by new ones of the program as it is now, and wait for the outcome",
				ArgsUsage: "[SLOT]",
				Action: func(ctx context.Context, cmd *cli.Command) error {
					c, err := client(cmd)
					if err = errors.Join(err, tooMany(cmd, 1)); err != nil {
						return err
					}
					slot := cmd.Args().First()
					if n, err := strconv.Atoi(slot); slot != "" && (err != nil || n < 0) {
						return fmt.Errorf("reload: SLOT %q must be a number from 0", slot)
					}
					return c.reload(ctx, slot)
				},
			},
			{
				Name:  "stop",
				Usage: "stop the service gracefully; returns when it has ended",
				Action: func(ctx context.Context, cmd *cli.Command) error {
					c, err := client(cmd)
					if err = errors.Join(err, tooMany(cmd, 0)); err != nil {
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
