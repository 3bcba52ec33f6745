//go:build !linux

package testenv

func child() {}
