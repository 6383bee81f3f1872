package provider_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// logbook keeps everything a server logs, at every level.
type logbook struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (l *logbook) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.Write(line)
}

func (l *logbook) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug - 8, AddSource: true}))
}

func (l *logbook) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.String()
}

func (l *logbook) wantWithout(t *testing.T, what, secret string) {
	t.Helper()
	if secret == "" {
		t.Errorf("there is no %s to look for", what)
	} else if strings.Contains(l.text(), secret) {
		t.Errorf("the %s stands in the log: %s", what, l.text())
	}
}

// rows are the audit rows of one session, oldest first.
func rows(t *testing.T, s *providertest.Server, id storage.QRID) []storage.AuditEvent {
	t.Helper()
	all, _, err := s.Store.Events(context.WithoutCancel(t.Context()), nil, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(e storage.AuditEvent) bool { return e.QRSession != id.Hash() })
}

func rowTypes(t *testing.T, s *providertest.Server, c *consumption) []string {
	t.Helper()
	var types []string
	for _, e := range rows(t, s, c.id) {
		types = append(types, e.Type)
	}
	return types
}

// TestAuditHasOneRowPerMove plays whole flows and reads their rows (invariant I12).
func TestAuditHasOneRowPerMove(t *testing.T) {
	t.Parallel()
	const opened, scan, approved, redeemed = storage.EventQROpened, storage.EventQRScanned, storage.EventQRApproved, storage.EventQRRedeemed
	for name, row := range map[string]struct {
		client string
		play   func(t *testing.T, s *providertest.Server, c *consumption, p *phone)
		want   []string
	}{
		"a whole login, every call twice": {"cli", func(t *testing.T, _ *providertest.Server, c *consumption, p *phone) {
			t.Helper()
			c.claim(p)
			scan, code := c.claim(p)
			p.decide(scan, "approve", code)
			p.decide(scan, "approve", code)
			tokensOf(t, c.poll(t.Context()))
			wantError(t, c.poll(t.Context()), http.StatusBadRequest, "invalid_grant")
			wantError(t, c.cancel(t.Context()), http.StatusConflict, "already_redeemed")
			p.decide(scan, "approve", code)
		}, []string{opened, scan, approved, redeemed}},
		"the device grant": {"tv", func(t *testing.T, _ *providertest.Server, c *consumption, p *phone) {
			t.Helper()
			c.approve(p)
			tokensOf(t, c.poll(t.Context()))
		}, []string{opened, scan, approved, redeemed}},
		"a denial, twice": {"cli", func(t *testing.T, _ *providertest.Server, c *consumption, p *phone) {
			t.Helper()
			scan, _ := c.claim(p)
			p.decide(scan, "deny", "")
			p.decide(scan, "deny", "")
			wantError(t, c.poll(t.Context()), http.StatusBadRequest, "access_denied")
		}, []string{opened, scan, storage.EventQRDenied}},
		"a report, twice": {"cli", func(t *testing.T, _ *providertest.Server, c *consumption, p *phone) {
			t.Helper()
			scan, _ := c.claim(p)
			p.decide(scan, "report", "")
			p.decide(scan, "report", "")
			p.decide(scan, "deny", "")
		}, []string{opened, scan, storage.EventQRReported}},
		"a report after a denial": {"cli", func(t *testing.T, _ *providertest.Server, c *consumption, p *phone) {
			t.Helper()
			scan, _ := c.claim(p)
			p.decide(scan, "deny", "")
			p.decide(scan, "report", "")
		}, []string{opened, scan, storage.EventQRDenied, storage.EventQRReported}},
		"a denial after the approval": {"cli", func(t *testing.T, _ *providertest.Server, c *consumption, p *phone) {
			t.Helper()
			scan, _ := c.approve(p)
			p.decide(scan, "deny", "")
			p.decide(scan, "approve", "42")
		}, []string{opened, scan, approved, storage.EventQRDenied}},
		"three wrong codes": {"cli", func(t *testing.T, _ *providertest.Server, c *consumption, p *phone) {
			t.Helper()
			scan, code := c.claim(p)
			for range 4 {
				p.decide(scan, "approve", wrongCode(code))
			}
			p.decide(scan, "approve", "1") // malformed: no try
		}, []string{opened, scan, storage.EventQRCodeFailed, storage.EventQRCodeFailed, storage.EventQRCodeFailed}},
		"a cancellation, twice": {"cli", func(t *testing.T, _ *providertest.Server, c *consumption, p *phone) {
			t.Helper()
			c.cancel(t.Context())
			c.cancel(t.Context())
			p.scan(payload(c.opened), "scanner")
		}, []string{opened, storage.EventQRCancelled}},
		"five wrong verifiers": {"tv", func(t *testing.T, _ *providertest.Server, c *consumption, _ *phone) {
			t.Helper()
			failVerifier(t, c, 7)
		}, slices.Concat([]string{opened}, slices.Repeat([]string{storage.EventQRBindingFailed}, 5))},
		"an expiry, swept twice": {"cli", func(t *testing.T, s *providertest.Server, c *consumption, p *phone) {
			t.Helper()
			c.claim(p)
			s.Clock.Advance(10 * time.Minute)
			for range 2 {
				if _, err := s.Provider.Sweep(t.Context()); err != nil {
					t.Error(err)
				}
			}
			wantError(t, c.poll(t.Context()), http.StatusBadRequest, "expired_token")
		}, []string{opened, scan, storage.EventQRExpired}},
		"a person gone before the redemption": {"cli", func(t *testing.T, s *providertest.Server, c *consumption, p *phone) {
			t.Helper()
			c.approve(p)
			alice := providertest.Alice()
			alice.Disabled = true
			if err := s.Store.PutUser(t.Context(), alice); err != nil {
				t.Error(err)
			}
			wantError(t, c.poll(t.Context()), http.StatusBadRequest, "access_denied")
			wantError(t, c.poll(t.Context()), http.StatusBadRequest, "access_denied")
		}, []string{opened, scan, approved, storage.EventQRRevoked}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{Change: roomy})
			p, c := newPhone(t, s), openQR(t, s, row.client, nil)
			row.play(t, s, c, p)
			if diff := cmp.Diff(row.want, rowTypes(t, s, c)); diff != "" {
				t.Error(diff)
			}
			for _, e := range rows(t, s, c.id) {
				if e.ClientID != row.client || e.Type != opened && e.Type != storage.EventQRCancelled && e.Type != storage.EventQRBindingFailed && e.Subject != providertest.AliceSubject {
					t.Errorf("a row without its ids: %+v", e)
				}
			}
		})
	}
}

// TestThreatT28NoSecretIsKept plays a login with everything that goes wrong on the way, then
// looks for every secret in the log, the audit rows and the database file.
func TestThreatT28NoSecretIsKept(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "canary.db")
	store, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	logged := &logbook{}
	s := providertest.NewServer(t, providertest.Options{Store: store, Logger: logged.logger(), Change: roomy})
	secrets := playCanaries(t, s)
	if !strings.Contains(logged.text(), "error page shown") {
		t.Error("nothing was logged: the search proves nothing")
	}
	for what, secret := range secrets {
		logged.wantWithout(t, what, secret)
	}
	logged.wantWithout(t, "word for the check code", "check_code")
	audit, _, err := store.Events(t.Context(), nil, 1<<20)
	if err != nil || len(audit) == 0 {
		t.Fatalf("%d audit rows: %v", len(audit), err)
	}
	trail, err := json.Marshal(audit)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(file, []byte(providertest.AliceSubject)) {
		t.Error("the file does not hold what it should: the search proves nothing")
	}
	for what, secret := range secrets {
		if bytes.Contains(file, []byte(secret)) {
			t.Errorf("the %s stands in the database file", what)
		}
		if bytes.Contains(trail, []byte(secret)) {
			t.Errorf("the %s stands in the audit trail", what)
		}
	}
}

// playCanaries runs logins and failures and returns every secret they used.
func playCanaries(t *testing.T, s *providertest.Server) map[string]string {
	t.Helper()
	ctx, browser := t.Context(), s.Browser()
	verifier, challenge := providertest.Verifier()
	redirect := s.Code(ctx, browser, providertest.AuthorizeQuery("phone", "openid offline_access "+qr.ApproveScope, challenge))
	app := tokensOf(t, s.Redeem(ctx, "phone", redirect, verifier))
	p := &phone{t: t, s: s, token: app.AccessToken}
	secrets := map[string]string{
		"password": providertest.AlicePassword, "client secret": providertest.ClientSecret, "app's verifier": verifier,
		"authorization code": redirect.Location().Query().Get("code"), "app's access token": app.AccessToken,
		"app's refresh token": app.RefreshToken, "app's ID token": app.IDToken,
	}
	issuer, err := url.Parse(s.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	for _, cookie := range browser.Jar.Cookies(issuer) {
		secrets["cookie "+cookie.Name] = cookie.Value
	}
	for _, client := range []string{"cli", "tv"} {
		c := openQR(t, s, client, url.Values{"scope": {"openid offline_access"}})
		failVerifier(t, c, 1)
		scan, code := c.claim(p)
		p.decide(scan, "approve", wrongCode(code))
		again := scan
		if client == "cli" {
			if again = p.scan(payload(c.opened), "scanner"); again.Status != http.StatusOK {
				t.Fatalf("second scan: %d %s", again.Status, again.Body)
			}
			p.decide(again, "approve", code)
		}
		tokens := tokensOf(t, c.poll(ctx))
		next := tokensOf(t, refreshed(t, s, client, tokens.RefreshToken))
		for what, secret := range map[string]string{
			"device_code": c.deviceCode(), "secret of the device_code": string(secretHalf(t, c.deviceCode())),
			"user_code": c.userCode(), "user_code without dash": strings.ReplaceAll(c.userCode(), "-", ""),
			"first handle": scan.Text("confirm_handle"), "secret of the first handle": string(secretHalf(t, scan.Text("confirm_handle"))),
			"second handle": again.Text("confirm_handle"), "secret of the second handle": string(secretHalf(t, again.Text("confirm_handle"))),
			"digest": scan.Text("context_digest"), "access token": tokens.AccessToken, "refresh token": tokens.RefreshToken,
			"secret of the access token": string(tokenBytes(t, tokens.AccessToken)), "ID token": tokens.IDToken,
			"next access token": next.AccessToken, "next refresh token": next.RefreshToken,
		} {
			secrets[client+"'s "+what] = secret
		}
		if client == "cli" {
			secrets["verifier"] = c.verifier
		}
		c.poll(ctx) // used or a replay
		refreshed(t, s, client, tokens.RefreshToken)
	}
	// Faults that end in a log line, with secrets wherever a careless one would look.
	page := s.Get(ctx, browser, "/device")
	secrets["form token"] = page.Hidden("csrf")
	leak := url.Values{"csrf": {"wrong"}, "login": {"alice"}, "password": {providertest.AlicePassword}, "next": {secrets["cli's device_code"]}, "user_code": {secrets["cli's user_code"]}}
	for _, path := range []string{"/login", "/device", "/consent", "/logout"} {
		s.Post(ctx, browser, path+"?token="+app.RefreshToken, leak)
		s.Post(ctx, s.Client(), path, leak)
	}
	s.Get(ctx, browser, "/authorize?client_id="+app.RefreshToken)
	s.Post(ctx, s.Client(), "/revoke", url.Values{"token": {app.RefreshToken}, "client_id": {"phone"}})
	return secrets
}

func tokenBytes(t *testing.T, token string) []byte {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(token[len("qrg_at_"):])
	if err != nil || len(raw) != 32 {
		t.Fatalf("token of %d bytes: %v", len(raw), err)
	}
	return raw
}
