package cluster

import (
	"slices"
	"sync"
)

// keptOperations is how many outcomes are remembered.
const keptOperations = 64

// operations are what was asked for over the control socket, by id. They outlive the supervisor that began them: whoever
// asked can ask again after an upgrade.
type operations struct {
	mu     sync.Mutex
	all    []*operation  // oldest first
	paused chan struct{} // closed when nobody should wait any longer
}

type operation struct {
	id   string
	done chan struct{}
	err  string // valid after done
}

func newOperations() *operations { return &operations{paused: make(chan struct{})} }

// begin makes an id.
func (o *operations) begin() string {
	op := &operation{id: newInstanceID(), done: make(chan struct{})}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, op)
	if len(o.all) > keptOperations {
		o.all = o.all[1:]
	}
	return op.id
}

// forget takes back a begin that came to nothing.
func (o *operations) forget(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = slices.DeleteFunc(o.all, func(op *operation) bool { return op.id == id })
}

func (o *operations) get(id string) *operation {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, op := range o.all {
		if op.id == id {
			return op
		}
	}
	return nil
}

// finish is called once for each id.
func (o *operations) finish(id string, err error) {
	op := o.get(id)
	if op == nil {
		return
	}
	if err != nil {
		op.err = err.Error()
	}
	close(op.done)
}

func (o *operations) waiting() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.paused
}
