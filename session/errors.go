package session

import "errors"

var (
	// ErrUnavailable says that the store could not be reached or did not answer in time. Nothing was changed, unless the
	// error is ErrOutcomeUnknown too. The client keeps its cookie: when the store is back, so is the session.
	ErrUnavailable = errors.New("session: the store is unavailable")
	// ErrOutcomeUnknown says that a change may or may not have been stored: the store's answer was lost, or the caller's
	// context ended while the change was on its way. It is never applied later, and never twice.
	ErrOutcomeUnknown = errors.New("session: the outcome of the change is unknown")
	// ErrEnded says that the session ended (logout, revocation, expiry) after this request had found it.
	ErrEnded = errors.New("session: the session has ended")
	// ErrRotated says that the session of this request moved to a new id, which this request's client may not follow:
	// another request logged in. The right answer is 409; the client's next request carries the new cookie.
	ErrRotated = errors.New("session: the session has a new id")
	// ErrRevoked says that the user's sessions were revoked after BeginLogin, or that more time than a login may take has
	// passed since.
	ErrRevoked = errors.New("session: the login was revoked")
	// ErrHeadersSent says that the change needs a cookie, or a place before the response, and the headers have gone.
	ErrHeadersSent = errors.New("session: the response's headers have gone")
	// ErrClosed is returned by everything after Manager.Close.
	ErrClosed = errors.New("session: closed")

	errNoMiddleware = errors.New("session: the request did not pass Manager.Middleware")
	errForeign      = errors.New("the session is in a format of a newer version")
)
