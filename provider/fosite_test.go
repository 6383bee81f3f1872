package provider_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// The tests of this file are named after what fosite gets wrong on its own; each would fail
// with fosite's handlers and its in-memory store as they are.

// claims reads the payload of an ID token without checking it.
func claims(t *testing.T, idToken string) map[string]any {
	t.Helper()
	parts := strings.Split(idToken, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no ID token", idToken)
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(raw, &members); err != nil {
		t.Fatal(err)
	}
	return members
}

func wantError(t *testing.T, reply *providertest.Reply, status int, code string) {
	t.Helper()
	if reply.Status != status || reply.Text("error") != code {
		t.Errorf("got %d %s, want %d %s", reply.Status, reply.Body, status, code)
	}
	if got := reply.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control is %q", got)
	}
	if strings.ContainsAny(reply.Text("error_description"), "\"\\\n\r\t") {
		t.Errorf("error_description holds a character RFC 6749 forbids: %q", reply.Text("error_description"))
	}
}

func refresh(t *testing.T, s *providertest.Server, clientID, token string, extra url.Values) *providertest.Reply {
	t.Helper()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
	for name, values := range extra {
		form[name] = values
	}
	return s.PostAs(t.Context(), clientID, "/token", form)
}

func tokensOf(t *testing.T, reply *providertest.Reply) providertest.Tokens {
	t.Helper()
	var tokens providertest.Tokens
	if err := json.Unmarshal([]byte(reply.Body), &tokens); err != nil || reply.Status != http.StatusOK {
		t.Fatalf("no tokens: %d %s", reply.Status, reply.Body)
	}
	return tokens
}

func TestFositePKCEDowngrade(t *testing.T) {
	t.Parallel()
	// thirdparty may leave PKCE out; a challenge that was sent counts all the same.
	for _, client := range []string{"web", "thirdparty"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			verifier, challenge := providertest.Verifier()
			redirect := s.Code(t.Context(), s.Browser(), providertest.AuthorizeQuery(client, "openid", challenge))
			wrong, _ := providertest.Verifier()
			for _, v := range []string{wrong, "", "too-short", strings.Repeat("a", 200), challenge} {
				wantError(t, s.Redeem(t.Context(), client, redirect, v), http.StatusBadRequest, "invalid_grant")
			}
			// The failed tries have used nothing up.
			tokensOf(t, s.Redeem(t.Context(), client, redirect, verifier))
		})
	}
}

func TestFositePKCEVerifierWithoutChallenge(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	redirect := s.Code(t.Context(), s.Browser(), providertest.AuthorizeQuery("thirdparty", "openid", ""))
	verifier, _ := providertest.Verifier()
	wantError(t, s.Redeem(t.Context(), "thirdparty", redirect, verifier), http.StatusBadRequest, "invalid_grant")
	tokensOf(t, s.Redeem(t.Context(), "thirdparty", redirect, ""))
}

func TestFositePKCEPlain(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	_, challenge := providertest.Verifier()
	for name, change := range map[string]func(url.Values){
		"plain":            func(q url.Values) { q.Set("code_challenge_method", "plain") },
		"plain by default": func(q url.Values) { q.Del("code_challenge_method") },
		"none":             func(q url.Values) { q.Del("code_challenge_method"); q.Del("code_challenge") },
		"method only":      func(q url.Values) { q.Del("code_challenge") },
		"malformed":        func(q url.Values) { q.Set("code_challenge", challenge+"=") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := providertest.AuthorizeQuery("web", "openid", challenge)
			change(q)
			reply := s.Get(t.Context(), s.Browser(), "/authorize?"+q.Encode())
			if got := reply.Location().Query().Get("error"); got != "invalid_request" {
				t.Errorf("error %q: %d %s", got, reply.Status, reply.Header.Get("Location"))
			}
		})
	}
}

func TestFositeNonceInjectionOnRefresh(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	verifier, challenge := providertest.Verifier()
	q := providertest.AuthorizeQuery("web", "openid offline_access", challenge)
	q.Set("nonce", "of-the-request")
	tokens := tokensOf(t, s.Redeem(t.Context(), "web", s.Code(t.Context(), s.Browser(), q), verifier))
	if got := claims(t, tokens.IDToken)["nonce"]; got != "of-the-request" {
		t.Fatalf("nonce of the code flow is %v", got)
	}
	again := tokensOf(t, refresh(t, s, "web", tokens.RefreshToken, url.Values{"nonce": {"injected-nonce"}, "max_age": {"1"}, "prompt": {"none"}, "acr_values": {"x"}}))
	if got, ok := claims(t, again.IDToken)["nonce"]; ok {
		t.Errorf("nonce of the refresh is %v", got)
	}
}

func TestFositeRefreshIDTokenClaims(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	first := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	s.Clock.Advance(time.Hour)
	second := tokensOf(t, refresh(t, s, "web", first.RefreshToken, nil))
	a, b := claims(t, first.IDToken), claims(t, second.IDToken)
	for _, same := range []string{"iss", "sub", "aud", "auth_time", "acr", "sid"} {
		if diff := cmp.Diff(a[same], b[same]); diff != "" || a[same] == nil {
			t.Errorf("%s: %s", same, diff)
		}
	}
	if b["iat"] != float64(s.Clock.Now().Unix()) || a["jti"] == b["jti"] {
		t.Errorf("iat or jti of the refresh is old: %v", b)
	}
}

func TestFositeUnknownGrantIsUnsupportedGrantType(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	for _, grant := range []string{"password", "urn:ietf:params:oauth:grant-type:jwt-bearer", "authorization_code refresh_token", "AUTHORIZATION_CODE"} {
		wantError(t, s.PostAs(t.Context(), "web", "/token", url.Values{"grant_type": {grant}}), http.StatusBadRequest, "unsupported_grant_type")
	}
	wantError(t, s.PostAs(t.Context(), "web", "/token", url.Values{"code": {"x"}}), http.StatusBadRequest, "invalid_request")
}

func TestFositeGrantOfAnotherClientKind(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	wantError(t, s.PostAs(t.Context(), "web", "/token", url.Values{"grant_type": {"client_credentials"}}), http.StatusBadRequest, "unauthorized_client")
	wantError(t, s.PostAs(t.Context(), "svc", "/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"qrg_rt_x"}}), http.StatusBadRequest, "unauthorized_client")
	wantError(t, s.PostAs(t.Context(), "web", "/token", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {"x"}}), http.StatusBadRequest, "unauthorized_client")
}

func TestFositeDuplicateParameters(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	for _, name := range []string{"grant_type", "code", "scope", "unknown"} {
		form := url.Values{"grant_type": {"authorization_code"}, "code": {"x"}}
		form[name] = []string{"a", "b"}
		wantError(t, s.PostAs(t.Context(), "web", "/token", form), http.StatusBadRequest, "invalid_request")
	}
	_, challenge := providertest.Verifier()
	q := providertest.AuthorizeQuery("web", "openid", challenge)
	q.Add("redirect_uri", "https://evil.example/")
	if reply := s.Get(t.Context(), s.Browser(), "/authorize?"+q.Encode()); reply.Status != http.StatusBadRequest || reply.Header.Get("Location") != "" {
		t.Errorf("authorize took a repeated redirect_uri: %d %s", reply.Status, reply.Header.Get("Location"))
	}
}

// failing is a store whose revocations fail.
type failing struct {
	storage.Store
}

// switchable is a store that can be broken while it is in use.
type switchable struct {
	storage.Store
	on atomic.Bool
}

func TestFositeRatClaim(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	got := claims(t, s.SignedIn(t.Context(), s.Browser(), "web", "openid profile email").IDToken)
	want := map[string]bool{"iss": true, "sub": true, "aud": true, "exp": true, "iat": true, "auth_time": true, "acr": true, "amr": true, "sid": true, "at_hash": true, "jti": true}
	for name := range got {
		if !want[name] {
			t.Errorf("the ID token holds %s, which nobody asked for", name)
		}
	}
	for name := range want {
		if _, ok := got[name]; !ok {
			t.Errorf("the ID token lacks %s", name)
		}
	}
}

func TestFositeAuthTime(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	at := s.Clock.Now().Unix()
	s.SignedIn(t.Context(), browser, "web", "openid")
	s.Clock.Advance(time.Hour)
	got := claims(t, s.SignedIn(t.Context(), browser, "web", "openid").IDToken)
	if got["auth_time"] != float64(at) || got["iat"] != float64(s.Clock.Now().Unix()) {
		t.Errorf("auth_time %v and iat %v, signed in at %d", got["auth_time"], got["iat"], at)
	}
}

func TestFositeClock(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	verifier, challenge := providertest.Verifier()
	browser := s.Browser()
	late := s.Code(t.Context(), browser, providertest.AuthorizeQuery("web", "openid", challenge))
	s.Clock.Advance(time.Minute)
	wantError(t, s.Redeem(t.Context(), "web", late, verifier), http.StatusBadRequest, "invalid_grant")

	tokens := s.SignedIn(t.Context(), browser, "web", "openid")
	if tokens.ExpiresIn != 600 {
		t.Errorf("expires_in is %d", tokens.ExpiresIn)
	}
	s.Clock.Advance(10*time.Minute - time.Second)
	if reply := s.Bearer(t.Context(), "/userinfo", tokens.AccessToken); reply.Status != http.StatusOK {
		t.Errorf("a second before its end: %d", reply.Status)
	}
	s.Clock.Advance(time.Second)
	wantError(t, s.Bearer(t.Context(), "/userinfo", tokens.AccessToken), http.StatusUnauthorized, "invalid_token")
}

func TestFositeRefreshLifetimeIsAbsolute(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	token := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access").RefreshToken
	for range 3 {
		s.Clock.Advance(9 * 24 * time.Hour)
		token = tokensOf(t, refresh(t, s, "web", token, nil)).RefreshToken
	}
	s.Clock.Advance(3 * 24 * time.Hour)
	wantError(t, refresh(t, s, "web", token, nil), http.StatusBadRequest, "invalid_grant")
}

func TestFositeScopeNarrowingOnRefresh(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid profile email offline_access")
	narrow := tokensOf(t, refresh(t, s, "web", tokens.RefreshToken, url.Values{"scope": {"openid email"}}))
	if narrow.Scope != "email openid" {
		t.Errorf("scope is %q", narrow.Scope)
	}
	info := s.Bearer(t.Context(), "/userinfo", narrow.AccessToken).JSON()
	if info["name"] != nil || info["email"] == nil {
		t.Errorf("userinfo under the narrowed token: %v", info)
	}
	// The refresh token keeps what was granted (RFC 6749 §6).
	wide := tokensOf(t, refresh(t, s, "web", narrow.RefreshToken, nil))
	if s.Bearer(t.Context(), "/userinfo", wide.AccessToken).JSON()["name"] == nil {
		t.Errorf("the next token lost scopes: %q", wide.Scope)
	}
	wantError(t, refresh(t, s, "web", wide.RefreshToken, url.Values{"scope": {"openid phone"}}), http.StatusBadRequest, "invalid_scope")
	// A refused narrowing has used nothing up.
	tokensOf(t, refresh(t, s, "web", wide.RefreshToken, nil))
}

func TestFositeBadRefreshTokenIsInvalidGrant(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	for _, token := range []string{"x", "qrg_rt_", tokens.AccessToken, tokens.IDToken, strings.Repeat("a", 5000)} {
		wantError(t, refresh(t, s, "web", token, nil), http.StatusBadRequest, "invalid_grant")
	}
	wantError(t, refresh(t, s, "thirdparty", tokens.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
	wantError(t, s.PostAs(t.Context(), "web", "/token", url.Values{"grant_type": {"refresh_token"}}), http.StatusBadRequest, "invalid_request")
}

func TestFositeUserDisabledAfterGrant(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	verifier, challenge := providertest.Verifier()
	redirect := s.Code(t.Context(), s.Browser(), providertest.AuthorizeQuery("web", "openid", challenge))
	alice := providertest.Alice()
	alice.Disabled = true
	if err := s.Store.PutUser(t.Context(), alice); err != nil {
		t.Fatal(err)
	}
	wantError(t, refresh(t, s, "web", tokens.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
	wantError(t, s.Redeem(t.Context(), "web", redirect, verifier), http.StatusBadRequest, "invalid_grant")
	wantError(t, s.Bearer(t.Context(), "/userinfo", tokens.AccessToken), http.StatusUnauthorized, "invalid_token")
	if reply := s.PostAs(t.Context(), "web", "/introspect", url.Values{"token": {tokens.AccessToken}}); reply.Body != `{"active":false}` {
		t.Errorf("introspection: %s", reply.Body)
	}
}

// recording keeps what was stored, and counts units of work.
type recording struct {
	storage.Store
	mu     sync.Mutex
	tokens []storage.Token
	units  int
}

func TestFositeACRFallback(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	verifier, challenge := providertest.Verifier()
	q := providertest.AuthorizeQuery("web", "openid", challenge)
	q.Set("acr_values", "urn:example:gold 2")
	got := claims(t, tokensOf(t, s.Redeem(t.Context(), "web", s.Code(t.Context(), s.Browser(), q), verifier)).IDToken)
	if diff := cmp.Diff([]any{"urn:qrgrant:acr:password", []any{"pwd"}}, []any{got["acr"], got["amr"]}); diff != "" {
		t.Error(diff)
	}
}

func TestFositeErrorVerbosity(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	reply := s.PostAs(t.Context(), "web", "/token", url.Values{"grant_type": {"authorization_code"}, "code": {"my-secret-code"}})
	want := map[string]any{"error": "invalid_grant", "error_description": "The code or token is not valid for this client."}
	if diff := cmp.Diff(want, reply.JSON()); diff != "" {
		t.Error(diff)
	}
}

func TestFositeRedirectURIAtTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	verifier, challenge := providertest.Verifier()
	redirect := s.Code(t.Context(), s.Browser(), providertest.AuthorizeQuery("web", "openid", challenge))
	form := url.Values{"grant_type": {"authorization_code"}, "code": {redirect.Location().Query().Get("code")}, "code_verifier": {verifier}}
	for _, uri := range []string{"", "https://web.example/callback/", "https://evil.example/"} {
		form.Set("redirect_uri", uri)
		wantError(t, s.PostAs(t.Context(), "web", "/token", form), http.StatusBadRequest, "invalid_grant")
	}
	// Nor can another client redeem it, even knowing the verifier.
	form.Set("redirect_uri", providertest.RedirectURI)
	wantError(t, s.PostAs(t.Context(), "thirdparty", "/token", form), http.StatusBadRequest, "invalid_grant")
	tokensOf(t, s.PostAs(t.Context(), "web", "/token", form))
}
