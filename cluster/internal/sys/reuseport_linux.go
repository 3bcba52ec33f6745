package sys

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// CanReusePort says whether several sockets of one address share its connections evenly.
const CanReusePort = true

// ReusePort is a Control function for net.ListenConfig.
func ReusePort(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); cerr != nil {
		return cerr
	}
	return err
}

// Steer makes the kernel give new connections to some of the sockets that share an address: a random one of those whose
// places, in the order in which they were opened, are in live. fd is any of the sockets; live must not be empty. It takes
// no privilege. Where the kernel has no such socket any more, it falls back to spreading by hash over all.
func Steer(fd int, live []int) error {
	prog := steering(live)
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
		&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
	if err != nil {
		return fmt.Errorf("SO_ATTACH_REUSEPORT_CBPF: %w", err)
	}
	return nil
}

// skfAdRandom is where classic BPF finds a random number: SKF_AD_OFF + SKF_AD_RANDOM of linux/filter.h.
const skfAdRandom = 0xfffff000 + 56

// steering is a program of classic BPF that returns a random element of live.
func steering(live []int) []unix.SockFilter {
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: skfAdRandom},
		{Code: unix.BPF_ALU | unix.BPF_MOD | unix.BPF_K, K: uint32(len(live))},
	}
	for i, place := range live[:len(live)-1] {
		prog = append(prog,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(i)},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: uint32(place)})
	}
	return append(prog, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: uint32(live[len(live)-1])})
}
