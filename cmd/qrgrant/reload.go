package main

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// watchEvery paces the look at files that may have changed.
const watchEvery = time.Second

// watched is a file and how it looked last.
type watched struct {
	path string
	seen os.FileInfo
}

func watch(path string) *watched {
	w := &watched{path: path}
	w.seen, _ = os.Stat(path)
	return w
}

// changed reports whether the file is another one than at the last call. A file that is gone
// for a moment, while an editor replaces it, has not changed.
func (w *watched) changed() bool {
	now, err := os.Stat(w.path)
	if err != nil {
		return false
	}
	was := w.seen
	w.seen = now
	return was == nil || now.ModTime() != was.ModTime() || now.Size() != was.Size() || !os.SameFile(now, was)
}

// certificate is the server's own, read again when its files change.
type certificate struct {
	cert, key *watched
	current   atomic.Pointer[tls.Certificate]
}

func openCertificate(cert, key string) (*certificate, error) {
	c := &certificate{cert: watch(cert), key: watch(key)}
	return c, c.load()
}

func (c *certificate) load() error {
	cert, err := readPEM("--tls-cert", c.cert.path, "CERTIFICATE")
	if err != nil {
		return err
	}
	key, err := readPEM("--tls-key", c.key.path, "PRIVATE KEY")
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("the key in %s does not belong to the first certificate in %s, or one of them is damaged", c.key.path, c.cert.path)
	}
	c.current.Store(&pair)
	return nil
}

// readPEM reads a file in which a block of that kind stands, such as EC PRIVATE KEY.
func readPEM(flagName, path, kind string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flagName, err)
	}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, kind) {
			return raw, nil
		}
	}
	return nil, fmt.Errorf("%s: there is no %s in PEM in %s", flagName, strings.ToLower(kind), path)
}

// reload reports whether the files have changed. A pair that does not fit, as while one of
// the two is being replaced, leaves the old one in place.
func (c *certificate) reload() (changed bool, err error) {
	cert, key := c.cert.changed(), c.key.changed()
	if !cert && !key {
		return false, nil
	}
	return true, c.load()
}

func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}

// follow takes over what changes on disk, and the configuration also at every value of hangup,
// until ctx ends. What is wrong is logged, and the server goes on with what it had.
func (s *server) follow(ctx context.Context, hangup <-chan os.Signal) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	file := s.settings.configFile
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			asked = true
		case <-ticker.C:
		}
		if file != nil && (file.changed() || asked) {
			s.reload(ctx)
		}
		if s.settings.certificate == nil {
			continue
		}
		switch changed, err := s.settings.certificate.reload(); {
		case err != nil:
			s.logger.Error("the certificate was not taken over", "error", plain(err))
		case changed:
			s.logger.Info("the certificate was taken over")
		}
	}
}

// reload takes the configuration file over as a start would, all of it or nothing; requests read
// the store as they go.
func (s *server) reload(ctx context.Context) {
	config, err := readConfig(s.settings.configFile.path, s.settings.getenv)
	var made *changes
	if err == nil {
		made, err = config.changes(ctx, s.store, s.settings.getenv)
	}
	if err == nil {
		err = made.apply(ctx, s.store)
	}
	if err != nil {
		s.logger.Error("the configuration was not taken over", "error", plain(err))
		return
	}
	s.config.Store(config)
	if err := made.end(ctx, s.endings); err != nil {
		s.logger.Error("the configuration was taken over, but not all sign-ins that it ends were; lock and unlock the accounts to end them", "error", err)
	}
	found, err := config.strangers(ctx, s.store)
	if err != nil {
		s.logger.Error("the database could not be compared with the configuration", "error", err)
	}
	found.warn(s.logger)
	if keys := s.settings.config.needRestart(config); len(keys) > 0 {
		s.logger.Warn("clients and users were taken over; what else has changed in the configuration needs a restart", "keys", strings.Join(keys, ", "))
	}
	s.logger.Info("the configuration was taken over", "clients", len(config.Clients), "users", len(config.Users))
}
