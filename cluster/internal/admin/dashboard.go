package admin

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"strings"
	"time"
)

//go:embed assets/page.html
var pageHTML string

//go:embed assets/page.css
var pageCSS string

//go:embed assets/page.js
var pageJS string

//go:embed assets/icon.svg
var iconSVG string

// policy lets the page load what this server serves and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// sendTimeout is how long a viewer may take for a frame.
const sendTimeout = 10 * time.Second

func (s *Server) servePage(w http.ResponseWriter, r *http.Request) {
	v, sections := s.hub.fresh()
	title := v.service
	if title == "" {
		title = "service"
	}
	replace := []string{"{{title}}", html.EscapeString(title),
		"{{css}}", "assets/page.css?" + cssHash, "{{js}}", "assets/page.js?" + jsHash, "{{icon}}", "assets/icon.svg?" + iconHash}
	for id, section := range sections {
		replace = append(replace, "{{"+id+"}}", section)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	strings.NewReplacer(replace...).WriteString(w, pageHTML)
}

var cssHash, jsHash, iconHash = hash(pageCSS), hash(pageJS), hash(iconSVG)

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}

// asset is served for ever under its hash and not kept without it.
func asset(mediaType, content, hash string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", mediaType)
		h.Set("X-Content-Type-Options", "nosniff")
		if r.URL.RawQuery == hash {
			h.Set("Cache-Control", "public, max-age=31536000, immutable")
		} else {
			h.Set("Cache-Control", "no-store")
		}
		fmt.Fprint(w, content)
	}
}

// serveStream sends the parts of the page that changed, each second, as server-sent events.
func (s *Server) serveStream(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	rc := http.NewResponseController(w)
	s.hub.watch(r.Context(), func(changed map[string]string) error {
		data, err := json.Marshal(changed) // without line ends, as an event's data must be
		if err != nil {
			return err
		}
		// A viewer that does not read must not keep its goroutine for ever.
		if err := rc.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", data); err != nil {
			return err
		}
		return rc.Flush()
	})
}
