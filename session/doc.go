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
//   - Logout everywhere is one atomic step ([Manager.RevokeUser]), and so is a limit of a user's sessions
//     (Options.MaxSessions).
//   - The store holds a digest of a client's token, which cannot be turned back, and users only as keyed digests.
//
// # When the store fails
//
// A call takes at most Options.StoreTimeout and fails with [ErrUnavailable]; nobody is logged out by it, since a cookie is
// removed by Logout alone. What a route does then is its own choice, by what its handler makes of the error ([Problem]
// answers 503) or by [Manager.Outage].
//
// A login between two slots of a cluster is three steps. A process that dies between them costs its client at most the data
// of the anonymous session, and 30 s in which that session's id cannot log in.
//
// A store that is full may drop sessions, which logs users out. redissession tells how to prevent that; Stats.Evicted shows
// how many keys were dropped.
//
// # Long connections
//
// After Hijack, and in event streams, the session stays usable, except for what needs a cookie. [Session.Watch] tells when it
// has ended.
//
// # Cookies and caches
//
// The cookie is __Host-session: Secure, HttpOnly, SameSite=Lax, Path=/. Cross-site requests that change something are the
// business of http.CrossOriginProtection of the standard library. A service in frames of other sites sets
// Options.Partitioned.
package session
