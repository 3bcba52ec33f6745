//go:build !unix

package main

import (
	"errors"
	"os"
)

// terminalSize is not known here.
func terminalSize(*os.File) (width, height int, ok bool) { return 0, 0, false }

func keys(*os.File) (func(), error) { return nil, errors.ErrUnsupported }
