// Package session keeps what a service knows of a client between its requests, in a store that all its processes share: any
// process can serve any request, and any of them can die.
//
//	sessions, err := session.New[Visitor](redissession.New(rdb, redissession.Options{}), session.Options{})
//	handler = sessions.Middleware(handler)
//	...
//	s := sessions.From(r.Context())
//	v, err := s.Update(r.Context(), func(v *Visitor) error { v.Visits++; return nil })
//
// # What it guarantees
//
//   - No lost update: [Session.Update] is an atomic read-modify-write, over any number of processes. Changes of one session
//     that meet in a process go to the store together.
//   - An update is applied once, also when the store's answer to it is lost, or the error is [ErrOutcomeUnknown].
//   - No resurrection: after [Session.Logout] or [Manager.RevokeUser] returned, no request that was on its way can bring the
//     session back by a change, a read or a rotation, and no login that began before the revocation completes. (Redis can
//     lose acknowledged writes in a failover or a restart from a snapshot, and with them a logout.)
//   - No cost without use: see [Manager.Middleware]. A read is one round trip, a read and an update are two.
//   - No flood: a client without a session creates nothing before something is stored for it, and an id that the server did
//     not issue is never taken on.
//   - What a handler was told is saved is saved: a change after the headers that would need them is [ErrHeadersSent], and a
//     deferred change that fails replaces the response.
//   - The store holds a digest of a client's token, which cannot be turned back, and users only as keyed digests.
//
// # When the store fails
//
// A call takes at most Options.StoreTimeout and fails with [ErrUnavailable]; nobody is logged out by it, since a cookie is
// removed by Logout alone. A handler that can do without the session goes on; others answer 503.
//
// # Cookies and caches
//
// The cookie is __Host-session: Secure, HttpOnly, SameSite=Lax, Path=/. Cross-site requests that change something are the
// business of http.CrossOriginProtection of the standard library.
package session
