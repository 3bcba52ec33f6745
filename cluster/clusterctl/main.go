// Clusterctl talks to the supervisor of a service that package cluster runs, over its control socket.
//
//	clusterctl --control PATH ls [SLOT] [--json]
//	clusterctl --control PATH top
//	clusterctl --control PATH logs [SLOT] [-f] [-n LINES]
//	clusterctl --control PATH profile SLOT cpu|heap|goroutine
//	clusterctl --control PATH reload [SLOT]
//	clusterctl --control PATH scale N|+1|-1
//	clusterctl --control PATH upgrade
//	clusterctl --control PATH stop
//
// $CONTROL may stand in for --control. The exit status is 0 when it went well, 1 when the service says that it did not, 2
// for wrong usage, 3 when the service cannot do that at all, and 4 when nobody answers on the socket.
// clusterctl completion bash, zsh, fish or pwsh prints a script that completes commands in that shell.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
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
	var writing *writeError
	switch {
	case errors.As(err, &answer) && answer.unsupported():
		return exitUnsupported
	case errors.As(err, &answer), errors.As(err, &writing):
		return exitFailed
	case errors.Is(err, errUnreachable):
		return exitUnreachable
	}
	return exitUsage
}

// onScreen is where a table goes: as wide as the terminal, or as it is when the output is a pipe or file.
func onScreen(w io.Writer) screen {
	s := screen{Writer: w}
	if f, ok := w.(*os.File); ok {
		if width, _, ok := terminalSize(f); ok {
			s.width = width
			s.paint.on = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		}
	}
	return s
}
