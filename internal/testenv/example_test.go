package testenv_test

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/fairlead/fairlead/internal/testenv"
)

func ExampleStartProxy() {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			go io.Copy(conn, conn) // echo
		}
	}()

	proxy, err := testenv.StartProxy(server.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer proxy.Close()
	proxy.LoseReplies(1, "order")
	for range 2 {
		conn, err := net.Dial("tcp", proxy.Addr())
		if err != nil {
			fmt.Println(err)
			return
		}
		answer := make([]byte, 5)
		fmt.Fprint(conn, "order")
		_, err = io.ReadFull(conn, answer)
		fmt.Println("answered:", err == nil)
		conn.Close()
	}
	// Output:
	// answered: false
	// answered: true
}

func ExampleShare() {
	redis := testenv.Share(func(ctx context.Context) (*testenv.Redis, error) {
		return testenv.StartRedis(ctx, testenv.RedisOptions{})
	})
	run := func() int { // m.Run in a TestMain
		// Tests call redis.Get. None did, so nothing was started.
		return 0
	}
	fmt.Println(testenv.Main(run, redis))
	// Output:
	// 0
}
