// Package breaker measures a call through scale/breaker beside bare gobreaker and failsafe-go's circuit breaker: closed, open, and
// by many goroutines at once. scale/breaker does more with each call than both: it looks at its time, and at what its error means.
//
//	cd bench && GOWORK=off go test -run '^$' -bench . -benchmem ./breaker
package breaker
