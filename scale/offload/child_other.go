//go:build !unix

package offload

import (
	"errors"
	"time"

	"github.com/fairlead/fairlead/internal/process"
)

// Registered functions run in this process here.
const hasProcesses = false

type child struct{ rest *time.Timer }

type asked struct {
	frame frame
	err   error
}

func startChild(int64) (*child, error) { return nil, errors.ErrUnsupported }
func (*child) ask([]byte) <-chan asked { return nil }
func (*child) cancel()                 {}
func (*child) kill()                   {}
func (*child) alive() bool             { return false }
func (*child) end() string             { return "" }
func (*child) close()                  {}
func (*child) memory() int64           { return 0 }
func serve(process.Role)               {}
