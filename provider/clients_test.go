package provider_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// The tests in the files clients_*_test.go run client libraries as they are published against
// a real provider on a bolt file. The libraries wait for real: minutes between the polls of one
// login. In a synctest bubble that time is fake, passes as soon as everybody waits, and is
// exact, so that a test can say when every single poll came and what it was answered.

// bubble is a provider inside a synctest bubble, on time.Now, and what it was polled.
type bubble struct {
	issuer string
	// http reaches the provider over the listener in memory.
	http     *http.Client
	provider *provider.Provider
	t        *testing.T

	mu     sync.Mutex
	opened time.Time
	polls  []poll
}

// poll is one poll that the provider answered.
type poll struct {
	// At is how long after the opening of the session it came.
	At time.Duration
	// Auth is how the client authenticated: header or form.
	Auth string
	// Answer is the error code, or tokens.
	Answer string
}

// inBubble runs test against a provider of its own inside a bubble.
func inBubble(t *testing.T, test func(b *bubble)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(newBubble(t)) })
}

func newBubble(t *testing.T) *bubble {
	t.Helper()
	store, err := bolt.Open(filepath.Join(t.TempDir(), "test.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	listener := newPipeListener()
	b := &bubble{issuer: "http://" + listener.Addr().String(), t: t}
	b.seed(store)
	b.provider, err = provider.New(t.Context(), provider.Config{Issuer: b.issuer, Store: store, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: b, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	transport := &http.Transport{DialContext: listener.dial}
	b.http = &http.Client{Transport: transport}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := b.provider.Close(); err != nil {
			t.Error(err)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// seed stores the clients of providertest and, beside them, what it has of each door only once:
// confidential consumption devices, and RS256 and EdDSA at both of their grants.
func (b *bubble) seed(store storage.Store) {
	b.t.Helper()
	ctx := b.t.Context()
	clients := providertest.Clients()
	confidential := clients[slices.IndexFunc(clients, func(c *storage.Client) bool { return c.ID == "web" })].SecretHashes
	for _, id := range []string{"tv", "cli"} {
		public := *clients[slices.IndexFunc(clients, func(c *storage.Client) bool { return c.ID == id })]
		boxed, rsa, ed := public, public, public
		boxed.ID, boxed.SecretHashes = id+"-confidential", confidential
		rsa.ID, rsa.IDTokenAlg = id+"-rs256", "RS256"
		ed.ID, ed.IDTokenAlg = id+"-eddsa", "EdDSA"
		clients = append(clients, &boxed, &rsa, &ed)
	}
	// Its userinfo is signed too, which go-oidc checks.
	ed := *clients[slices.IndexFunc(clients, func(c *storage.Client) bool { return c.ID == "web" })]
	ed.ID, ed.IDTokenAlg, ed.UserinfoAlg = "web-eddsa", "EdDSA", "EdDSA"
	clients = append(clients, &ed)
	for _, c := range clients {
		if err := store.PutClient(ctx, c); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := store.PutUser(ctx, providertest.Alice()); err != nil {
		b.t.Fatal(err)
	}
	// A ready key: making one costs a second of real time per bubble.
	der, err := os.ReadFile(filepath.Join("providertest", "testkey.der"))
	if err != nil {
		b.t.Fatal(err)
	}
	key := &storage.Key{ID: "test-rs256", Use: storage.KeySigning, Algorithm: "RS256", Secret: der, CreatedAt: time.Now()}
	if err := store.PutKey(ctx, key); err != nil {
		b.t.Fatal(err)
	}
}

// ServeHTTP lets the provider answer and notes the openings and the polls.
func (b *bubble) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		b.t.Error(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	b.provider.ServeHTTP(answer, r)
	b.note(arrived, r, body, answer)
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

func (b *bubble) note(arrived time.Time, r *http.Request, body []byte, answer *httptest.ResponseRecorder) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.URL.Path == "/device_authorization" {
		b.opened = arrived
		return
	}
	form, _ := url.ParseQuery(string(body))
	if r.URL.Path != "/token" || !form.Has("device_code") {
		return
	}
	p := poll{At: arrived.Sub(b.opened), Auth: "form", Answer: "tokens"}
	if r.Header.Get("Authorization") != "" {
		p.Auth = "header"
	}
	if answer.Code != http.StatusOK {
		var refusal struct {
			Error string `json:"error"`
		}
		if err := json.Unmarshal(answer.Body.Bytes(), &refusal); err != nil {
			b.t.Errorf("poll answered %d %q", answer.Code, answer.Body)
		}
		p.Answer = refusal.Error
	}
	b.polls = append(b.polls, p)
}

// polled returns every poll so far, in the order of the answers.
func (b *bubble) polled() []poll {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.polls)
}

// context carries the transport to x/oauth2 and go-oidc.
func (b *bubble) context() context.Context { return oidc.ClientContext(b.t.Context(), b.http) }

// discover is what go-oidc finds at the issuer.
func (b *bubble) discover() *oidc.Provider {
	b.t.Helper()
	op, err := oidc.NewProvider(b.context(), b.issuer)
	if err != nil {
		b.t.Fatal(err)
	}
	return op
}

// config is the configuration of a seeded client, from discovery.
func (b *bubble) config(clientID string, style oauth2.AuthStyle, scopes ...string) *oauth2.Config {
	b.t.Helper()
	config := &oauth2.Config{ClientID: clientID, Endpoint: b.discover().Endpoint(), Scopes: append([]string{"openid"}, scopes...)}
	config.Endpoint.AuthStyle = style
	switch {
	case clientID == "phone":
		config.RedirectURL = providertest.AppRedirectURI
	case strings.HasPrefix(clientID, "web") || clientID == "thirdparty":
		config.ClientSecret, config.RedirectURL = providertest.ClientSecret, providertest.RedirectURI
	case clientID == "kiosk" || strings.HasSuffix(clientID, "-confidential"):
		config.ClientSecret = providertest.ClientSecret
	}
	return config
}

// browse sends a request of Alice's browser and reads the answer.
func (b *bubble) browse(browser *http.Client, method, address string, form url.Values) *providertest.Reply {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, address, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := browser.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return &providertest.Reply{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}
}

// signIn runs the authorization code flow with PKCE for Alice in a fresh browser.
func (b *bubble) signIn(config *oauth2.Config, options ...oauth2.AuthCodeOption) *oauth2.Token {
	b.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	browser := &http.Client{Transport: b.http.Transport, Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	verifier := oauth2.GenerateVerifier()
	options = append(options, oauth2.S256ChallengeOption(verifier))
	page := b.browse(browser, http.MethodGet, config.AuthCodeURL("a-state", options...), nil)
	page = b.browse(browser, http.MethodPost, b.issuer+"/login", url.Values{
		"csrf": {page.Hidden("csrf")}, "next": {page.Hidden("next")},
		"login": {providertest.AliceLogin}, "password": {providertest.AlicePassword},
	})
	if request := page.Hidden("request"); request != "" {
		page = b.browse(browser, http.MethodPost, b.issuer+"/consent", url.Values{
			"csrf": {page.Hidden("csrf")}, "request": {request}, "decision": {"allow"},
		})
	}
	answer := page.Location().Query()
	if answer.Get("state") != "a-state" || answer.Get("iss") != b.issuer {
		b.t.Fatalf("redirect %q, page %d %s", page.Header.Get("Location"), page.Status, page.Body)
	}
	token, err := config.Exchange(b.context(), answer.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		b.t.Fatal(err)
	}
	return token
}

// alicesPhone is a phone that acts while a client polls, so it reports and never stops the test.
type alicesPhone struct {
	b      *bubble
	client *http.Client
	seen   qr.ScanAnswer
}

// phone signs Alice in to the phone app.
func (b *bubble) phone() *alicesPhone {
	b.t.Helper()
	token := b.signIn(b.config("phone", oauth2.AuthStyleInParams, qr.ApproveScope))
	return &alicesPhone{b: b, client: oauth2.NewClient(b.context(), oauth2.StaticTokenSource(token))}
}

func (p *alicesPhone) call(path string, body map[string]string, answer any) {
	encoded, err := json.Marshal(body)
	if err != nil {
		p.b.t.Error(err)
		return
	}
	req, err := http.NewRequestWithContext(p.b.t.Context(), http.MethodPost, p.b.issuer+path, bytes.NewReader(encoded))
	if err != nil {
		p.b.t.Error(err)
		return
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.client.Do(req)
	if err != nil {
		p.b.t.Error(err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(text, answer)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		p.b.t.Errorf("%s answered %d %s: %v", path, resp.StatusCode, text, err)
	}
}

// scan claims the session.
func (p *alicesPhone) scan(payload string) {
	p.seen = qr.ScanAnswer{}
	p.call("/qr/scan", map[string]string{"payload": payload, "entry": "scanner"}, &p.seen)
}

// decide answers what was scanned; code is what the screen shows, when it is asked for.
func (p *alicesPhone) decide(decision, code string) {
	body := map[string]string{"confirm_handle": p.seen.ConfirmHandle, "decision": decision, "context_digest": p.seen.ContextDigest}
	switch {
	case p.seen.CheckCodeRequired:
		body["check_code"] = code
	case p.seen.UserCodeRequired:
		body["user_code"] = code
	}
	var answer qr.DecisionAnswer
	p.call("/qr/decision", body, &answer)
	want := map[string]string{"approve": "approved", "deny": "denied"}[decision]
	if answer.State != want {
		p.b.t.Errorf("decision %s led to %q", decision, answer.State)
	}
}

// answer scans after the first delay and decides after the second, beside the test.
func (p *alicesPhone) answer(scan, decide time.Duration, payload, code, decision string) {
	go func() {
		time.Sleep(scan)
		p.scan(payload)
		time.Sleep(decide - scan)
		p.decide(decision, code)
	}()
}

// verified checks a token answer with go-oidc as an application would, and more: the ID token
// of this client under this algorithm, its nonce, its at_hash, and the person at userinfo.
func (b *bubble) verified(token *oauth2.Token, clientID, alg, nonce string) *oidc.IDToken {
	b.t.Helper()
	op := b.discover()
	raw, _ := token.Extra("id_token").(string)
	idToken, err := op.Verifier(&oidc.Config{ClientID: clientID, Now: time.Now, SupportedSigningAlgs: []string{alg}}).Verify(b.context(), raw)
	if err != nil {
		b.t.Fatalf("ID token of %s: %v", clientID, err)
	}
	if err := idToken.VerifyAccessToken(token.AccessToken); err != nil {
		b.t.Errorf("at_hash: %v", err)
	}
	if err := idToken.VerifyAccessToken(token.AccessToken + "x"); err == nil {
		b.t.Error("at_hash fits another access token")
	}
	if idToken.Nonce != nonce || idToken.Subject != providertest.AliceSubject {
		b.t.Errorf("nonce %q, subject %q", idToken.Nonce, idToken.Subject)
	}
	info, err := op.UserInfo(b.context(), oauth2.StaticTokenSource(token))
	if err != nil {
		b.t.Fatalf("userinfo: %v", err)
	}
	if info.Subject != idToken.Subject {
		b.t.Errorf("userinfo is about %q", info.Subject)
	}
	return idToken
}

func styleName(style oauth2.AuthStyle) string {
	return map[oauth2.AuthStyle]string{
		oauth2.AuthStyleAutoDetect: "style unset", oauth2.AuthStyleInHeader: "style header", oauth2.AuthStyleInParams: "style params",
	}[style]
}

// pollsOf is what a client with this style sends when it polls at a time: an unset style is
// tried both ways unless the first brings the tokens.
func pollsOf(style oauth2.AuthStyle, at, roundTrip time.Duration, answer string) []poll {
	switch {
	case style == oauth2.AuthStyleInHeader, style == oauth2.AuthStyleAutoDetect && answer == "tokens":
		return []poll{{at, "header", answer}}
	case style == oauth2.AuthStyleInParams:
		return []poll{{at, "form", answer}}
	}
	return []poll{{at, "header", answer}, {at + roundTrip, "form", answer}}
}
