package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/load"
	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/player"
	"github.com/qrgrant/qrgrant/provider"
)

// benchSignIn is how old an approver's access token may get; it lives ten minutes.
const benchSignIn = 4 * time.Minute

// benchSource is where subjects come from: the running server, or a database from which a
// fresh one is started each time, so that no measurement pays for the one before.
type benchSource struct {
	flags *benchFlags
	// dir holds what was written for this run; empty with --addr.
	dir      string
	password string
	made     int
}

// benchSubject is a server that is measured.
type benchSubject struct {
	target load.Target
	// pid is zero when it is not known.
	pid       int
	es, rs    *load.Flow
	approvers []*player.Approver
	signedIn  time.Time
	child     *benchChild
}

func newBenchSource(ctx context.Context, f *benchFlags) (*benchSource, error) {
	if !f.self {
		if _, err := load.NewTarget(f.addr); err != nil {
			return nil, usagef("--addr: %v", err)
		}
		password, err := readSecret("--password-file", f.passwordFile)
		return &benchSource{flags: f, password: password}, err
	}
	dir, err := os.MkdirTemp(f.dir, "qrgrant-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	s := &benchSource{flags: f, dir: dir, password: rand.Text()}
	if err := s.seed(ctx); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

// seed writes the configuration, and a database that has the keys already.
func (s *benchSource) seed(ctx context.Context) error {
	hash, err := provider.HashPassword(s.password)
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.config(), []byte(benchConfig(hash, s.flags.people)), 0o600); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	child, err := startChild(ctx, "bench-server", "--db", s.database(0), "--config", s.config())
	if err != nil {
		return err
	}
	// Its orderly end waits for the RSA key.
	return errors.Join(child.ready(ctx), child.stop())
}

func (s *benchSource) config() string { return filepath.Join(s.dir, "bench.yaml") }

func (s *benchSource) database(n int) string {
	return filepath.Join(s.dir, "bench-"+strconv.Itoa(n)+".db")
}

// benchConfig is the configuration of a measured server, with the same password for everybody.
// It holds the hash: hashing at the start would be in the start time and in the memory.
func benchConfig(hash string, people int) string {
	var text strings.Builder
	text.WriteString("clients:\n")
	for _, alg := range []string{"ES256", "RS256"} {
		fmt.Fprintf(&text, "  - {id: bench-%s, name: Bench %s, grant_types: [qr_code], id_token_alg: %s,\n"+
			"     scopes: [openid, profile], qr: {enabled: true, allowed_scopes: [openid, profile]}}\n", alg, alg, alg)
	}
	fmt.Fprintf(&text, "  - {id: phone, name: Phone app, first_party: true, approver: true, redirect_uris: [%q],\n"+
		"     grant_types: [authorization_code, refresh_token], scopes: [openid, \"qr:approve\"]}\nusers:\n", phoneRedirect)
	for n := range people {
		fmt.Fprintf(&text, "  - {login: bench-%d, subject: bench-%d, password_hash: %q, claims: {name: Bench}}\n", n, n, hash)
	}
	return text.String()
}

func (s *benchSource) remove() error {
	if s.dir == "" {
		return nil
	}
	return os.RemoveAll(s.dir)
}

// fresh returns a subject whose approvers are signed in. The caller stops it.
func (s *benchSource) fresh(ctx context.Context) (subject *benchSubject, err error) {
	if s.flags.self {
		subject, err = s.start(ctx)
	} else {
		subject, err = s.running()
	}
	if err != nil {
		return nil, err
	}
	if err := subject.signIn(ctx); err != nil {
		return nil, errors.Join(err, subject.stop())
	}
	return subject, nil
}

// copied returns a database of its own, with the keys in it.
func (s *benchSource) copied() (string, error) {
	seeded, err := os.ReadFile(s.database(0))
	if err != nil {
		return "", fmt.Errorf("copy the database: %w", err)
	}
	s.made++
	name := s.database(s.made)
	if err := os.WriteFile(name, seeded, 0o600); err != nil { //nolint:gosec // G703: the name was made here
		return "", fmt.Errorf("copy the database: %w", err)
	}
	return name, nil
}

func (s *benchSource) start(ctx context.Context) (*benchSubject, error) {
	database, err := s.copied()
	if err != nil {
		return nil, err
	}
	child, err := startChild(ctx, "bench-server", "--db", database, "--config", s.config())
	if err != nil {
		return nil, err
	}
	subject := &benchSubject{target: child.target, pid: child.pid(), child: child}
	subject.es = load.NewFlow(child.target, "bench-ES256", nil)
	subject.rs = load.NewFlow(child.target, "bench-RS256", nil)
	for n := range s.flags.people {
		subject.approvers = append(subject.approvers, &player.Approver{
			Issuer: "http://" + child.target.Address, ClientID: "phone", RedirectURI: phoneRedirect,
			Login: "bench-" + strconv.Itoa(n), Password: s.password, HTTP: &http.Client{Timeout: benchPatience},
		})
	}
	return subject, nil
}

// running is the server that --addr names.
func (s *benchSource) running() (*benchSubject, error) {
	target, err := load.NewTarget(s.flags.addr)
	if err != nil {
		return nil, usagef("--addr: %v", err)
	}
	subject := &benchSubject{target: target, pid: s.flags.pid, es: load.NewFlow(target, s.flags.clientID, nil)}
	if s.flags.rs256ClientID != "" {
		subject.rs = load.NewFlow(target, s.flags.rs256ClientID, nil)
	}
	subject.approvers = []*player.Approver{{
		Issuer: strings.TrimSuffix(s.flags.addr, "/"), ClientID: s.flags.phone, RedirectURI: phoneRedirect,
		Login: s.flags.user, Password: s.password, HTTP: &http.Client{Timeout: benchPatience},
	}}
	return subject, nil
}

// signIn gives the approvers new access tokens.
func (s *benchSubject) signIn(ctx context.Context) error {
	var bearers []string
	for _, a := range s.approvers {
		if err := a.SignIn(ctx); err != nil {
			return err
		}
		bearers = append(bearers, a.AccessToken())
	}
	s.es.SetBearers(s.target, bearers)
	if s.rs != nil {
		s.rs.SetBearers(s.target, bearers)
	}
	s.signedIn = time.Now()
	return nil
}

// keepSignedIn renews access tokens that will not last much longer.
func (s *benchSubject) keepSignedIn(ctx context.Context) error {
	if time.Since(s.signedIn) < benchSignIn {
		return nil
	}
	return s.signIn(ctx)
}

// stop ends a server that was started, and leaves a running one alone.
func (s *benchSubject) stop() error {
	if s.child == nil {
		return nil
	}
	return s.child.drop()
}

// signedWith refuses to measure another signature than the one it would be called.
func signedWith(idToken, alg string) error {
	head, _, _ := strings.Cut(idToken, ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	var header struct {
		Algorithm string `json:"alg"`
	}
	if err == nil {
		err = json.Unmarshal(raw, &header)
	}
	if err != nil || header.Algorithm != alg {
		return fmt.Errorf("the ID token is signed with %q, not with %s", header.Algorithm, alg)
	}
	return nil
}
