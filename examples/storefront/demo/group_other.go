//go:build !linux

package main

import "os/exec"

// ownGroup does nothing here, where there are no servers to run the demo with: see testenv.
func ownGroup(*exec.Cmd) {}
