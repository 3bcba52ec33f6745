// Package drain serves connections and, when it is time to go, stops without losing one.
//
// [http.Server.Shutdown] alone is not that: a connection that was accepted a moment before it, and whose request has not
// been read yet, is dropped when the request arrives (golang/go#75591), and a keep-alive client that sends its next request
// at that moment finds the connection closed. [Serve] drains first and shuts down after:
//
//  1. The context ends: the drain begins. After Options.PreStop, in which everything goes on as before, the listeners stop
//     accepting. A connection that was accepted is served, however young it is.
//  2. From then on every response carries "Connection: close" (over HTTP/2 that becomes GOAWAY), and long streams are told
//     by [Closing], one after the other (Options.Spread): each client comes back at once, and 2,000 TLS handshakes in one
//     moment raised the 99th percentile of the processes that took them from 3 ms to 1.5 s.
//  3. Serve waits until every connection has ended, or has been silent for Options.IdleGrace while no request was under
//     way on it. Bytes of a request that has begun to arrive count.
//  4. Only then it calls Shutdown, which by now has nothing to lose.
//  5. At Options.DrainTimeout it ends the contexts of the requests that are left, gives them a second to say so, and closes.
//
// What it does not promise: a client that leaves a connection idle for longer than IdleGrace may find it closed just as it
// sends, as with any HTTP server and any idle time-out. Hijacked connections (WebSockets) are waited for like requests; their
// handlers should watch Closing. From shortly before DrainTimeout their reads fail with [os.ErrDeadlineExceeded], one
// connection after the other, whatever deadlines their handlers set; writing a good-bye still works then.
//
// In a worker of package cluster, Serve takes its settings from the cluster's options, and reports the worker ready once
// all its servers accept. Outside of one it works the same with its own.
package drain
