package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

const (
	// readHeaderTimeout bounds the head of a request, readTimeout all of it: bodies are at
	// most 64 KiB.
	readHeaderTimeout = 10 * time.Second
	readTimeout       = 20 * time.Second
	// writeTimeout must outlast a long poll of 25 s.
	writeTimeout   = 40 * time.Second
	idleTimeout    = 120 * time.Second
	maxHeaderBytes = 32 << 10
	// drainTimeout is how long requests under way may take once the server is told to stop.
	drainTimeout = 30 * time.Second
	// sweepEvery paces the removal of what has expired.
	sweepEvery = 30 * time.Second
)

// serverSettings is what serve, dev and demo decide about their server.
type serverSettings struct {
	// issuer is the issuer identifier; empty means http:// and the address listened on.
	issuer         string
	addr, db       string
	trustedProxies []netip.Prefix
	// backchannelNetworks are the private networks in which clients are told of sign-outs.
	backchannelNetworks []netip.Prefix
	// backchannelRoots verify the clients there; nil means the system's.
	backchannelRoots *x509.CertPool
	// limits are those of protocol §9; zero fields are the defaults.
	limits qr.Limits
	config *configFile
	// configFile is where config was read and is read again; nil: it was not. It was looked at
	// before, so that no change in between is missed.
	configFile *watched
	// adminSocket is where the admin socket is made; empty makes none.
	adminSocket string
	// certificate makes the server speak TLS; nil speaks plain HTTP.
	certificate *certificate
	// keySeals are provider.Config.KeySeals.
	keySeals sealKeys
	getenv   func(string) string
	logger   *slog.Logger
}

// server is a provider on a listener, with the store behind it.
type server struct {
	issuer   string
	listener net.Listener
	http     *http.Server
	provider *provider.Provider
	store    storage.Store
	logger   *slog.Logger
	closed   chan struct{}
	settings serverSettings
	// config is the configuration that was taken over last.
	config atomic.Pointer[configFile]
	admin  *adminServer
	// endings end what people have going on.
	endings endings
	// hangup gets SIGHUP from when the server can be talked to.
	hangup chan os.Signal
}

// openServer takes the address first, so that a taken port changes nothing on disk; then the
// database, the configuration and the provider. The caller runs serve, which releases all.
func openServer(ctx context.Context, s serverSettings) (*server, error) {
	listener, err := listen(ctx, s.addr)
	if err != nil {
		return nil, err
	}
	if s.issuer == "" {
		s.issuer = "http://" + listener.Addr().String()
		if s.certificate != nil {
			s.issuer = "https://" + listener.Addr().String()
		}
	}
	store, err := openStore(s.db, s.logger)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	made, err := newServer(ctx, s, listener, store)
	if err != nil {
		return nil, errors.Join(err, store.Close(), listener.Close())
	}
	return made, nil
}

// openProvider checks the configuration, makes the provider and takes the configuration over, in
// this order: a database whose keys cannot be opened is left as it was.
func openProvider(ctx context.Context, s serverSettings, store storage.Store) (*provider.Provider, error) {
	config := provider.Config{
		Issuer: s.issuer, Store: store, TrustedProxies: s.trustedProxies, BackchannelNetworks: s.backchannelNetworks, BackchannelRoots: s.backchannelRoots,
		QRLimits: s.limits, Logger: s.logger, KeySeals: s.keySeals.keys,
	}
	s.config.configure(&config)
	taken, err := s.config.changes(ctx, store, s.getenv)
	if err != nil {
		return nil, err
	}
	handler, err := provider.New(ctx, config)
	switch {
	case errors.Is(err, provider.ErrKeySeal):
		return nil, s.keySeals.fault(s.db)
	case err != nil:
		return nil, err
	}
	if len(s.keySeals.keys) == 0 {
		s.logger.Info("private keys can be sealed in the database with --key-seal-file", "variable", keySealVariable)
	}
	if err = taken.store(ctx, store); err == nil {
		// The configuration may have ended sign-ins.
		handler.TellClients()
		var found strangers
		found, err = s.config.strangers(ctx, store)
		found.warn(s.logger)
	}
	if err != nil {
		return nil, errors.Join(err, handler.Close())
	}
	return handler, nil
}

func newServer(ctx context.Context, s serverSettings, listener net.Listener, store storage.Store) (*server, error) {
	handler, err := openProvider(ctx, s, store)
	if err != nil {
		return nil, err
	}
	made := &server{
		issuer: s.issuer, listener: listener, provider: handler, store: store, logger: s.logger, closed: make(chan struct{}), settings: s,
		endings: servedEndings{storedEndings{store}, handler}, hangup: make(chan os.Signal, 1),
	}
	made.config.Store(s.config)
	if s.adminSocket != "" {
		made.admin, err = listenAdmin(ctx, s.adminSocket, (&admin{store: store, config: made.config.Load, endings: made.endings, logger: s.logger}).handler())
		switch {
		case err == nil:
		case s.adminSocket == adminSocketOf(s.db):
			// Nobody asked for it, and the name of the database may be too long for a socket.
			s.logger.Warn("there is no admin socket; give another name with --admin-socket", "error", err)
		default:
			return nil, errors.Join(err, handler.Close())
		}
	}
	made.http = &http.Server{
		Handler:           made.handler(),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelWarn),
	}
	if s.certificate != nil {
		made.http.TLSConfig = s.certificate.config()
	}
	// net/http runs this once the listener is closed, while Shutdown waits for the requests
	// under way: that is when the held polls must be told to go.
	made.http.RegisterOnShutdown(func() {
		defer close(made.closed)
		if err := handler.Close(); err != nil {
			made.logger.Warn("the provider did not close", "error", err)
		}
	})
	// Before anybody is told that the server is there: a signal that nobody catches ends it.
	signal.Notify(made.hangup, syscall.SIGHUP)
	return made, nil
}

// handler is the provider, and behind plain HTTP the guard in front of it.
func (s *server) handler() http.Handler {
	if s.settings.certificate != nil {
		return s.provider
	}
	return &plainPeers{next: s.provider, trusted: s.settings.trustedProxies, logger: s.logger}
}

// abandon releases a server that never served, the store last: the provider may be writing.
func (s *server) abandon() error {
	signal.Stop(s.hangup)
	return errors.Join(s.listener.Close(), s.admin.close(context.Background()), s.provider.Close(), s.store.Close())
}

// serve answers requests until ctx ends, then drains: no new connections, held polls end,
// requests under way get drainTimeout, the store is closed last.
func (s *server) serve(ctx context.Context) error {
	beside, stopBeside := context.WithCancel(ctx)
	defer signal.Stop(s.hangup)
	var running sync.WaitGroup
	running.Go(func() { s.sweep(beside) })
	running.Go(func() { s.follow(beside, s.hangup) })
	failed := make(chan error, 1)
	go func() {
		if s.http.TLSConfig != nil {
			failed <- s.http.ServeTLS(s.listener, "", "")
			return
		}
		failed <- s.http.Serve(s.listener)
	}()
	var err error
	select {
	case err = <-failed:
		err = fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	limit, stop := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer stop()
	drained := s.http.Shutdown(limit)
	if drained != nil {
		s.logger.Warn("requests were cut off at the end of the drain", "error", drained)
		drained = s.http.Close()
	}
	<-s.closed
	stopBeside()
	running.Wait()
	return errors.Join(err, drained, s.admin.close(limit), s.store.Close())
}

// sweep removes what has expired, from time to time.
func (s *server) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if _, err := s.provider.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.logger.Error("sweep failed", "error", err)
		}
	}
}

// openStore opens the database file and words what can be wrong with it.
func openStore(path string, logger *slog.Logger) (storage.Store, error) {
	store, err := bolt.Open(path, bolt.Options{Logger: logger})
	switch {
	case errors.Is(err, bolt.ErrInUse):
		return nil, fmt.Errorf("%s is in use by another process; stop that one, or choose another file with --db", path)
	case errors.Is(err, bolt.ErrForeign):
		return nil, fmt.Errorf("%s is not a qrgrant database and was left untouched; choose another file with --db", path)
	case errors.Is(err, bolt.ErrCorrupt):
		return nil, fmt.Errorf("%s is damaged and was left untouched; restore it from a backup, or choose another file with --db", path)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the directory of %s does not exist; make it, or choose another file with --db", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("this user may not open %s; choose another file with --db", path)
	case err != nil:
		return nil, fmt.Errorf("cannot open the database, check --db: %w", err)
	}
	return store, nil
}

// isLoopback reports whether addr can only be reached from this machine.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
