package pgsession

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/session"
)

// TestTheStoreIsNoPartOfTheRequest: on a *pool.Pool, which follows what a request's scope reads and writes, the store's own
// statements must not make a client look like one that has written.
func TestTheStoreIsNoPartOfTheRequest(t *testing.T) {
	pg, err := postgres.Get()
	if err != nil {
		t.Fatal(err)
	}
	name, err := pg.CreateDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	db, err := pool.New(t.Context(), pg.Primary.URL(name), pool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	if _, err := db.Exec(t.Context(), Schema); err != nil {
		t.Fatal(err)
	}
	m, err := session.New[int](New(db), session.Options{StoreTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var cookie *http.Cookie
	serve := func(h http.HandlerFunc) []*http.Cookie {
		r := httptest.NewRequest("GET", "/", nil)
		if cookie != nil {
			r.AddCookie(cookie)
		}
		w := httptest.NewRecorder()
		m.Middleware(h).ServeHTTP(w, r)
		return w.Result().Cookies()
	}
	set := serve(func(_ http.ResponseWriter, r *http.Request) {
		if _, err := m.From(r.Context()).Update(r.Context(), func(v *int) error { *v = 7; return nil }); err != nil {
			t.Error(err)
		}
	})
	if len(set) != 1 || set[0].Name != "__Host-session" {
		t.Fatalf("a request that changed only its session set %v", set)
	}
	cookie = set[0]
	writes := m.Stats().Writes
	set = serve(func(_ http.ResponseWriter, r *http.Request) {
		if v, err := m.From(r.Context()).Get(r.Context()); v != 7 || err != nil {
			t.Error(v, err)
		}
	})
	if n := m.Stats().Writes - writes; n != 0 || len(set) != 0 {
		t.Errorf("a request that only read its session: %d writes, cookies %v", n, set)
	}
	// What the handler itself does counts.
	set = serve(func(_ http.ResponseWriter, r *http.Request) {
		if _, err := db.Exec(r.Context(), `CREATE TABLE mine (n int)`); err != nil {
			t.Error(err)
		}
	})
	if len(set) != 1 || set[0].Name != "__Host-wrote" {
		t.Errorf("a request that wrote to the database set %v", set)
	}
}
