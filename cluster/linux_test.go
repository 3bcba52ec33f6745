package cluster_test

const isLinux = true
