package testenv

import (
	"fmt"
	"net"
	"os"
	"sync"
)

// localHost returns the loopback address that only this process uses. The claim
// is an abstract Unix socket: its name space is the network namespace, which is
// also what a loopback address is valid in, and it ends with the process.
var localHost = sync.OnceValue(func() string {
	const hosts = 64 << 16 // 127.64.0.0 to 127.127.255.255
	for i := range 1000 {
		n := (os.Getpid() + i*7919) % hosts
		host := fmt.Sprintf("127.%d.%d.%d", 64+n>>16, n>>8&0xff, n&0xff)
		claim, err := net.Listen("unix", "@fairlead-testenv-"+host)
		if err != nil {
			continue
		}
		if l, err := net.Listen("tcp", host+":0"); err == nil {
			l.Close()
			claimed = claim
			return host
		}
		claim.Close() // this machine has no such address
		break
	}
	return "127.0.0.1"
})

// claimed keeps the claim's socket open for the life of the process.
//
//lint:ignore U1000 it is kept, not used
var claimed net.Listener
