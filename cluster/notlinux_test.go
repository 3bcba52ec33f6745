//go:build unix && !linux

package cluster_test

const isLinux = false
