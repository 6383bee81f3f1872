package relyingparty_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/examples/webapp/relyingparty"
)

// FuzzLogoutToken sends any text as a logout token: what the provider did not sign as one is
// refused, in the same words whatever is wrong, and nothing is redirected or set.
func FuzzLogoutToken(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	provider := newProvider(f, key)
	good := map[string]any{
		"iss": provider.URL, "aud": "webapp", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(), "jti": "1", "sid": "s", "sub": "alice",
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	}
	with := func(name string, value any) string {
		changed := map[string]any{name: value}
		for other, value := range good {
			if other != name {
				changed[other] = value
			}
		}
		if value == nil {
			delete(changed, name)
		}
		return signed(f, key, changed)
	}
	valid := signed(f, key, good)
	parts := strings.Split(valid, ".")
	refused := []string{
		"", ".", "..", valid + "x", "x" + valid, parts[0] + "." + parts[1] + ".", "eyJhbGciOiJub25lIn0." + parts[1] + ".", parts[0] + "." + parts[1], "\x00", strings.Repeat("a.", 9000),
		with("nonce", "n"), with("events", nil), with("events", map[string]any{}), with("aud", "other"), with("iss", "https://other.example"), with("exp", 1),
		with("jti", nil), with("iat", nil), with("iat", time.Now().Add(time.Hour).Unix()), with("exp", "soon"), with("events", "x"),
	}
	app := &relyingparty.App{Issuer: provider.URL, ClientID: "webapp", ClientSecret: "secret", URL: "https://app.example"}
	handler := app.Handler()
	f.Add(valid)
	for _, token := range refused {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "https://app.example/backchannel-logout", strings.NewReader(url.Values{"logout_token": {token}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Set-Cookie") != "" || w.Header().Get("Location") != "" {
			t.Fatalf("%d %v", w.Code, w.Header())
		}
		if token == valid {
			if w.Code != http.StatusOK {
				t.Fatalf("a good token: %d %s", w.Code, w.Body)
			}
			return
		}
		if decoded(token) == decoded(valid) {
			// The same token in another spelling, which base64 and JSON readers may take.
			return
		}
		if w.Code != http.StatusBadRequest || w.Body.String() != "not a logout token\n" {
			t.Fatalf("%.200q: %d %s", token, w.Code, w.Body)
		}
	})
}

// decoded is what the parts of a JWS say, whatever their spelling.
func decoded(token string) string {
	var all []string
	for part := range strings.SplitSeq(strings.Join(strings.Fields(token), ""), ".") {
		raw, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			return token
		}
		all = append(all, string(raw))
	}
	return strings.Join(all, ".")
}

// signed is the compact JWS of claims under the provider's key.
func signed(tb testing.TB, key *ecdsa.PrivateKey, claims map[string]any) string {
	tb.Helper()
	options := (&jose.SignerOptions{}).WithType("logout+jwt").WithHeader("kid", "k")
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, options)
	if err != nil {
		tb.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		tb.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		tb.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		tb.Fatal(err)
	}
	return token
}

// newProvider serves what a relying party has to know of a provider: its metadata and its key.
func newProvider(tb testing.TB, key *ecdsa.PrivateKey) *httptest.Server {
	tb.Helper()
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	tb.Cleanup(server.Close)
	answer := func(path string, document any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(document) // a caller that is gone needs none
		})
	}
	answer("/.well-known/openid-configuration", map[string]any{
		"issuer": server.URL, "authorization_endpoint": server.URL + "/authorize", "token_endpoint": server.URL + "/token",
		"jwks_uri": server.URL + "/jwks", "id_token_signing_alg_values_supported": []string{"ES256"},
	})
	answer("/jwks", jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	return server
}
