package provider_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
)

// Every static file can be asked for again for nothing, and only the module that relying parties
// import is theirs to load.
func TestStaticFiles(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Path: "/id"})
	for name, media := range map[string]string{
		"qrgrant.js": "text/javascript", "signin.js": "text/javascript", "frame.js": "text/javascript", "submit.js": "text/javascript", "style.css": "text/css",
	} {
		path := "/static/" + name
		reply := s.Get(t.Context(), s.Client(), path)
		h := reply.Header
		if reply.Status != http.StatusOK || len(reply.Body) < 100 || h.Get("Content-Type") != media+"; charset=utf-8" ||
			h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "public, max-age=300" {
			t.Errorf("%s: %d %v", path, reply.Status, h)
		}
		origin, policy := "", ""
		if name == "qrgrant.js" {
			origin, policy = "*", "cross-origin"
		}
		if h.Get("Access-Control-Allow-Origin") != origin || h.Get("Cross-Origin-Resource-Policy") != policy {
			t.Errorf("%s for other origins: %v", path, h)
		}

		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL(path), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("If-None-Match", `"other", `+h.Get("ETag"))
		if again := s.Do(s.Client(), req); again.Status != http.StatusNotModified || again.Body != "" || again.Header.Get("ETag") != h.Get("ETag") {
			t.Errorf("%s again: %d %v", path, again.Status, again.Header)
		}
		req.Header.Set("If-None-Match", `"other"`)
		if other := s.Do(s.Client(), req); other.Status != http.StatusOK || other.Body != reply.Body {
			t.Errorf("%s of another version: %d", path, other.Status)
		}
	}
}

// The module is overridden like every template.
func TestModuleIsOverridable(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) {
		c.Templates = fstest.MapFS{"static/qrgrant.js": {Data: []byte("export const ours = 1;\n")}}
	}})
	if reply := s.Get(t.Context(), s.Client(), "/static/qrgrant.js"); !strings.Contains(reply.Body, "ours") || reply.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("%v %s", reply.Header, reply.Body)
	}
}
