//go:build !unix

package cluster

import (
	"context"
	"errors"

	"github.com/fairlead/fairlead/internal/process"
)

const canSupervise = false

func supervise(context.Context, Options) error { return errors.ErrUnsupported }

func runWorker(context.Context, func(context.Context) error, Options, process.Role) error {
	return errors.ErrUnsupported
}
