package session

import (
	"context"
	"time"
)

// Record is one session as a store keeps it. Times are the store's own: no clock of a client takes part.
type Record struct {
	Tag string // with ID the record's name; records with the same Tag must be kept together (in one slot of a cluster)
	ID  string // a digest: who reads the store cannot make a cookie from it

	Version int64  // 1 when created, one more with each change; 0: there is no such record
	User    bool   // the record belongs to the user that Tag stands for, and is in that user's index
	Pinned  bool   // it expires exactly when it was last said to, and cannot be changed, extended or deleted
	Value   []byte // opaque; a store may not keep the slice it was given, nor change the one it gave

	Left     time.Duration // until the record expires; 0: never by idleness
	Life     time.Duration // Create, if Deadline is zero: the Deadline is that far ahead; 0: none
	Deadline time.Time     // the record is gone then, however busy it is; zero: none
	Final    bool          // from a store: it expires at its Deadline, and Touch would do nothing
	Fence    string        // Create and Move: what UserIndex.Fence had returned, "" to do without
	Limit    int           // Create and Move of a User: how many records of the user may remain, with this one; 0: any number
}

// Store keeps records. Package sessiontest proves an implementation; memory, Redis (redissession) and PostgreSQL
// (pgsession) come with this module.
//
// Every method but Touch is atomic on its record. A call that could not reach the store, or whose answer did not come back,
// fails with an error that wraps [ErrUnavailable]: the outcome is unknown, and the same call may be made again. Any other
// error says that nothing was changed. An expired record does not exist. Implementations are safe for concurrent use.
type Store interface {
	// Load returns the record, the zero Record if there is none. It must see every change that returned before it began:
	// no replica, no cache.
	Load(ctx context.Context, tag, id string) (Record, error)
	// Create stores a new record with Version 1 and, if r.User, adds it to the user's index, both or neither. If a record
	// of that name exists it changes nothing and returns that one and false. If r.Fence is not what UserIndex.Fence would
	// show, or is too old, the error is ErrRevoked. In the same step the user's records with the nearest Deadlines are
	// deleted until r.Limit holds.
	Create(ctx context.Context, r Record) (current Record, created bool, err error)
	// CompareAndSwap replaces the record's Value and Version by r.Value and r.Version+1 if its version is r.Version, and
	// extends its life to r.Left, never beyond the Deadline and never shortening it; a Pinned r leaves the user's index,
	// and expires in exactly r.Left. Otherwise it changes nothing and returns the record as it is and false: the zero
	// Record if there is none, for it never creates.
	CompareAndSwap(ctx context.Context, r Record) (current Record, swapped bool, err error)
	// Delete removes the record, and its entry in the user's index, unless it is Pinned, and returns what it found.
	Delete(ctx context.Context, tag, id string) (found Record, err error)
	// Touch extends the lives of existing records, named by Tag and ID, to Left, never beyond their Deadlines. It shortens
	// and creates nothing and leaves Pinned ones alone. Versions stay.
	Touch(ctx context.Context, records []Record) error
}

// UserIndex is the ability of a store to find all sessions of a user, who is known to it only as a tag. Without it a login
// takes no fence, a rotation is several steps, and Manager.RevokeUser, EndSession and List fail.
type UserIndex interface {
	// Fence returns what a Create for this user has to show: it stays valid for 15 minutes, or until Revoke.
	Fence(ctx context.Context, tag string) (string, error)
	// Revoke, in one atomic step, makes every earlier Fence invalid and deletes all records of the index but those with an
	// id in except. It returns how many it deleted.
	Revoke(ctx context.Context, tag string, except []string) (int, error)
	// List returns the user's records.
	List(ctx context.Context, tag string) ([]Record, error)
	// Move, in one atomic step, is CompareAndSwap of old, which is Pinned, and Create of next, which has the same Tag: both
	// or neither. It returns next as Create would, and true. If old's record is not as old says it changes nothing and
	// returns that record, the zero Record if there is none, and false; that comes before the fence.
	Move(ctx context.Context, old, next Record) (current Record, moved bool, err error)
}

// loginTime is how long a fence is good for; the stores have it in their own texts.
const loginTime = 15 * time.Minute
