package provider_test

import (
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// jwtAPI is a resource, and jwtClient a client whose access tokens for it are JWTs.
const jwtAPI = "https://api.example/v1"

func jwtClient(id, alg string) *storage.Client {
	return &storage.Client{
		ID: id, Name: id, SecretHashes: [][32]byte{sha256.Sum256([]byte(providertest.ClientSecret))}, JWTAccessTokens: true, IDTokenAlg: alg,
		RedirectURIs: []string{providertest.RedirectURI}, GrantTypes: []string{"authorization_code", "refresh_token", "client_credentials"},
		Scopes: []string{"openid", "profile", "offline_access", "reports:read", "reports:write"}, FirstParty: true,
		Resources: []string{jwtAPI, "https://other.example/"},
	}
}

// jwtDevice is a consumption device whose access tokens are JWTs.
func jwtDevice() *storage.Client {
	return &storage.Client{
		ID: "jwt-tv", Name: "TV", GrantTypes: []string{qr.GrantType, "refresh_token"}, Scopes: []string{"openid", "offline_access"}, JWTAccessTokens: true,
		QR: storage.QRPolicy{Enabled: true, AllowedScopes: []string{"openid", "offline_access"}, OfflineAccess: true},
	}
}

// verifiedJWT checks a token against the published keys as a resource server does (RFC 9068 §4) and
// returns its claims.
func verifiedJWT(t *testing.T, s *providertest.Server, token, alg, typ string) map[string]any {
	t.Helper()
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(s.Get(t.Context(), s.Client(), "/jwks").Body), &set); err != nil {
		t.Fatal(err)
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
	if err != nil {
		t.Fatalf("%q is no JWT under %s: %v", token, alg, err)
	}
	header := jws.Signatures[0].Protected
	keys := set.Key(header.KeyID)
	if len(keys) != 1 || keys[0].Algorithm != alg || header.ExtraHeaders[jose.HeaderType] != typ {
		t.Fatalf("kid %q has %d keys, typ %v", header.KeyID, len(keys), header.ExtraHeaders[jose.HeaderType])
	}
	payload, err := jws.Verify(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(payload, &members); err != nil {
		t.Fatal(err)
	}
	return members
}

// A client's access tokens are JWTs under its algorithm, with the claims of RFC 9068 and no more.
func TestJWTAccessTokens(t *testing.T) {
	t.Parallel()
	algs := []string{"ES256", "RS256", "EdDSA"}
	var clients []*storage.Client
	for _, alg := range algs {
		clients = append(clients, jwtClient("jwt-"+alg, alg))
	}
	s := providertest.NewServer(t, providertest.Options{Clients: clients})
	now := float64(s.Clock.Now().Unix())
	for _, alg := range algs {
		client := "jwt-" + alg
		tokens := tokensOf(t, s.PostAs(t.Context(), client, "/token", codeForm(t, s, client, "openid offline_access", nil)))
		got, idToken := verifiedJWT(t, s, tokens.AccessToken, alg, "at+jwt"), verifiedJWT(t, s, tokens.IDToken, alg, "JWT")
		id, _ := got["jti"].(string)
		want := map[string]any{
			"iss": s.Issuer, "sub": providertest.AliceSubject, "aud": []any{s.Issuer}, "client_id": client, "exp": now + 600, "iat": now, "jti": id,
			"auth_time": now, "acr": idToken["acr"], "amr": []any{"pwd"}, "scope": "openid offline_access", "sid": idToken["sid"],
		}
		if diff := cmp.Diff(want, got); diff != "" || len(id) < 20 || idToken["acr"] == nil {
			t.Errorf("%s: %s", alg, diff)
		}
		// What is signed anew is another token, with what was asked for this time.
		again := tokensOf(t, refresh(t, s, client, tokens.RefreshToken, url.Values{"scope": {"openid"}}))
		next := verifiedJWT(t, s, again.AccessToken, alg, "at+jwt")
		if next["jti"] == id || next["scope"] != "openid" {
			t.Errorf("%s, refreshed: %v", alg, next)
		}
		own := tokensOf(t, s.PostAs(t.Context(), client, "/token", url.Values{
			"grant_type": {"client_credentials"}, "scope": {"reports:read"}, "resource": {jwtAPI, "https://other.example/"},
		}))
		got = verifiedJWT(t, s, own.AccessToken, alg, "at+jwt")
		delete(got, "jti")
		want = map[string]any{
			"iss": s.Issuer, "sub": client, "aud": []any{jwtAPI, "https://other.example/"}, "client_id": client, "exp": now + 600, "iat": now, "scope": "reports:read",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s, the client's own: %s", alg, diff)
		}
	}
}

// A JWT is a token of ours like any other: userinfo takes it, introspection knows it, and both end
// with it. With a key it names the key.
func TestJWTAccessTokensEndLikeOthers(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{jwtClient("jwt", "")}})
	p := newProver(t, s)
	tokens := tokensOf(t, s.PostAs(t.Context(), "jwt", "/token", codeForm(t, s, "jwt", "openid", nil)))
	told := func() *providertest.Reply {
		return s.PostAs(t.Context(), "jwt", "/introspect", url.Values{"token": {tokens.AccessToken}})
	}
	if reply := told(); reply.JSON()["active"] != true || reply.Text("sub") != providertest.AliceSubject || !active(t, s, tokens.AccessToken) {
		t.Errorf("introspected: %s", reply.Body)
	}
	if reply := s.PostAs(t.Context(), "jwt", "/revoke", url.Values{"token": {tokens.AccessToken}}); reply.Status != http.StatusOK {
		t.Errorf("revoked: %d %s", reply.Status, reply.Body)
	}
	if told().JSON()["active"] != false || active(t, s, tokens.AccessToken) {
		t.Error("the token outlives its revocation")
	}
	bound := tokensOf(t, p.token("jwt", codeForm(t, s, "jwt", "openid", nil)))
	got := verifiedJWT(t, s, bound.AccessToken, "ES256", "at+jwt")
	if diff := cmp.Diff(map[string]any{"jkt": p.jkt()}, got["cnf"]); diff != "" || !p.good(bound.AccessToken) || active(t, s, bound.AccessToken) {
		t.Errorf("bound: %s", diff)
	}
}

// A JWT that comes of a QR approval is good for five minutes, and says so everywhere; an opaque one
// for ten.
func TestJWTAccessTokenOfAQRApproval(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{jwtDevice()}})
	_, tokens := signIn(t, s, "jwt-tv", url.Values{"scope": {"openid offline_access"}})
	_, opaque := signIn(t, s, "cli", nil)
	start := float64(s.Clock.Now().Unix())
	again := tokensOf(t, refreshed(t, s, "jwt-tv", tokens.RefreshToken))
	for name, got := range map[string]providertest.Tokens{"redeemed": tokens, "refreshed": again} {
		exp, _ := verifiedJWT(t, s, got.AccessToken, "ES256", "at+jwt")["exp"].(float64)
		stored, err := s.Store.Token(t.Context(), storage.TokenAccess, sha256.Sum256([]byte(got.AccessToken)))
		if err != nil {
			t.Fatal(err)
		}
		if got.ExpiresIn != 300 || exp > start+300 || float64(stored.ExpiresAt.Unix()) != exp {
			t.Errorf("%s: expires_in %d, exp %.0f after, stored until %v", name, got.ExpiresIn, exp-start, stored.ExpiresAt)
		}
	}
	if opaque.ExpiresIn != 600 {
		t.Errorf("an opaque token is good for %d s", opaque.ExpiresIn)
	}
	s.Clock.Advance(5 * time.Minute)
	if active(t, s, again.AccessToken) || !active(t, s, opaque.AccessToken) {
		t.Error("the JWT is good for longer than it says, or the opaque token for less")
	}
}

// A phone whose tokens are JWTs approves with them.
func TestJWTAccessTokenOfAPhone(t *testing.T) {
	t.Parallel()
	phoneApp := *providertest.Clients()[slices.IndexFunc(providertest.Clients(), func(c *storage.Client) bool { return c.ID == "phone" })]
	phoneApp.JWTAccessTokens = true
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{&phoneApp}})
	token := s.ApproverToken(t.Context())
	if got := verifiedJWT(t, s, token, "ES256", "at+jwt"); !cmp.Equal(got["aud"], any([]any{s.Issuer})) {
		t.Errorf("audience %v", got["aud"])
	}
	c := openQR(t, s, "cli", nil)
	c.approve(&phone{t: t, s: s, token: token})
	tokensOf(t, c.poll(t.Context()))
}

// Only an ID token hints at a person: the other things that we sign do not.
func TestOnlyAnIDTokenIsAHint(t *testing.T) {
	t.Parallel()
	signed := jwtClient("jwt", "")
	signed.UserinfoAlg = "ES256"
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{signed}})
	tokens := tokensOf(t, s.PostAs(t.Context(), "jwt", "/token", codeForm(t, s, "jwt", "openid", nil)))
	userinfo := s.Bearer(t.Context(), "/userinfo", tokens.AccessToken)
	if userinfo.Status != http.StatusOK || !hinted(t, s, tokens.IDToken) {
		t.Fatalf("the ID token is no hint, or userinfo answers %d %s", userinfo.Status, userinfo.Body)
	}
	for name, token := range map[string]string{"an access token": tokens.AccessToken, "an answer of userinfo": userinfo.Body} {
		if hinted(t, s, token) {
			t.Errorf("%s says who may approve", name)
		}
		query := providertest.AuthorizeQuery("jwt", "openid", "")
		_, challenge := providertest.Verifier()
		query.Set("code_challenge", challenge)
		query.Set("code_challenge_method", "S256")
		query.Set("id_token_hint", token)
		if got := s.Get(t.Context(), s.Browser(), "/authorize?"+query.Encode()).Location().Query().Get("error"); got != "invalid_request" {
			t.Errorf("%s at the authorization endpoint: %q", name, got)
		}
	}
}

// Userinfo is signed for a client that asks for it, under its algorithm, and says whose and for
// whom it is; otherwise it says what the JSON does.
func TestUserinfoSigned(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{"ES256", "RS256", "EdDSA"} {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			signed := jwtClient("signed", "ES256")
			signed.JWTAccessTokens, signed.UserinfoAlg = false, alg
			s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{signed}})
			tokens := tokensOf(t, s.PostAs(t.Context(), "signed", "/token", codeForm(t, s, "signed", "openid profile", url.Values{"nonce": {"a-nonce"}})))
			reply := s.Bearer(t.Context(), "/userinfo", tokens.AccessToken)
			if reply.Status != http.StatusOK || reply.Header.Get("Content-Type") != "application/jwt" || reply.Header.Get("Cache-Control") != "no-store" {
				t.Fatalf("%d %q %s", reply.Status, reply.Header.Get("Content-Type"), reply.Body)
			}
			got := verifiedJWT(t, s, reply.Body, alg, "JWT")
			want := s.Bearer(t.Context(), "/userinfo", s.SignedIn(t.Context(), s.Browser(), "web", "openid profile").AccessToken).JSON()
			want["iss"], want["aud"] = s.Issuer, "signed"
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
