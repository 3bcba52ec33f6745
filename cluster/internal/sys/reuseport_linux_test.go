package sys

import (
	"context"
	"net"
	"slices"
	"testing"
)

// New connections go to the sockets that serve, and nowhere else: none of 400 may be lost to chance.
func TestSteer(t *testing.T) {
	lc := net.ListenConfig{Control: ReusePort}
	lc.SetMultipathTCP(false)
	addr := "127.0.0.1:0"
	accepted := make(chan int)
	var fds []int
	for place := range 6 {
		ln, err := lc.Listen(context.Background(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		addr = ln.Addr().String()
		defer ln.Close()
		raw, err := ln.(*net.TCPListener).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				accepted <- place
				c.Close()
			}
		}()
	}
	for _, live := range [][]int{{1, 4}, {5}, {0, 1, 2, 3, 4, 5}} {
		if err := Steer(fds[3], live); err != nil {
			t.Fatal(err)
		}
		got := make(map[int]int)
		for range 400 {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			got[<-accepted]++
			c.Close()
		}
		for place, n := range got {
			if !slices.Contains(live, place) {
				t.Errorf("to %v: %d connections went to %d", live, n, place)
			}
		}
		if len(got) != len(live) { // one in 10^31 for six
			t.Errorf("to %v: only %v got any", live, got)
		}
	}
}
