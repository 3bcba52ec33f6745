package scale

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

func TestDeadline(t *testing.T) {
	const none = -1
	for _, tt := range []struct {
		name    string
		max     time.Duration
		headers map[string]string
		want    time.Duration // none: no deadline; 0: answered 504
	}{
		{"default", 0, nil, 30 * time.Second},
		{"own bound", 5 * time.Second, nil, 5 * time.Second},
		{"no bound", none, nil, none},
		{"client is sooner", 0, map[string]string{"Fairlead-Timeout-Ms": "250"}, 250 * time.Millisecond},
		{"client is later", 0, map[string]string{"Fairlead-Timeout-Ms": "31000"}, 30 * time.Second},
		{"no bound but the client's", none, map[string]string{"Fairlead-Timeout-Ms": "90000"}, 90 * time.Second},
		{"passed", 0, map[string]string{"Fairlead-Timeout-Ms": "0"}, 0},
		{"malformed", 0, map[string]string{"Fairlead-Timeout-Ms": "-1"}, 30 * time.Second},
		{"malformed sign", 0, map[string]string{"Fairlead-Timeout-Ms": "+1"}, 30 * time.Second},
		{"malformed unit", 0, map[string]string{"Fairlead-Timeout-Ms": "10s"}, 30 * time.Second},
		{"empty", 0, map[string]string{"Fairlead-Timeout-Ms": ""}, 30 * time.Second},
		{"overflow", 0, map[string]string{"Fairlead-Timeout-Ms": "99999999999999999999"}, 30 * time.Second},
		{"envoy", 0, map[string]string{"X-Envoy-Expected-Rq-Timeout-Ms": "700"}, 700 * time.Millisecond},
		{"grpc", 0, map[string]string{"Grpc-Timeout": "3S"}, 3 * time.Second},
		{"grpc nanoseconds", 0, map[string]string{"Grpc-Timeout": "99999999n"}, 99999999},
		{"grpc too long", 0, map[string]string{"Grpc-Timeout": "123456789n"}, 30 * time.Second},
		{"grpc no unit", 0, map[string]string{"Grpc-Timeout": "12"}, 30 * time.Second},
		{"grpc huge", none, map[string]string{"Grpc-Timeout": "99999999H"}, 1<<63 - 1},
		{"first is shortest", 0, map[string]string{"Fairlead-Timeout-Ms": "700", "Grpc-Timeout": "800m", "X-Envoy-Expected-Rq-Timeout-Ms": "850"}, 700 * time.Millisecond},
		{"last is shortest", 0, map[string]string{"Fairlead-Timeout-Ms": "900", "Grpc-Timeout": "800m", "X-Envoy-Expected-Rq-Timeout-Ms": "850"}, 800 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := New("test", Options{MaxTimeout: tt.max})
				if err != nil {
					t.Fatal(err)
				}
				began, started := time.Now(), false
				h := s.deadline(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					started = true
					at, ok := r.Context().Deadline()
					switch {
					case !ok:
						if tt.want != none {
							t.Errorf("no deadline, want %v", tt.want)
						}
					case at.Sub(began) != tt.want:
						t.Errorf("deadline in %v, want %v", at.Sub(began), tt.want)
					}
				}))
				r := httptest.NewRequest("GET", "/", nil)
				for k, v := range tt.headers {
					r.Header.Set(k, v)
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if started != (tt.want != 0) {
					t.Errorf("handler started = %v", started)
				}
				if tt.want == 0 {
					checkProblem(t, w.Result(), http.StatusGatewayTimeout)
				}
			})
		})
	}
}

func checkProblem(t *testing.T, resp *http.Response, status int) {
	t.Helper()
	var body struct {
		Title  string
		Status int
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Errorf("body is not JSON: %v", err)
	}
	if resp.StatusCode != status || body.Status != status || body.Title != http.StatusText(status) ||
		resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %d, %q, %+v; want problem+json with %d", resp.StatusCode, resp.Header.Get("Content-Type"), body, status)
	}
}
