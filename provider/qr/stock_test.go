package qr_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"
	memory "github.com/ory/fosite/storage"
	"golang.org/x/oauth2"

	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// stock is the QR grant in a fosite server that knows nothing of this module: fosite's own
// store, strategies, session and error writer.
type stock struct {
	t      *testing.T
	url    string
	store  *memory.MemoryStore
	events chan storage.AuditEvent

	mu  sync.Mutex
	now time.Time
}

func newStock(t *testing.T, change func(*qr.Config)) *stock {
	t.Helper()
	s := &stock{t: t, store: memory.NewMemoryStore(), now: time.Now().UTC().Truncate(time.Second), events: make(chan storage.AuditEvent, 1000)}
	sessions, err := bolt.Open(filepath.Join(t.TempDir(), "sessions.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sessions.Close(); err != nil {
			t.Error(err)
		}
	})
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	s.url = server.URL
	s.store.Clients["desktop"] = &fosite.DefaultClient{
		ID: "desktop", Public: true, GrantTypes: []string{qr.GrantType, "refresh_token"}, Scopes: []string{"openid", "offline_access"},
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	fositeConfig := &fosite.Config{GlobalSecret: make([]byte, 32), IDTokenIssuer: s.url, AccessTokenIssuer: s.url}
	strategy := &compose.CommonStrategy{
		CoreStrategy:               compose.NewOAuth2HMACStrategy(fositeConfig),
		OpenIDConnectTokenStrategy: compose.NewOpenIDConnectStrategy(func(context.Context) (any, error) { return key, nil }, fositeConfig),
	}
	config := qr.Config{
		Issuer: s.url, Store: sessions, Keys: []qr.Key{{ID: "1", Secret: make([]byte, 32)}}, Now: s.clock,
		Authenticate: (&fosite.Fosite{Store: s.store, Config: fositeConfig}).AuthenticateClient,
		Client:       s.store.GetClient,
		Policy: func(context.Context, fosite.Client) qr.Policy {
			return qr.Policy{
				QRPolicy: storage.QRPolicy{Enabled: true, AllowedScopes: []string{"openid", "offline_access"}, OfflineAccess: true},
				MinNonce: fosite.MinParameterEntropy,
			}
		},
		Introspect: func(_ context.Context, token string) (*qr.Bearer, error) {
			if token != "the-phone's-token" {
				return nil, storage.ErrNotFound
			}
			return &qr.Bearer{
				Subject: "alice", ClientID: "app", SessionID: "s1", Approver: true, AuthTime: s.clock(), ACR: "low",
				Scopes: []string{qr.ApproveScope}, Audience: []string{s.url},
			}, nil
		},
		Record: func(_ context.Context, e storage.AuditEvent) { s.events <- e },
	}
	if change != nil {
		change(&config)
	}
	grant, err := qr.New(config)
	if err != nil {
		t.Fatal(err)
	}
	provider := compose.Compose(fositeConfig, s.store, strategy, compose.OAuth2RefreshTokenGrantFactory, compose.OAuth2TokenIntrospectionFactory, grant.Factory)
	mux.HandleFunc("/device_authorization", grant.DeviceAuthorization)
	mux.HandleFunc("/qr/scan", grant.Scan)
	mux.HandleFunc("/qr/decision", grant.Decision)
	mux.HandleFunc("/qr/events", grant.Events)
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		request, err := provider.NewAccessRequest(r.Context(), r, openid.NewDefaultSession())
		if err == nil {
			var response fosite.AccessResponder
			if response, err = provider.NewAccessResponse(r.Context(), request); err == nil {
				provider.WriteAccessResponse(r.Context(), w, request, response)
				return
			}
		}
		if r.Header.Get("Writer") == "fosite" {
			provider.WriteAccessError(r.Context(), w, request, err)
			return
		}
		grant.WriteTokenError(w, r, err)
	})
	mux.HandleFunc("/active", func(w http.ResponseWriter, r *http.Request) {
		if _, _, err := provider.IntrospectToken(r.Context(), r.FormValue("token"), fosite.AccessToken, openid.NewDefaultSession()); err != nil {
			w.WriteHeader(http.StatusGone)
		}
	})
	return s
}

func (s *stock) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *stock) advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

// open opens a session and returns the answer and the form of its polls.
func (s *stock) open(extra url.Values) (map[string]any, url.Values) {
	verifier := oauth2.GenerateVerifier()
	form := url.Values{
		"client_id": {"desktop"}, "scope": {"openid offline_access"}, "code_challenge_method": {"S256"},
		"code_challenge": {oauth2.S256ChallengeFromVerifier(verifier)},
	}
	for name, values := range extra {
		form[name] = values
	}
	opened := post(s.url+"/device_authorization", form)
	code, _ := opened["device_code"].(string)
	return opened, url.Values{"grant_type": {qr.GrantType}, "client_id": {"desktop"}, "device_code": {code}, "code_verifier": {verifier}}
}

// decide scans the frame and decides, with the code that the screen shows.
func (s *stock) decide(opened map[string]any, poll url.Values, verdict string) map[string]any {
	s.t.Helper()
	frame, _ := opened["qr"].(map[string]any)
	scanned := tell(s.url+"/qr/scan", map[string]any{"payload": frame["payload"], "entry": "scanner"})
	screen := post(s.url+"/token", poll)
	return tell(s.url+"/qr/decision", map[string]any{
		"decision": verdict, "confirm_handle": scanned["confirm_handle"],
		"context_digest": scanned["context_digest"], "check_code": screen["check_code"],
	})
}

func (s *stock) active(token string) bool {
	response, err := http.PostForm(s.url+"/active", url.Values{"token": {token}})
	if err != nil {
		s.t.Fatal(err)
	}
	return errors.Join(response.Body.Close()) == nil && response.StatusCode == http.StatusOK
}

func wantError(t *testing.T, answer map[string]any, code string) {
	t.Helper()
	if answer["error"] != code {
		t.Errorf("answer = %v, want %s", answer, code)
	}
}

// In any fosite server: a lost answer costs nothing, a later replay ends the whole family.
func TestStockServerReplay(t *testing.T) {
	t.Parallel()
	s := newStock(t, nil)
	opened, poll := s.open(nil)
	s.decide(opened, poll, "approve")
	tokens := post(s.url+"/token", poll)
	access, _ := tokens["access_token"].(string)
	if !s.active(access) || tokens["refresh_token"] == nil {
		t.Fatalf("tokens = %v", tokens)
	}
	wantError(t, post(s.url+"/token", poll), "invalid_grant")
	if !s.active(access) {
		t.Error("a lost answer revoked the tokens")
	}
	s.advance(11 * time.Second)
	wantError(t, post(s.url+"/token", poll), "invalid_grant")
	if s.active(access) {
		t.Error("the access token outlives a replay")
	}
	refresh, _ := tokens["refresh_token"].(string)
	wantError(t, post(s.url+"/token", url.Values{
		"grant_type": {"refresh_token"}, "client_id": {"desktop"}, "refresh_token": {refresh},
	}), "invalid_grant")
}

func TestStockServerErrors(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		play func(s *stock, opened map[string]any, poll url.Values)
		want string
	}{
		"denied":   {func(s *stock, opened map[string]any, poll url.Values) { s.decide(opened, poll, "deny") }, "access_denied"},
		"reported": {func(s *stock, opened map[string]any, poll url.Values) { s.decide(opened, poll, "report") }, "access_denied"},
		"expired":  {func(s *stock, _ map[string]any, _ url.Values) { s.advance(4 * time.Minute) }, "expired_token"},
		"pending":  {func(*stock, map[string]any, url.Values) {}, "authorization_pending"},
		"too fast": {func(s *stock, _ map[string]any, poll url.Values) {
			post(s.url+"/token", poll)
			s.advance(3 * time.Second)
		}, "slow_down"},
		"approved, then too late": {func(s *stock, opened map[string]any, poll url.Values) {
			s.decide(opened, poll, "approve")
			s.advance(31 * time.Second)
		}, "expired_token"},
		"another verifier": {func(_ *stock, _ map[string]any, poll url.Values) {
			poll.Set("code_verifier", oauth2.GenerateVerifier())
		}, "invalid_grant"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStock(t, nil)
			opened, poll := s.open(nil)
			row.play(s, opened, poll)
			wantError(t, post(s.url+"/token", poll), row.want)
		})
	}
}

// fosite's own error writer writes the right code too, if not the members beside it.
func TestStockServerWithFositesErrorWriter(t *testing.T) {
	t.Parallel()
	s := newStock(t, nil)
	_, poll := s.open(nil)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/token", strings.NewReader(poll.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Writer", "fosite")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("status = %d", response.StatusCode)
	}
	wantError(t, body(response), "authorization_pending")
}

func TestOpeningRefusesAShortNonceInTime(t *testing.T) {
	t.Parallel()
	s := newStock(t, nil)
	for nonce, want := range map[string]any{"": nil, "1234567": "invalid_request", "12345678": nil} {
		if opened, _ := s.open(url.Values{"nonce": {nonce}}); opened["error"] != want {
			t.Errorf("nonce %q: %v", nonce, opened)
		}
	}
}

// A refused caller cannot fill the audit trail, and forgotten sessions do not fill memory.
func TestRefusalsCostOneAuditRow(t *testing.T) {
	t.Parallel()
	s := newStock(t, func(c *qr.Config) { c.Limits.OpensPerMinute = 3 })
	for range 50 {
		s.open(nil)
	}
	if rows := len(s.events); rows != 1 {
		t.Errorf("%d rows for 47 refusals", rows)
	}
}

func TestExpiredSessionsAreForgotten(t *testing.T) {
	t.Parallel()
	if left := qr.OpenAndAbandon(200_000, frameOpened); left > 4096 {
		t.Errorf("%d abandoned sessions are still counted", left)
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	t.Parallel()
	_, err := qr.New(qr.Config{
		Issuer: "https://login.example#", Keys: []qr.Key{{ID: "1", Secret: []byte("short")}, {ID: "1"}},
		Limits: qr.Limits{Scans: -1},
	})
	for _, part := range []string{"Issuer", "Store", "at least 32 bytes", "stands there twice", "Authenticate", "Policy", "Client", "Introspect", "Limits"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not name %s", err, part)
		}
	}
}

func TestKeyPrintsWithoutItsSecret(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	key := qr.Key{ID: "1", Secret: []byte("canary-canary-canary-canary-canary")}
	slog.New(slog.NewTextHandler(&log, nil)).Info("start", "key", key)
	fmt.Fprintf(&log, "%v %+v %s", key, key, key)
	if strings.Contains(log.String(), "canary") || strings.Contains(log.String(), "99 97 110") {
		t.Errorf("a key prints as %s", log.String())
	}
}
