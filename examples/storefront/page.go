package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:embed page
var pageFiles embed.FS

// pagePolicy lets the page load what the shop serves and nothing else.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// asset is a file of the page, under a name that changes with its content, and compressed once.
type asset struct {
	mediaType      string
	plain, gzipped []byte
	cacheControl   string
}

// newPage reads the page's files: the assets by their names in the URL, and the page itself, which refers to them.
func newPage() (assets map[string]asset, page asset, err error) {
	assets = make(map[string]asset)
	index, err := pageFiles.ReadFile("page/index.html")
	if err != nil {
		return nil, asset{}, err
	}
	err = fs.WalkDir(pageFiles, "page", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || name == "page/index.html" {
			return err
		}
		content, err := pageFiles.ReadFile(name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		base, ext := strings.TrimSuffix(path.Base(name), path.Ext(name)), path.Ext(name)
		hashed := fmt.Sprintf("%s.%s%s", base, hex.EncodeToString(sum[:8]), ext)
		assets[hashed] = newAsset(ext, content, "public, max-age=31536000, immutable")
		index = bytes.ReplaceAll(index, []byte("/assets/"+base+ext), []byte("/assets/"+hashed))
		return nil
	})
	return assets, newAsset(".html", index, "no-cache"), err
}

func newAsset(ext string, content []byte, cacheControl string) asset {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	_, _ = z.Write(content) // a buffer takes everything
	_ = z.Close()
	a := asset{mediaType: mime.TypeByExtension(ext), plain: content, cacheControl: cacheControl}
	if b.Len() < len(content)*9/10 {
		a.gzipped = b.Bytes()
	}
	return a
}

func (a asset) serve(w http.ResponseWriter, r *http.Request) {
	body := a.plain
	h := w.Header()
	if a.gzipped != nil {
		h.Add("Vary", "Accept-Encoding")
		if acceptsGzip(r.Header.Values("Accept-Encoding")) {
			h.Set("Content-Encoding", "gzip")
			body = a.gzipped
		}
	}
	h.Set("Content-Type", a.mediaType)
	h.Set("Cache-Control", a.cacheControl)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(body)
}

// acceptsGzip reads Accept-Encoding (RFC 9110, 12.5.3) as far as gzip goes.
func acceptsGzip(values []string) bool {
	accepted := false
	for _, list := range values {
		for item := range strings.SplitSeq(list, ",") {
			coding, weight, _ := strings.Cut(item, ";")
			coding = strings.ToLower(strings.TrimSpace(coding))
			if coding != "gzip" && coding != "*" {
				continue
			}
			q, isQ := strings.CutPrefix(strings.ToLower(strings.ReplaceAll(weight, " ", "")), "q=")
			value, err := strconv.ParseFloat(q, 64)
			ok := !isQ || err == nil && value > 0
			if coding == "gzip" {
				return ok
			}
			accepted = ok
		}
	}
	return accepted
}

func (s *shop) getPage(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("Referrer-Policy", "same-origin")
	s.page.serve(w, r)
	return nil
}

func (s *shop) getAsset(w http.ResponseWriter, r *http.Request) error {
	a, ok := s.assets[r.PathValue("name")]
	if !ok {
		return notFound("There is no such file.")
	}
	a.serve(w, r)
	return nil
}
