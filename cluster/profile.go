package cluster

import (
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"time"
)

// The profiles that a worker can take of itself.
const (
	profileCPU        = "cpu"       // over a while
	profileHeap       = "heap"      // of what is live after a collection
	profileGoroutines = "goroutine" // the stacks of all, as text
)

const (
	defaultProfile = 10 * time.Second
	longestProfile = 10 * time.Minute
)

// takeProfile takes a profile of this process; one of the processor lasts d, or until ctx ends.
func takeProfile(ctx context.Context, kind string, d time.Duration) ([]byte, error) {
	var b bytes.Buffer
	switch kind {
	case profileCPU:
		if err := pprof.StartCPUProfile(&b); err != nil {
			return nil, fmt.Errorf("cluster: %w", err)
		}
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
		pprof.StopCPUProfile()
		return b.Bytes(), nil
	case profileHeap:
		err := pprof.Lookup("heap").WriteTo(&b, 0)
		return b.Bytes(), err
	case profileGoroutines:
		err := pprof.Lookup("goroutine").WriteTo(&b, 2)
		return b.Bytes(), err
	}
	return nil, fmt.Errorf("cluster: profile %q: must be cpu, heap or goroutine", kind)
}
