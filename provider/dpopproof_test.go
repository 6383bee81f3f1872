package provider_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

// prover is a client with a DPoP key that can make any proof, wrong ones too: it writes header and
// claims by hand.
type prover struct {
	t   *testing.T
	s   *providertest.Server
	key *ecdsa.PrivateKey
}

func newProver(t *testing.T, s *providertest.Server) *prover {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &prover{t: t, s: s, key: key}
}

// jkt is the thumbprint of the key (RFC 9449 §6.1).
func (p *prover) jkt() string {
	sum, err := (&jose.JSONWebKey{Key: p.key.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		p.t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}

func (p *prover) jwk() map[string]any {
	raw, err := json.Marshal(jose.JSONWebKey{Key: p.key.Public()})
	if err != nil {
		p.t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(raw, &members); err != nil {
		p.t.Fatal(err)
	}
	return members
}

// nonce asks the server for one.
func (p *prover) nonce() string {
	p.t.Helper()
	reply := send(p.t, p.s, http.MethodPost, "/token", url.Values{"grant_type": {"client_credentials"}}.Encode(), http.Header{
		"Authorization": {basic("svc", providertest.ClientSecret)}, "Dpop": {"x"}, "Host": {p.host()},
	})
	if reply.Header.Get("DPoP-Nonce") == "" {
		p.t.Fatalf("no nonce: %d %s", reply.Status, reply.Body)
	}
	return reply.Header.Get("DPoP-Nonce")
}

func (p *prover) host() string { return p.s.HTTP.Listener.Addr().String() }

// parts are those of a good proof for a request; accessToken is empty where none is sent.
func (p *prover) parts(method, path, accessToken string) (header, claims map[string]any) {
	header = map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": p.jwk()}
	claims = map[string]any{"jti": rand.Text(), "htm": method, "htu": p.s.Issuer + path, "iat": p.s.Clock.Now().Unix(), "nonce": p.nonce()}
	if accessToken != "" {
		sum := sha256.Sum256([]byte(accessToken))
		claims["ath"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return header, claims
}

// seal signs header and payload with ES256, whatever they say.
func (p *prover) seal(header, payload any) string {
	input := segment(p.t, header) + "." + segment(p.t, payload)
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, p.key, sum[:])
	if err != nil {
		p.t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func segment(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// proof is a good one.
func (p *prover) proof(method, path, accessToken string) string {
	p.t.Helper()
	return p.seal(p.parts(method, path, accessToken))
}

// token asks the token endpoint with a fresh proof; clientID is a confidential client's, or stands
// in the form.
func (p *prover) token(clientID string, form url.Values) *providertest.Reply {
	p.t.Helper()
	return p.tokenWith(clientID, form, p.proof("POST", "/token", ""))
}

// tokenWith is token with these proofs.
func (p *prover) tokenWith(clientID string, form url.Values, proofs ...string) *providertest.Reply {
	p.t.Helper()
	header := http.Header{"Host": {p.host()}}
	if len(proofs) > 0 {
		header["Dpop"] = proofs
	}
	if clientID != "" {
		header["Authorization"] = []string{basic(clientID, providertest.ClientSecret)}
	}
	return send(p.t, p.s, http.MethodPost, "/token", form.Encode(), header)
}

// userinfo brings an access token with these proofs.
func (p *prover) userinfo(method, accessToken string, proofs ...string) *providertest.Reply {
	p.t.Helper()
	header := http.Header{"Host": {p.host()}, "Authorization": {"DPoP " + accessToken}}
	if len(proofs) > 0 {
		header["Dpop"] = proofs
	}
	return send(p.t, p.s, method, "/userinfo", "", header)
}

// good reports whether userinfo takes the token with a proof of this key.
func (p *prover) good(accessToken string) bool {
	p.t.Helper()
	return p.userinfo("GET", accessToken, p.proof("GET", "/userinfo", accessToken)).Status == http.StatusOK
}

// codeForm signs Alice in at a client and returns the request that redeems the code.
func codeForm(t *testing.T, s *providertest.Server, clientID, scope string, extra url.Values) url.Values {
	t.Helper()
	verifier, challenge := providertest.Verifier()
	query := providertest.AuthorizeQuery(clientID, scope, challenge)
	maps.Copy(query, extra)
	redirect := s.Code(t.Context(), s.Browser(), query)
	code := redirect.Location().Query().Get("code")
	if code == "" {
		t.Fatalf("no code: %d %s %s", redirect.Status, redirect.Header.Get("Location"), redirect.Body)
	}
	return url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": query["redirect_uri"], "code_verifier": {verifier}}
}

// wrongProof is a proof that is refused as a proof, wherever it is sent.
type wrongProof struct {
	name string
	// make returns what is sent, given the parts of a good proof.
	make func(p *prover, header, claims map[string]any) []string
	code string
}

// changed is a proof with one member of the header or the claims changed; nil removes it.
func changed(name, part, member string, value any) wrongProof {
	return wrongProof{name: name, make: func(p *prover, header, claims map[string]any) []string {
		members := map[string]map[string]any{"header": header, "claims": claims}[part]
		if members[member] = value; value == nil {
			delete(members, member)
		}
		return []string{p.seal(header, claims)}
	}}
}

func withCode(row wrongProof, code string) wrongProof {
	row.code = code
	return row
}

// wrongProofs are the ways in which a proof can be wrong at any endpoint.
func wrongProofs(s *providertest.Server) []wrongProof {
	now := s.Clock.Now()
	return []wrongProof{
		changed("no typ", "header", "typ", nil), changed("another typ", "header", "typ", "JWT"), changed("a typ that is a number", "header", "typ", 1),
		changed("no jwk", "header", "jwk", nil), changed("a jwk that is a text", "header", "jwk", "x"), changed("an empty jwk", "header", "jwk", map[string]any{}),
		changed("a crit header", "header", "crit", []string{"exp"}),
		changed("the algorithm none", "header", "alg", "none"), changed("another algorithm than the key's", "header", "alg", "ES384"),
		changed("no algorithm", "header", "alg", nil),
		changed("no jti", "claims", "jti", nil), changed("an empty jti", "claims", "jti", ""), changed("a jti that is a number", "claims", "jti", 7),
		changed("a jti of a kilobyte", "claims", "jti", strings.Repeat("j", 1024)),
		changed("no htm", "claims", "htm", nil), changed("another htm", "claims", "htm", "PUT"), changed("an htm in lower case", "claims", "htm", "post"),
		changed("no htu", "claims", "htu", nil), changed("another path", "claims", "htu", s.Issuer+"/other"),
		changed("another host", "claims", "htu", "https://evil.example/token"), changed("another scheme", "claims", "htu", "http"+strings.TrimPrefix(s.Issuer, "https")+"/token"),
		changed("an htu that is a path", "claims", "htu", "/token"), changed("an htu that is a list", "claims", "htu", []string{s.Issuer + "/token"}),
		changed("no iat", "claims", "iat", nil), changed("an iat that is a text", "claims", "iat", "now"), changed("a negative iat", "claims", "iat", -1),
		changed("an old iat", "claims", "iat", now.Add(-5*time.Minute).Unix()), changed("an iat to come", "claims", "iat", now.Add(5*time.Minute).Unix()),
		withCode(changed("no nonce", "claims", "nonce", nil), "use_dpop_nonce"), withCode(changed("a nonce of others", "claims", "nonce", "x"), "use_dpop_nonce"),
		{name: "a kid in place of the key", make: func(p *prover, h, c map[string]any) []string {
			delete(h, "jwk")
			h["kid"] = p.jkt()
			return []string{p.seal(h, c)}
		}},
		{name: "an empty header", make: func(*prover, map[string]any, map[string]any) []string { return []string{""} }},
		{name: "no JWT", make: func(*prover, map[string]any, map[string]any) []string { return []string{"x"} }},
		{name: "five parts", make: func(p *prover, h, c map[string]any) []string { return []string{p.seal(h, c) + ".x.y"} }},
		{name: "no signature", make: func(p *prover, h, c map[string]any) []string {
			return []string{segment(p.t, h) + "." + segment(p.t, c) + "."}
		}},
		{name: "a signature by another key", make: func(p *prover, h, c map[string]any) []string {
			return []string{newProver(p.t, p.s).seal(h, c)}
		}},
		{name: "two proofs", make: func(p *prover, h, c map[string]any) []string {
			return []string{p.seal(h, c), p.proof("POST", "/token", "")}
		}},
		{name: "two proofs in one header", make: func(p *prover, h, c map[string]any) []string {
			return []string{p.seal(h, c) + ", " + p.proof("POST", "/token", "")}
		}},
		{name: "claims that are a list", make: func(p *prover, h, c map[string]any) []string { return []string{p.seal(h, []any{c})} }},
		{name: "a huge proof", make: func(p *prover, h, c map[string]any) []string {
			c["x"] = strings.Repeat("x", 9<<10)
			return []string{p.seal(h, c)}
		}},
		{name: "a private key in the header", make: privateKeyProof},
		{name: "a secret as key", make: hmacProof},
		{name: "RS256", make: rs256Proof},
	}
}

func privateKeyProof(p *prover, h, c map[string]any) []string {
	jwk := p.jwk()
	d := make([]byte, 32)
	jwk["d"] = base64.RawURLEncoding.EncodeToString(p.key.D.FillBytes(d)) //nolint:staticcheck // The scalar is what is sent here.
	h["jwk"] = jwk
	return []string{p.seal(h, c)}
}

func hmacProof(p *prover, h, c map[string]any) []string {
	secret := []byte("a secret that is no secret at all")
	h["alg"], h["jwk"] = "HS256", map[string]any{"kty": "oct", "k": base64.RawURLEncoding.EncodeToString(secret)}
	input := segment(p.t, h) + "." + segment(p.t, c)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(input))
	return []string{input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))}
}

func rs256Proof(p *prover, h, c map[string]any) []string {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		p.t.Fatal(err)
	}
	h["alg"], h["jwk"] = "RS256", jose.JSONWebKey{Key: key.Public()}
	input := segment(p.t, h) + "." + segment(p.t, c)
	sum := sha256.Sum256([]byte(input))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		p.t.Fatal(err)
	}
	return []string{input + "." + base64.RawURLEncoding.EncodeToString(signature)}
}

// A wrong proof is refused at the token endpoint before anything is used up: the code and the
// refresh token that came with every one of them are good afterwards.
func TestDPoPWrongProofsAtTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p := newProver(t, s)
	code := codeForm(t, s, "web", "openid offline_access", nil)
	old := tokensOf(t, p.token("web", codeForm(t, s, "web", "openid offline_access", nil)))
	requests := map[string]url.Values{
		"web": code,
		"svc": {"grant_type": {"client_credentials"}},
	}
	for _, row := range wrongProofs(s) {
		for client, form := range requests {
			header, claims := p.parts("POST", "/token", "")
			reply := p.tokenWith(client, form, row.make(p, header, claims)...)
			want := row.code
			if want == "" {
				want = "invalid_dpop_proof"
			}
			wantError(t, reply, http.StatusBadRequest, want)
			if t.Failed() || reply.Header.Get("DPoP-Nonce") == "" {
				t.Fatalf("%s as %s: nonce %q", row.name, client, reply.Header.Get("DPoP-Nonce"))
			}
		}
		header, claims := p.parts("POST", "/token", "")
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {old.RefreshToken}}
		if reply := p.tokenWith("web", form, row.make(p, header, claims)...); reply.Status != http.StatusBadRequest {
			t.Errorf("%s with a refresh token: %d %s", row.name, reply.Status, reply.Body)
		}
	}
	if tokens := tokensOf(t, p.token("web", code)); tokens.TokenType != "DPoP" || !p.good(tokens.AccessToken) {
		t.Errorf("the code: %+v", tokens)
	}
	tokensOf(t, p.token("web", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {old.RefreshToken}}))
}

// The same proofs are refused at userinfo, with a challenge that says so; and those that lack the
// hash of the token.
func TestDPoPWrongProofsAtUserinfo(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p := newProver(t, s)
	tokens := tokensOf(t, p.token("web", codeForm(t, s, "web", "openid", nil)))
	other := tokensOf(t, p.token("web", codeForm(t, s, "web", "openid", nil)))
	sum := sha256.Sum256([]byte(other.AccessToken))
	rows := append(wrongProofs(s),
		changed("no ath", "claims", "ath", nil), changed("an empty ath", "claims", "ath", ""), changed("an ath that is a number", "claims", "ath", 1),
		changed("the ath of another token", "claims", "ath", base64.RawURLEncoding.EncodeToString(sum[:])),
		wrongProof{name: "none at all", make: func(*prover, map[string]any, map[string]any) []string { return nil }},
	)
	for _, row := range rows {
		for _, method := range []string{"GET", "POST"} {
			header, claims := p.parts(method, "/userinfo", tokens.AccessToken)
			reply := p.userinfo(method, tokens.AccessToken, row.make(p, header, claims)...)
			want := row.code
			if want == "" {
				want = "invalid_dpop_proof"
			}
			wantError(t, reply, http.StatusUnauthorized, want)
			challenges := reply.Header.Values("WWW-Authenticate")
			if len(challenges) != 1 || !strings.HasPrefix(challenges[0], "DPoP ") || !strings.Contains(challenges[0], `error="`+want+`"`) ||
				!strings.Contains(challenges[0], `algs="ES256 ES384 EdDSA Ed25519 PS256"`) {
				t.Errorf("%s by %s: %q", row.name, method, challenges)
			}
			if want == "use_dpop_nonce" && reply.Header.Get("DPoP-Nonce") == "" {
				t.Errorf("%s by %s: no nonce", row.name, method)
			}
		}
	}
	if !p.good(tokens.AccessToken) {
		t.Error("the token is good no more")
	}
}
