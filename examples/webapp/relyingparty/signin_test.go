package relyingparty_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/examples/webapp/relyingparty"
)

// site is the application, a provider of its own, and one browser.
type site struct {
	t        *testing.T
	key      *ecdsa.PrivateKey
	app      *httptest.Server
	provider string
	browser  *http.Client
	// nonce is what the last sign-in asked for; sid is what the next one gets.
	nonce, sid string
}

func newSite(t *testing.T) *site {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, key: key, sid: "s"}
	mux := http.NewServeMux()
	provider := httptest.NewServer(mux)
	t.Cleanup(provider.Close)
	s.provider = provider.URL
	answer := func(path string, document func() any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(document()) // a caller that is gone needs none
		})
	}
	answer("/.well-known/openid-configuration", func() any {
		return map[string]any{
			"issuer": s.provider, "authorization_endpoint": s.provider + "/authorize", "token_endpoint": s.provider + "/token", "jwks_uri": s.provider + "/jwks",
			"userinfo_endpoint": s.provider + "/userinfo", "id_token_signing_alg_values_supported": []string{"ES256"}, "authorization_response_iss_parameter_supported": true,
		}
	})
	answer("/jwks", func() any {
		return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}}
	})
	answer("/userinfo", func() any { return map[string]any{"sub": "alice", "name": "Alice"} })
	answer("/token", func() any {
		return map[string]any{"access_token": "a", "token_type": "Bearer", "id_token": s.token(map[string]any{"nonce": s.nonce, "sid": s.sid})}
	})
	app := &relyingparty.App{Issuer: s.provider, ClientID: "webapp", ClientSecret: "secret"}
	s.app = httptest.NewServer(app.Handler())
	t.Cleanup(s.app.Close)
	app.URL = s.app.URL
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.browser = &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return s
}

// token is one that the provider signs, with the claims that every one has.
func (s *site) token(claims map[string]any) string {
	for name, value := range map[string]any{"iss": s.provider, "aud": "webapp", "sub": "alice", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()} {
		claims[name] = value
	}
	return signed(s.t, s.key, claims)
}

func (s *site) do(method, path string, form url.Values) *http.Response {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.app.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := s.browser.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp
}

// ask begins a sign-in and returns the answer that the provider would give.
func (s *site) ask() url.Values {
	s.t.Helper()
	at, err := s.do(http.MethodGet, "/login", nil).Location()
	if err != nil {
		s.t.Fatal(err)
	}
	s.nonce = at.Query().Get("nonce")
	return url.Values{"code": {"c"}, "state": {at.Query().Get("state")}, "iss": {s.provider}}
}

// signIn signs Alice in and returns the cookie of her session.
func (s *site) signIn() string {
	s.t.Helper()
	if resp := s.do(http.MethodGet, "/callback?"+s.ask().Encode(), nil); resp.StatusCode != http.StatusSeeOther {
		s.t.Fatalf("sign-in: %s", resp.Status)
	}
	return s.cookie()
}

func (s *site) cookie() string {
	s.t.Helper()
	at, err := url.Parse(s.app.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range s.browser.Jar.Cookies(at) {
		if c.Name == "webapp" {
			return c.Value
		}
	}
	return ""
}

// known reports whether a session's cookie is good for anything.
func (s *site) known(cookie string) bool {
	s.t.Helper()
	req := httptest.NewRequestWithContext(s.t.Context(), http.MethodGet, "/", nil)
	req.AddCookie(&http.Cookie{Name: "webapp", Value: cookie})
	w := httptest.NewRecorder()
	s.app.Config.Handler.ServeHTTP(w, req)
	return strings.Contains(w.Body.String(), "signed in as <strong>Alice</strong>")
}

// An answer that another provider could have sent is no answer (RFC 9207).
func TestCallbackDemandsTheIssuer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for name, change := range map[string]func(url.Values){
		"no iss":           func(q url.Values) { q.Del("iss") },
		"another iss":      func(q url.Values) { q.Set("iss", "https://other.example") },
		"iss with a slash": func(q url.Values) { q.Set("iss", s.provider+"/") },
		"another state":    func(q url.Values) { q.Set("state", "x") },
		"no state":         func(q url.Values) { q.Del("state") },
		"a refusal":        func(q url.Values) { q.Set("error", "access_denied") },
		"another nonce":    func(url.Values) { s.nonce = "x" },
	} {
		answer := s.ask()
		change(answer)
		if resp := s.do(http.MethodGet, "/callback?"+answer.Encode(), nil); resp.StatusCode != http.StatusBadRequest || s.cookie() != "" {
			t.Errorf("%s: %s, cookie %q", name, resp.Status, s.cookie())
		}
	}
	if !s.known(s.signIn()) {
		t.Error("a good answer does not sign in")
	}
}

// A sign-in never goes on in the session of an earlier one, and its answer is good once.
func TestEverySignInHasASessionOfItsOwn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first := s.signIn()
	answer := s.ask()
	if resp := s.do(http.MethodGet, "/callback?"+answer.Encode(), nil); resp.StatusCode != http.StatusSeeOther {
		t.Fatal(resp.Status)
	}
	second := s.cookie()
	if second == first || s.known(first) || !s.known(second) {
		t.Errorf("cookies %q, then %q; known %t and %t", first, second, s.known(first), s.known(second))
	}
	if again := s.do(http.MethodGet, "/callback?"+answer.Encode(), nil); again.StatusCode != http.StatusBadRequest {
		t.Errorf("the same answer again: %s", again.Status)
	}
	s.do(http.MethodPost, "/logout", url.Values{})
	if s.known(second) {
		t.Error("signing out leaves the session")
	}
}

// A logout token ends what it may once: kept by somebody, it ends no later sign-in.
func TestALogoutTokenIsNotReplayed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	logout := func(jti string, claims map[string]any) string {
		claims["jti"], claims["events"] = jti, map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}
		return s.token(claims)
	}
	tell := func(token string) int {
		return s.do(http.MethodPost, "/backchannel-logout", url.Values{"logout_token": {token}}).StatusCode
	}
	first, token := s.signIn(), logout("1", map[string]any{"sid": "s"})
	if status := tell(token); status != http.StatusOK || s.known(first) {
		t.Fatalf("%d, still known %t", status, s.known(first))
	}
	second := s.signIn()
	if status := tell(token); status != http.StatusOK || !s.known(second) {
		t.Errorf("a replay: %d, known %t", status, s.known(second))
	}
	if status := tell(logout("2", map[string]any{"sid": "another"})); status != http.StatusOK || !s.known(second) {
		t.Errorf("another sid: %d, known %t", status, s.known(second))
	}
	if status := tell(logout("3", map[string]any{"sid": "s"})); status != http.StatusOK || s.known(second) {
		t.Errorf("a fresh one: %d, known %t", status, s.known(second))
	}
}
