package examples_test

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// front is the address of a server whose connections a test can cut, and which stays when the
// server behind it is another one.
type front struct {
	listener net.Listener

	mu      sync.Mutex
	backend string
	open    map[net.Conn]bool
}

func newFront(t *testing.T) *front {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{listener: listener, open: make(map[net.Conn]bool)}
	t.Cleanup(func() {
		_ = listener.Close()
		f.lead("")
	})
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go f.serve(conn)
		}
	}()
	return f
}

func (f *front) url() string { return "http://" + f.listener.Addr().String() }

// lead leads new connections to the backend, an address, and cuts those there are. Where there
// is none every connection is closed at once.
func (f *front) lead(backend string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.backend = backend
	for conn := range f.open {
		_ = conn.Close()
	}
}

// cut ends every connection there is.
func (f *front) cut() {
	f.mu.Lock()
	backend := f.backend
	f.mu.Unlock()
	f.lead(backend)
}

func (f *front) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	f.mu.Lock()
	backend := f.backend
	f.mu.Unlock()
	if backend == "" {
		return
	}
	behind, err := (&net.Dialer{}).Dial("tcp", backend)
	if err != nil {
		return
	}
	defer func() { _ = behind.Close() }()
	f.mu.Lock()
	stale := f.backend != backend
	f.open[conn] = !stale
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.open, conn)
		f.mu.Unlock()
	}()
	if stale {
		return
	}
	go func() {
		_, _ = io.Copy(behind, conn)
		_ = behind.Close()
	}()
	_, _ = io.Copy(conn, behind)
}

// withholding is a proxy that lets go of an answer when it is whole, as some do, and counts what
// is asked through it.
type withholding struct {
	*httptest.Server
	backend atomic.Pointer[url.URL]

	mu    sync.Mutex
	asked map[string]int
}

func newWithholding(t *testing.T) *withholding {
	t.Helper()
	w := &withholding{asked: make(map[string]int)}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(w.backend.Load())
			r.Out.Host = r.In.Host
			w.mu.Lock()
			w.asked[r.In.URL.Path]++
			w.mu.Unlock()
		},
		ModifyResponse: func(r *http.Response) error {
			body, err := io.ReadAll(r.Body)
			_ = r.Body.Close()
			r.Body = io.NopCloser(bytes.NewReader(body))
			return err
		},
		ErrorHandler: func(rw http.ResponseWriter, _ *http.Request, _ error) { rw.WriteHeader(http.StatusBadGateway) },
	}
	w.Server = httptest.NewServer(proxy)
	t.Cleanup(func() {
		w.CloseClientConnections()
		w.Close()
	})
	return w
}

// lead leads to the backend, an http address.
func (w *withholding) lead(t *testing.T, backend string) {
	t.Helper()
	u, err := url.Parse(backend)
	if err != nil {
		t.Fatal(err)
	}
	w.backend.Store(u)
}

// count is how often a path was asked for.
func (w *withholding) count(path string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[path]
}

// prompt is randomness that sends clients back at once: one byte alone says when.
type prompt struct{}

func (prompt) Read(b []byte) (int, error) {
	if len(b) == 1 {
		b[0] = 0
		return 1, nil
	}
	return rand.Read(b)
}

// openShopBehind runs a shop whose provider is known by the address of a front.
func openShopBehind(t *testing.T, f *front, o providertest.Options) (b *shop, restart func(drained bool)) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "shop.db")
	open := func() *bolt.Store {
		store, err := bolt.Open(file, bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return store
	}
	store := open()
	t.Cleanup(func() { _ = store.Close() })
	o.HTTP, o.Store = true, store
	o.Change = func(c *provider.Config) { c.Rand = prompt{} }
	b = openShopAt(t, f.url(), o, nil)
	f.lead(b.HTTP.Listener.Addr().String())
	// The same file and address, and for all anybody can tell another process.
	return b, func(drained bool) {
		t.Helper()
		if !drained {
			f.lead("") // as when the machine fails
		}
		if err := b.Provider.Close(); err != nil {
			t.Fatal(err)
		}
		f.lead("")
		b.HTTP.Close()
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		store = open()
		clock, clients := b.Clock, b.clients
		b.Server = providertest.NewServer(t, providertest.Options{HTTP: true, Store: store, Clients: clients, Change: func(c *provider.Config) {
			c.Issuer, c.Now, c.After, c.Rand = f.url(), clock.Now, clock.After, prompt{}
		}})
		b.Issuer, b.Clock = f.url(), clock
		f.lead(b.HTTP.Listener.Addr().String())
	}
}
