//go:build !linux

package testenv

// localHost returns the loopback address: only Linux has more than one without
// being configured.
func localHost() string { return "127.0.0.1" }
