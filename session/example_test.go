package session_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"

	"github.com/fairlead/fairlead/session"
)

type Visitor struct {
	User   string
	Visits int
}

func Example() {
	sessions, err := session.New[Visitor](session.NewMemory(0), session.Options{Insecure: true}) // plain HTTP, for the example
	if err != nil {
		panic(err)
	}
	defer sessions.Close()

	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		s := sessions.From(r.Context())
		login, err := s.BeginLogin(r.Context(), "ann")
		// ... check the password here ...
		if err == nil {
			err = login.Commit(r.Context())
		}
		if err == nil {
			_, err = s.Update(r.Context(), func(v *Visitor) error { v.User = "ann"; return nil })
		}
		if err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /me", func(w http.ResponseWriter, r *http.Request) {
		v, err := sessions.From(r.Context()).Update(r.Context(), func(v *Visitor) error { v.Visits++; return nil })
		if err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "user %q, visit %d", v.User, v.Visits)
	})
	mux.HandleFunc("POST /logout/everywhere", func(w http.ResponseWriter, r *http.Request) {
		if err := sessions.RevokeUser(r.Context(), "ann"); err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
		}
	})
	// Other sites' pages cannot make a browser log in or out here.
	srv := httptest.NewServer(http.NewCrossOriginProtection().Handler(sessions.Middleware(mux)))
	defer srv.Close()

	jar, _ := cookiejar.New(nil)
	browser := &http.Client{Jar: jar}
	show := func(res *http.Response, err error) {
		if err != nil {
			panic(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		if len(b) > 0 {
			fmt.Println(string(b))
		}
	}
	show(browser.Get(srv.URL + "/me"))
	show(browser.Post(srv.URL+"/login", "", nil))
	show(browser.Get(srv.URL + "/me"))
	show(browser.Post(srv.URL+"/logout/everywhere", "", nil))
	show(browser.Get(srv.URL + "/me"))
	// Output:
	// user "", visit 1
	// user "ann", visit 2
	// user "", visit 1
}
