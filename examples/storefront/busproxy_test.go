package main

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// busProxy forwards connections to Redis. What Redis sends on those that subscribe, the cache's bus, arrives late; commands
// are not delayed.
type busProxy struct {
	addr string

	mu      sync.Mutex
	delayed int // bytes
}

func startBusProxy(t *testing.T, target string) *busProxy {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &busProxy{addr: ln.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				client.Close()
				continue
			}
			mu.Lock()
			conns[client], conns[server] = true, true
			mu.Unlock()
			wg.Go(func() {
				p.serve(client, server)
				mu.Lock()
				delete(conns, client)
				delete(conns, server)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return p
}

// late is how many bytes were delayed so far.
func (p *busProxy) late() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.delayed
}

type chunk struct {
	due  time.Time
	data []byte
}

func (p *busProxy) serve(client, server net.Conn) {
	defer client.Close()
	defer server.Close()
	subscribes := make(chan struct{})
	go func() {
		defer server.Close()
		var once sync.Once
		buf := make([]byte, 64<<10)
		for {
			n, err := client.Read(buf)
			if bytes.Contains(bytes.ToLower(buf[:n]), []byte("subscribe\r\n")) {
				once.Do(func() { close(subscribes) })
			}
			if _, werr := server.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	}()

	chunks := make(chan chunk, 10_000)
	go func() {
		defer close(chunks)
		for {
			buf := make([]byte, 16<<10)
			n, err := server.Read(buf)
			c := chunk{data: buf[:n]}
			select {
			case <-subscribes:
				c.due = time.Now().Add(busDelay)
				p.mu.Lock()
				p.delayed += n
				p.mu.Unlock()
			default:
			}
			chunks <- c
			if err != nil {
				return
			}
		}
	}()
	for c := range chunks {
		time.Sleep(time.Until(c.due))
		if _, err := client.Write(c.data); err != nil {
			client.Close()
			server.Close()
			break
		}
	}
	for range chunks { // until the reader has gone
	}
	_, _ = io.Copy(io.Discard, server)
}
