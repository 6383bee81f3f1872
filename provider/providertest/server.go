package providertest

import (
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// Options for NewServer. The zero value is an https provider on a bolt file.
type Options struct {
	// HTTP serves plain http on loopback.
	HTTP bool
	// Path is a path of the issuer, such as "/id".
	Path string
	// Store is used instead of a bolt file of the test's own; the caller closes it.
	Store storage.Store
	// Wrap decorates the store before the provider sees it; nil does not.
	Wrap func(storage.Store) storage.Store
	// Clients are seeded beside Clients().
	Clients []*storage.Client
	// Change may change the provider's configuration; nil does not.
	Change func(*provider.Config)
	Logger *slog.Logger
}

// Server is a running provider.
type Server struct {
	// Issuer is the issuer identifier; every endpoint is below it.
	Issuer   string
	Provider *provider.Provider
	Store    storage.Store
	Clock    *Clock
	// HTTP is the listener; HTTP.Client() trusts its certificate.
	HTTP *httptest.Server

	tb testing.TB
}

// NewServer runs a provider until the test ends.
func NewServer(tb testing.TB, o Options) *Server {
	tb.Helper()
	s := &Server{tb: tb, Clock: NewClock(), Store: o.Store}
	if s.Store == nil {
		store, err := bolt.Open(filepath.Join(tb.TempDir(), "test.db"), bolt.Options{})
		must(tb, err)
		tb.Cleanup(func() { must(tb, store.Close()) })
		s.Store = store
	}
	if o.Wrap != nil {
		s.Store = o.Wrap(s.Store)
	}
	seed(tb.Context(), tb, s.Store, o.Clients, s.Clock.Now())

	s.HTTP = httptest.NewUnstartedServer(nil)
	scheme := "https://"
	if o.HTTP {
		scheme = "http://"
	}
	s.Issuer = scheme + s.HTTP.Listener.Addr().String() + o.Path
	config := provider.Config{Issuer: s.Issuer, Store: s.Store, Now: s.Clock.Now, After: s.Clock.After, Logger: o.Logger}
	if o.Change != nil {
		o.Change(&config)
	}
	var err error
	s.Provider, err = provider.New(tb.Context(), config)
	must(tb, err)
	s.HTTP.Config.Handler = s.Provider
	s.HTTP.Config.ReadHeaderTimeout = 10 * time.Second
	// A client that goes away in a handshake is not news.
	s.HTTP.Config.ErrorLog = slog.NewLogLogger(logHandler(o.Logger), slog.LevelError)
	s.start(o.HTTP)
	return s
}

func logHandler(l *slog.Logger) slog.Handler {
	if l == nil {
		return slog.DiscardHandler
	}
	return l.Handler()
}

func (s *Server) start(plain bool) {
	if plain {
		s.HTTP.Start()
	} else {
		s.HTTP.StartTLS()
	}
	s.tb.Cleanup(func() {
		// The provider first: it ends held polls, which the listener would wait for.
		must(s.tb, s.Provider.Close())
		s.HTTP.Close()
	})
}

// Client returns an http.Client without cookies that follows no redirect.
func (s *Server) Client() *http.Client {
	c := *s.HTTP.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// Browser returns an http.Client with cookies of its own that follows no redirect.
func (s *Server) Browser() *http.Client {
	c := s.Client()
	jar, err := cookiejar.New(nil)
	must(s.tb, err)
	c.Jar = jar
	return c
}

// approverScope is what the phone app asks for.
func approverScope() string { return "openid " + qr.ApproveScope }
