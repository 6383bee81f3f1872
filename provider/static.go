package provider

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

// staticFile is a file that pages load. It is the same for everybody.
type staticFile struct {
	media, etag string
	body        []byte
	// shared is for the pages of relying parties too.
	shared bool
}

// loadStatic reads every static file; an override of the templates is honoured. They are
// known by the last part of their URL.
func loadStatic(override fs.FS) (map[string]*staticFile, error) {
	const script = "text/javascript; charset=utf-8"
	files := make(map[string]*staticFile)
	for _, f := range []struct {
		name, media string
		shared      bool
	}{
		{"static/qrgrant.js", script, true},
		{"signin.js", script, false},
		{"frame.js", script, false},
		{"submit.js", script, false},
		{"q.js", script, false},
		{"style.css", "text/css; charset=utf-8", false},
	} {
		body, err := templateFile(override, f.name)
		if err != nil {
			return nil, err
		}
		files[path.Base(f.name)] = &staticFile{media: f.media, etag: staticETag(body), body: body, shared: f.shared}
	}
	return files, nil
}

// staticETag tells the versions of a static file apart.
func staticETag(body []byte) string {
	sum := sha256.Sum256(body)
	return fmt.Sprintf(`"%x"`, sum[:8])
}

// static is GET /static/…: the style sheet and the scripts. A shared file may be imported by
// script of any origin, because it is public and nobody's.
func (p *Provider) static(w http.ResponseWriter, r *http.Request) {
	file := p.pages.static[path.Base(r.URL.Path)] // there is one for each route
	h := w.Header()
	h.Set("Content-Type", file.media)
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("ETag", file.etag)
	if file.shared {
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	}
	if strings.Contains(r.Header.Get("If-None-Match"), file.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(file.body)
}
