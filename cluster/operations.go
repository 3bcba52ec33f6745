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

// savedOperation is an operation as the next supervisor gets it.
type savedOperation struct {
	ID    string `json:"id"`
	Done  bool   `json:"done"`
	Error string `json:"error,omitempty"`
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

// pause has everybody who waits for an outcome ask again, until resume.
func (o *operations) pause() {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.paused)
}

func (o *operations) resume() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.paused = make(chan struct{})
}

func (o *operations) waiting() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.paused
}

func (o *operations) save() []savedOperation {
	o.mu.Lock()
	defer o.mu.Unlock()
	var saved []savedOperation
	for _, op := range o.all {
		s := savedOperation{ID: op.id}
		select {
		case <-op.done:
			s.Done, s.Error = true, op.err
		default:
		}
		saved = append(saved, s)
	}
	return saved
}

func restoreOperations(saved []savedOperation) *operations {
	o := newOperations()
	for _, s := range saved {
		op := &operation{id: s.ID, done: make(chan struct{}), err: s.Error}
		if s.Done {
			close(op.done)
		}
		o.all = append(o.all, op)
	}
	return o
}
