package main

import (
	"net/http"
	"strings"
)

// login believes whoever asks: the demo has no passwords. A real one checks the password between BeginLogin and Commit, so
// that a login that was on its way when the user's sessions were revoked is refused.
func (s *shop) login(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		User string `json:"user"`
	}
	if err := readJSON(w, r, &body); err != nil {
		return err
	}
	if user := body.User; user == "" || len(user) > 64 || strings.TrimSpace(user) != user {
		return badRequest("user must be a name of 1 to 64 bytes without spaces around it")
	}
	ctx, session := r.Context(), s.sessions.From(r.Context())
	login, err := session.BeginLogin(ctx, body.User)
	if err != nil {
		return err
	}
	if err := login.Commit(ctx); err != nil {
		return err
	}
	v, err := session.Update(ctx, func(v *Visitor) error {
		v.User = body.User
		v.Logins++
		return nil
	})
	if err != nil {
		return err
	}
	return replyVisitor(w, v)
}

func (s *shop) me(w http.ResponseWriter, r *http.Request) error {
	v, err := s.sessions.From(r.Context()).Update(r.Context(), func(v *Visitor) error { v.Visits++; return nil })
	if err != nil {
		return err
	}
	return replyVisitor(w, v)
}

func replyVisitor(w http.ResponseWriter, v Visitor) error {
	return reply(w, http.StatusOK, struct {
		User   string `json:"user"`
		Logins int    `json:"logins"`
		Visits int    `json:"visits"`
	}{v.User, v.Logins, v.Visits})
}

func (s *shop) logout(w http.ResponseWriter, r *http.Request) error {
	if err := s.sessions.From(r.Context()).Logout(r.Context()); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *shop) logoutEverywhere(w http.ResponseWriter, r *http.Request) error {
	user, err := s.user(r)
	if err != nil {
		return err
	}
	if err := s.sessions.RevokeUser(r.Context(), user); err != nil {
		return err
	}
	return s.logout(w, r) // the session is gone already; this removes the cookie
}

// user is who is logged in; nobody is an error, answered with 401.
func (s *shop) user(r *http.Request) (string, error) {
	v, err := s.sessions.From(r.Context()).Get(r.Context())
	if err == nil && v.User == "" {
		err = unauthorized("Log in first.")
	}
	return v.User, err
}
