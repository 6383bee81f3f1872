package providertest

import (
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"

	"github.com/qrgrant/qrgrant/provider"
)

// Documents serves what clients publish, over TLS on loopback: the keys at a jwks_uri, request
// objects, lists of a sector, metadata documents. Its methods may be used by many goroutines.
type Documents struct {
	// URL is the address of the server, without a slash at its end.
	URL string

	tb   testing.TB
	cert *x509.Certificate

	mu    sync.Mutex
	files map[string]file
	reads map[string]int
}

type file struct{ media, body string }

// NewDocuments serves until the test ends. It knows no document yet and answers 404.
func NewDocuments(tb testing.TB) *Documents {
	tb.Helper()
	d := &Documents{tb: tb, files: make(map[string]file), reads: make(map[string]int)}
	s := httptest.NewTLSServer(d)
	tb.Cleanup(s.Close)
	d.URL, d.cert = s.URL, s.Certificate()
	return d
}

// ServeHTTP implements http.Handler.
func (d *Documents) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	f, found := d.files[r.URL.Path]
	d.reads[r.URL.Path]++
	d.mu.Unlock()
	if !found {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", f.media)
	_, _ = w.Write([]byte(f.body))
}

// Put serves a document of a media type at a path and returns its address. One that was there is
// replaced.
func (d *Documents) Put(path, media, body string) (address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files[path] = file{media, body}
	return d.URL + path
}

// PutJSON is Put for a value in JSON.
func (d *Documents) PutJSON(path string, v any) (address string) {
	d.tb.Helper()
	body, err := json.Marshal(v)
	must(d.tb, err)
	return d.Put(path, "application/json", string(body))
}

// Reads returns how often a path was asked for.
func (d *Documents) Reads(path string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reads[path]
}

// Reachable lets a provider read the documents. It is an Options.Change.
func (d *Documents) Reachable(c *provider.Config) {
	c.FetchNetworks = append(c.FetchNetworks, netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	if c.FetchRoots == nil {
		c.FetchRoots = x509.NewCertPool()
	}
	c.FetchRoots.AddCert(d.cert)
}
