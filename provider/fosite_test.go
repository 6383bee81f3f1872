package provider_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
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

func TestFositeCodeDoubleRedemption64Racers(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	verifier, challenge := providertest.Verifier()
	redirect := s.Code(t.Context(), s.Browser(), providertest.AuthorizeQuery("web", "openid offline_access", challenge))

	var won atomic.Int32
	var access atomic.Value
	var racers sync.WaitGroup
	for range 64 {
		racers.Go(func() {
			reply := s.Redeem(t.Context(), "web", redirect, verifier)
			switch {
			case reply.Status == http.StatusOK:
				won.Add(1)
				access.Store(reply.Text("access_token"))
			case reply.Status != http.StatusBadRequest || reply.Text("error") != "invalid_grant":
				t.Errorf("a loser got %d %s", reply.Status, reply.Body)
			}
		})
	}
	racers.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d racers got tokens", won.Load())
	}
	// A code in two hands is a stolen code: what the winner got must be dead.
	token, _ := access.Load().(string)
	if reply := s.Bearer(t.Context(), "/userinfo", token); reply.Status != http.StatusUnauthorized {
		t.Errorf("the winner's token still works: %d", reply.Status)
	}
}

func TestFositeLoserGets500(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")

	var won atomic.Int32
	var next atomic.Value
	var racers sync.WaitGroup
	for range 16 {
		racers.Go(func() {
			reply := refresh(t, s, "web", tokens.RefreshToken, nil)
			if reply.Status == http.StatusOK {
				won.Add(1)
				next.Store(reply.Text("refresh_token"))
				return
			}
			if reply.Status != http.StatusBadRequest || reply.Text("error") != "invalid_grant" {
				t.Errorf("a loser got %d %s", reply.Status, reply.Body)
			}
		})
	}
	racers.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d racers rotated one refresh token", won.Load())
	}
}

// race sends the same request twice so that both are prepared before either is committed, and
// returns the tokens of the one that won.
func race(t *testing.T, store *together, send func() *providertest.Reply) providertest.Tokens {
	t.Helper()
	store.prepared.Add(2)
	store.on.Store(true)
	replies := make(chan *providertest.Reply, 2)
	for range 2 {
		go func() { replies <- send() }()
	}
	won, lost := <-replies, <-replies
	store.on.Store(false)
	if won.Status != http.StatusOK {
		won, lost = lost, won
	}
	wantError(t, lost, http.StatusBadRequest, "invalid_grant")
	return tokensOf(t, won)
}

func TestFositeCodeLoserRevokesTheFamily(t *testing.T) {
	t.Parallel()
	store := &together{}
	s := providertest.NewServer(t, providertest.Options{Wrap: func(inner storage.Store) storage.Store { store.Store = inner; return store }})
	verifier, challenge := providertest.Verifier()
	redirect := s.Code(t.Context(), s.Browser(), providertest.AuthorizeQuery("web", "openid offline_access", challenge))
	tokens := race(t, store, func() *providertest.Reply { return s.Redeem(t.Context(), "web", redirect, verifier) })
	wantError(t, s.Bearer(t.Context(), "/userinfo", tokens.AccessToken), http.StatusUnauthorized, "invalid_token")
	wantError(t, refresh(t, s, "web", tokens.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
}

func TestFositeRefreshLoserRevokesNothing(t *testing.T) {
	t.Parallel()
	store := &together{}
	s := providertest.NewServer(t, providertest.Options{Wrap: func(inner storage.Store) storage.Store { store.Store = inner; return store }})
	first := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	tokens := race(t, store, func() *providertest.Reply { return refresh(t, s, "web", first.RefreshToken, nil) })
	if reply := s.Bearer(t.Context(), "/userinfo", tokens.AccessToken); reply.Status != http.StatusOK {
		t.Errorf("the winner's token died: %d", reply.Status)
	}
	tokensOf(t, refresh(t, s, "web", tokens.RefreshToken, nil))
}

func TestFositeCodeReplayRevokesFamily(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]time.Duration{"at once": 0, "after 30 s": 30 * time.Second, "after the code has expired": 10 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			verifier, challenge := providertest.Verifier()
			redirect := s.Code(t.Context(), s.Browser(), providertest.AuthorizeQuery("web", "openid offline_access", challenge))
			tokens := tokensOf(t, s.Redeem(t.Context(), "web", redirect, verifier))

			s.Clock.Advance(wait)
			wantError(t, s.Redeem(t.Context(), "web", redirect, verifier), http.StatusBadRequest, "invalid_grant")
			wantError(t, refresh(t, s, "web", tokens.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
			wantError(t, s.Bearer(t.Context(), "/userinfo", tokens.AccessToken), http.StatusUnauthorized, "invalid_token")
		})
	}
}

func TestFositeRefreshReuseRevokesFamily(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	first := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	second := tokensOf(t, refresh(t, s, "web", first.RefreshToken, nil))

	wantError(t, refresh(t, s, "web", first.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
	wantError(t, refresh(t, s, "web", second.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
	wantError(t, s.Bearer(t.Context(), "/userinfo", second.AccessToken), http.StatusUnauthorized, "invalid_token")
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

func TestFosite401HasWWWAuthenticate(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	for _, path := range []string{"/token", "/introspect", "/revoke", "/device_authorization"} {
		form := url.Values{"grant_type": {"client_credentials"}, "token": {"x"}, "client_id": {"svc"}, "client_secret": {"wrong"}}
		reply := s.Post(t.Context(), s.Client(), path, form)
		wantError(t, reply, http.StatusUnauthorized, "invalid_client")
		if got := reply.Header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Basic ") {
			t.Errorf("%s: WWW-Authenticate is %q", path, got)
		}
	}
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

func TestFositeIntrospectionByUserToken(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL("/introspect"), strings.NewReader(url.Values{"token": {tokens.AccessToken}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Authorization", "Bearer "+tokens.AccessToken)
	wantError(t, s.Do(s.Client(), req), http.StatusUnauthorized, "invalid_client")
	// A public client has nothing to show who it is.
	wantError(t, s.Post(t.Context(), s.Client(), "/introspect", url.Values{"client_id": {"phone"}, "token": {tokens.AccessToken}}), http.StatusUnauthorized, "invalid_client")
}

func TestFositeIntrospectionOfForeignTokens(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	for name, form := range map[string]url.Values{
		"of another client": {"token": {tokens.AccessToken}},
		"unknown":           {"token": {"qrg_at_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}},
		"an ID token":       {"token": {tokens.IDToken}},
	} {
		if reply := s.PostAs(t.Context(), "svc", "/introspect", form); reply.Body != `{"active":false}` {
			t.Errorf("%s: %s", name, reply.Body)
		}
	}
	for hint, token := range map[string]string{"access_token": tokens.AccessToken, "refresh_token": tokens.RefreshToken} {
		reply := s.PostAs(t.Context(), "web", "/introspect", url.Values{"token": {token}, "token_type_hint": {"nonsense"}})
		got := reply.JSON()
		if got["active"] != true || got["client_id"] != "web" || got["sub"] != providertest.AliceSubject {
			t.Errorf("%s: %s", hint, reply.Body)
		}
	}
}

func TestFositeIntrospectionOfRefreshToken(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	reply := s.PostAs(t.Context(), "web", "/introspect", url.Values{"token": {tokens.RefreshToken}})
	got := reply.JSON()
	// Its own expiry, and no type that would let a resource server take it for an access token.
	if want := float64(s.Clock.Now().Add(30 * 24 * time.Hour).Unix()); got["exp"] != want || got["token_type"] != nil {
		t.Errorf("%s, want exp %v and no token_type", reply.Body, want)
	}
}

// failing is a store whose revocations fail.
type failing struct {
	storage.Store
}

var errDisk = errors.New("the disk is on fire")

func (failing) RevokeTokens(context.Context, storage.TokenFilter, time.Time) (int, error) {
	return 0, errDisk
}

func (failing) UseToken(context.Context, storage.TokenKind, storage.TokenSignature, time.Time) error {
	return errDisk
}

func TestFositeRevocationStorageFailure(t *testing.T) {
	t.Parallel()
	broken := &switchable{}
	s := providertest.NewServer(t, providertest.Options{Wrap: broken.wrap})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	broken.on.Store(true)
	for _, token := range []string{tokens.RefreshToken, tokens.AccessToken} {
		reply := s.PostAs(t.Context(), "web", "/revoke", url.Values{"token": {token}})
		wantError(t, reply, http.StatusServiceUnavailable, "temporarily_unavailable")
		if strings.Contains(reply.Body, "fire") || reply.Header.Get("Retry-After") == "" {
			t.Errorf("answer tells of the inside or when to retry not at all: %s", reply.Body)
		}
	}
}

// switchable is a store that can be broken while it is in use.
type switchable struct {
	storage.Store
	on atomic.Bool
}

func (s *switchable) wrap(inner storage.Store) storage.Store { s.Store = inner; return s }

func (s *switchable) RevokeTokens(ctx context.Context, f storage.TokenFilter, now time.Time) (int, error) {
	if s.on.Load() {
		return failing{}.RevokeTokens(ctx, f, now)
	}
	return s.Store.RevokeTokens(ctx, f, now)
}

func (s *switchable) UseToken(ctx context.Context, k storage.TokenKind, sig storage.TokenSignature, now time.Time) error {
	if s.on.Load() {
		return failing{}.UseToken(ctx, k, sig, now)
	}
	return s.Store.UseToken(ctx, k, sig, now)
}

func TestFositeRevocationClientMismatch(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	wantError(t, s.PostAs(t.Context(), "thirdparty", "/revoke", url.Values{"token": {tokens.RefreshToken}}), http.StatusBadRequest, "unauthorized_client")
	tokensOf(t, refresh(t, s, "web", tokens.RefreshToken, nil))
	if reply := s.PostAs(t.Context(), "web", "/revoke", url.Values{"token": {"unknown"}}); reply.Status != http.StatusOK {
		t.Errorf("an unknown token: %d %s", reply.Status, reply.Body)
	}
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

func TestFositeStateShort(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	_, challenge := providertest.Verifier()
	for _, state := range []string{"", "a", "1234567", strings.Repeat("s", 128), "ü &=#"} {
		q := providertest.AuthorizeQuery("web", "openid", challenge)
		q.Set("state", state)
		got := s.Code(t.Context(), browser, q).Location().Query()
		if got.Get("code") == "" || got.Get("state") != state || got.Has("state") != (state != "") {
			t.Errorf("state %q came back as %v", state, got)
		}
	}
}

func TestFositeRequestObjects(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	_, challenge := providertest.Verifier()
	for name, want := range map[string]string{"request": "request_not_supported", "request_uri": "request_uri_not_supported", "registration": "registration_not_supported"} {
		q := providertest.AuthorizeQuery("web", "openid", challenge)
		q.Set(name, "https://web.example/request")
		if got := s.Get(t.Context(), s.Browser(), "/authorize?"+q.Encode()).Location().Query().Get("error"); got != want {
			t.Errorf("%s: error %q, want %q", name, got, want)
		}
	}
}

func TestFositeStoredClientSecret(t *testing.T) {
	t.Parallel()
	rows := &recording{}
	s := providertest.NewServer(t, providertest.Options{Wrap: rows.wrap})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	rows.mu.Lock()
	defer rows.mu.Unlock()
	if len(rows.tokens) != 3 {
		t.Fatalf("%d rows for a code, an access and a refresh token", len(rows.tokens))
	}
	var stored string
	for _, row := range rows.tokens {
		stored += fmt.Sprintf("%+v %s", row, row.Data)
	}
	for _, secret := range []string{providertest.ClientSecret, tokens.AccessToken, tokens.RefreshToken} {
		if strings.Contains(stored, secret) {
			t.Errorf("%q is in the store", secret)
		}
	}
}

// recording keeps what was stored, and counts units of work.
type recording struct {
	storage.Store
	mu     sync.Mutex
	tokens []storage.Token
	units  int
}

func (r *recording) wrap(inner storage.Store) storage.Store { r.Store = inner; return r }

func (r *recording) PutToken(ctx context.Context, t *storage.Token) error {
	r.mu.Lock()
	r.tokens = append(r.tokens, *t)
	r.mu.Unlock()
	return r.Store.PutToken(ctx, t)
}

func (r *recording) Tx(ctx context.Context, fn func(context.Context) error) error {
	r.mu.Lock()
	r.units++
	r.mu.Unlock()
	return r.Store.Tx(ctx, fn)
}

func TestFositeSeveralCommitsPerRequest(t *testing.T) {
	t.Parallel()
	rows := &recording{}
	s := providertest.NewServer(t, providertest.Options{Wrap: rows.wrap})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	refresh(t, s, "web", tokens.RefreshToken, nil)
	if rows.units != 2 {
		t.Errorf("%d units of work for a redemption and a rotation", rows.units)
	}
}

func TestFositePanicBetweenBeginAndCommit(t *testing.T) {
	t.Parallel()
	store := &panicking{}
	s := providertest.NewServer(t, providertest.Options{Wrap: func(inner storage.Store) storage.Store { store.Store = inner; return store }})
	token := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access").RefreshToken
	store.on.Store(true)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, s.Issuer+"/token", strings.NewReader(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.SetBasicAuth("web", providertest.ClientSecret)
		s.Provider.ServeHTTP(httptest.NewRecorder(), r)
	}()
	store.on.Store(false)
	// Nothing is locked and nothing was used up.
	tokensOf(t, refresh(t, s, "web", token, nil))
}

func TestFositeMixedClientAuthentication(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	form := func(pairs ...string) url.Values {
		v := url.Values{"grant_type": {"client_credentials"}}
		for i := 0; i < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
		return v
	}
	secret := providertest.ClientSecret
	for name, c := range map[string]struct {
		form   url.Values
		header string
		status int
		code   string
	}{
		"basic alone":                       {form(), basic("svc", secret), 200, ""},
		"basic in lower case":               {form(), "basic" + strings.TrimPrefix(basic("svc", secret), "Basic"), 200, ""},
		"basic and the same client_id":      {form("client_id", "svc"), basic("svc", secret), 200, ""},
		"basic and another client_id":       {form("client_id", "web"), basic("svc", secret), 400, "invalid_request"},
		"basic and a secret in the body":    {form("client_secret", secret), basic("svc", secret), 400, "invalid_request"},
		"post alone":                        {form("client_id", "svc", "client_secret", secret), "", 200, ""},
		"wrong secret":                      {form("client_id", "svc", "client_secret", secret+"x"), "", 401, "invalid_client"},
		"no secret":                         {form("client_id", "svc"), "", 401, "invalid_client"},
		"unknown client":                    {form("client_id", "nobody", "client_secret", secret), "", 401, "invalid_client"},
		"unknown client without a secret":   {form("client_id", "nobody"), "", 401, "invalid_client"},
		"no client at all":                  {form(), "", 401, "invalid_client"},
		"a public client with a secret":     {form("client_id", "phone", "client_secret", secret), "", 401, "invalid_client"},
		"a public client has no such grant": {form("client_id", "phone"), "", 400, "unauthorized_client"},
		"another scheme":                    {form("client_id", "svc", "client_secret", secret), "Bearer x", 401, "invalid_client"},
		"basic without a colon":             {form(), "Basic c3Zj", 401, "invalid_client"},
		"basic with broken escapes":         {form(), basic("%zz", secret), 401, "invalid_client"},
		"a client assertion":                {form("client_id", "svc", "client_assertion", "x"), "", 401, "invalid_client"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL("/token"), strings.NewReader(c.form.Encode()))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if c.header != "" {
				req.Header.Set("Authorization", c.header)
			}
			reply := s.Do(s.Client(), req)
			if reply.Status != c.status || reply.Text("error") != c.code {
				t.Errorf("%d %s", reply.Status, reply.Body)
			}
		})
	}
}

func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
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
