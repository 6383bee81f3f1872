package provider_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// assertionKey is a key that a client signs its assertions with.
type assertionKey struct {
	alg     jose.SignatureAlgorithm
	kid     string
	private crypto.Signer
}

func newAssertionKey(tb testing.TB, alg jose.SignatureAlgorithm, kid string) *assertionKey {
	tb.Helper()
	k := &assertionKey{alg: alg, kid: kid}
	var err error
	switch alg {
	case jose.EdDSA:
		_, k.private, err = ed25519.GenerateKey(rand.Reader)
	case jose.RS256, jose.PS256:
		k.private, err = rsa.GenerateKey(rand.Reader, 2048)
	case jose.ES384:
		k.private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	default:
		k.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func (k *assertionKey) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.private.Public(), KeyID: k.kid, Use: "sig"}
}

// jwksOf is the JWK set of the public halves.
func jwksOf(tb testing.TB, keys ...*assertionKey) []byte {
	tb.Helper()
	var set jose.JSONWebKeySet
	for _, k := range keys {
		set.Keys = append(set.Keys, k.public())
	}
	raw, err := json.Marshal(set)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

// sign signs any payload, with more in the header if wanted.
func (k *assertionKey) sign(tb testing.TB, payload []byte, header map[jose.HeaderKey]any) string {
	tb.Helper()
	key := jose.SigningKey{Algorithm: k.alg, Key: k.private}
	if k.kid != "" {
		key.Key = jose.JSONWebKey{Key: k.private, KeyID: k.kid}
	}
	signer, err := jose.NewSigner(key, &jose.SignerOptions{ExtraHeaders: header})
	if err != nil {
		tb.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		tb.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		tb.Fatal(err)
	}
	return compact
}

// saying are the claims of a good assertion with some replaced; nil leaves one out.
func saying(s *providertest.Server, clientID string, changes map[string]any) []byte {
	now := s.Clock.Now()
	claims := map[string]any{"iss": clientID, "sub": clientID, "aud": s.Issuer, "jti": rand.Text(), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	raw, _ := json.Marshal(claims)
	return raw
}

func (k *assertionKey) assertion(tb testing.TB, s *providertest.Server, clientID string) string {
	tb.Helper()
	return k.sign(tb, saying(s, clientID, nil), nil)
}

// asserting adds an assertion to a form.
func asserting(form url.Values, compact string) url.Values {
	form = maps.Clone(form)
	form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	form.Set("client_assertion", compact)
	return form
}

func clientCredentials() url.Values { return url.Values{"grant_type": {"client_credentials"}} }

// signingClient is a service that signs assertions.
func signingClient(id string, jwks []byte) *storage.Client {
	return &storage.Client{
		ID: id, Name: "Signing " + id, AuthMethod: storage.AuthPrivateKeyJWT, JWKS: jwks,
		GrantTypes: []string{"client_credentials"}, Scopes: []string{"reports:read"},
	}
}

func refusedWith(t *testing.T, r *providertest.Reply, status int, code string) {
	t.Helper()
	if r.Status != status || r.Text("error") != code || status == http.StatusUnauthorized && r.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("%d %s, want %d %s", r.Status, r.Body, status, code)
	}
}

func grantedTokens(t *testing.T, r *providertest.Reply) {
	t.Helper()
	if r.Status != http.StatusOK || r.Text("access_token") == "" {
		t.Errorf("%d %s, want tokens", r.Status, r.Body)
	}
}

func jwtPart(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// malformed is an assertion that is refused, and nothing of it is used up.
type malformed struct {
	claims map[string]any
	// payload changes what is signed, header adds to its header, compact changes the whole.
	payload func(string) string
	header  map[jose.HeaderKey]any
	compact func(string) string
	form    func(url.Values)
	key     *assertionKey
}

func malformedClaims(s *providertest.Server) map[string]malformed {
	now := s.Clock.Now()
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	rows := map[string]malformed{}
	for name, claims := range map[string]map[string]any{
		"it has no iss":                           {"iss": nil},
		"its iss is another client":               {"iss": "web"},
		"its iss is the issuer":                   {"iss": s.Issuer},
		"its iss is a list":                       {"iss": []string{"signer"}},
		"it has no sub":                           {"sub": nil},
		"its sub is a client with a secret":       {"sub": "web"},
		"its sub is nobody":                       {"iss": "nobody", "sub": "nobody"},
		"its sub has a NUL":                       {"sub": "signer\x00"},
		"it has no aud":                           {"aud": nil},
		"its aud is empty":                        {"aud": ""},
		"its aud is no address":                   {"aud": []string{}},
		"its aud is an object":                    {"aud": map[string]string{"a": s.Issuer}},
		"its aud is the token endpoint":           {"aud": s.Issuer + "/token"},
		"its aud is the issuer with a slash":      {"aud": s.Issuer + "/"},
		"its aud is the issuer and somebody else": {"aud": []string{s.Issuer, "https://other.example"}},
		"its aud is the issuer twice":             {"aud": []string{s.Issuer, s.Issuer}},
		"its aud is the issuer and a number":      {"aud": []any{s.Issuer, 1}},
		"it has no exp":                           {"exp": nil},
		"it has expired":                          {"exp": at(-10 * time.Second)},
		"its exp is more than five minutes off":   {"exp": at(5*time.Minute + 11*time.Second)},
		"its exp is a text":                       {"exp": "4102444800"},
		"its exp is before 1970":                  {"exp": -1},
		"its exp is beyond every clock":           {"exp": 1e300},
		"it has no jti":                           {"jti": nil},
		"its jti is empty":                        {"jti": ""},
		"its jti is longer than 256 bytes":        {"jti": strings.Repeat("j", 257)},
		"its jti is a number":                     {"jti": 7},
		"its iat is in the future":                {"iat": at(11 * time.Second)},
		"its iat is more than five minutes ago":   {"iat": at(-5*time.Minute - 11*time.Second)},
		"its iat is a text":                       {"iat": "now"},
		"its iat is before 1970":                  {"iat": -5},
		"its nbf is in the future":                {"nbf": at(11 * time.Second)},
		"its nbf is a text":                       {"nbf": "now"},
		"its nbf is beyond every clock":           {"nbf": 1e300},
	} {
		rows[name] = malformed{claims: claims}
	}
	return rows
}

func malformedTexts(t *testing.T, good *assertionKey) map[string]malformed {
	t.Helper()
	tampered := func(change func(parts []string) []string) func(string) string {
		return func(compact string) string { return strings.Join(change(strings.Split(compact, ".")), ".") }
	}
	public, err := json.Marshal(good.public())
	if err != nil {
		t.Fatal(err)
	}
	hmacKey := func(compact string) string {
		payload, _ := base64.RawURLEncoding.DecodeString(strings.Split(compact, ".")[1])
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: public}, nil)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign(payload)
		if err != nil {
			t.Fatal(err)
		}
		compact, _ = signed.CompactSerialize()
		return compact
	}
	same := *newAssertionKey(t, jose.ES256, "k1")
	return map[string]malformed{
		"it says iss twice":                {payload: func(p string) string { return strings.Replace(p, `{`, `{"iss":"web",`, 1) }},
		"it says aud twice":                {payload: func(p string) string { return strings.Replace(p, `{`, `{"aud":"https://other.example",`, 1) }},
		"it says what nobody knows twice":  {payload: func(p string) string { return strings.Replace(p, `{`, `{"a":1,"a":2,`, 1) }},
		"it says iss in capitals":          {payload: func(p string) string { return strings.Replace(p, `"iss"`, `"ISS"`, 1) }},
		"it goes on after its end":         {payload: func(p string) string { return p + `{}` }},
		"it is no JSON":                    {payload: func(string) string { return "signer" }},
		"it is a list":                     {payload: func(p string) string { return "[" + p + "]" }},
		"it is null":                       {payload: func(string) string { return "null" }},
		"it says nothing":                  {payload: func(string) string { return "" }},
		"it is of another typ":             {header: map[jose.HeaderKey]any{"typ": "at+jwt"}},
		"it is a proof":                    {header: map[jose.HeaderKey]any{"typ": "dpop+jwt"}},
		"its typ is a number":              {header: map[jose.HeaderKey]any{"typ": 1}},
		"its payload is not encoded":       {header: map[jose.HeaderKey]any{"b64": true, "crit": []string{"b64"}}},
		"it has a critical header":         {header: map[jose.HeaderKey]any{"x": 1, "crit": []string{"x"}}},
		"its kid is a key nobody has":      {key: &assertionKey{alg: good.alg, kid: "k0", private: good.private}},
		"its kid is another of its keys":   {key: &assertionKey{alg: good.alg, kid: "k2", private: good.private}},
		"it has no kid where two keys fit": {key: &assertionKey{alg: good.alg, private: good.private}},
		"it is signed with another key":    {key: &same},
		"it is signed with RS256":          {key: newAssertionKey(t, jose.RS256, "k1")},
		"it is signed with ES384":          {key: newAssertionKey(t, jose.ES384, "k1")},
		"its alg is none": {compact: tampered(func(p []string) []string {
			return []string{jwtPart(`{"alg":"none","kid":"k1"}`), p[1], ""}
		})},
		"its alg is in small letters": {compact: tampered(func(p []string) []string {
			return []string{jwtPart(`{"alg":"es256","kid":"k1"}`), p[1], p[2]}
		})},
		"it is an HMAC with the public key": {compact: hmacKey},
		"its header says alg twice": {compact: tampered(func(p []string) []string {
			return []string{jwtPart(`{"alg":"ES256","alg":"ES256","kid":"k1"}`), p[1], p[2]}
		})},
		"it has no signature":    {compact: tampered(func(p []string) []string { return []string{p[0], p[1], ""} })},
		"its signature is short": {compact: tampered(func(p []string) []string { return []string{p[0], p[1], p[2][:20]} })},
		"its signature is zero": {compact: tampered(func(p []string) []string {
			return []string{p[0], p[1], base64.RawURLEncoding.EncodeToString(make([]byte, 64))}
		})},
		"it has two parts":    {compact: tampered(func(p []string) []string { return p[:2] })},
		"it has four parts":   {compact: tampered(func(p []string) []string { return append(p, p[2]) })},
		"it has five parts":   {compact: tampered(func(p []string) []string { return append(p, "a", "b") })},
		"it is padded":        {compact: tampered(func(p []string) []string { return []string{p[0], p[1] + "=", p[2]} })},
		"it is an object":     {compact: tampered(func(p []string) []string { return []string{`{"payload":"` + p[1] + `"}`} })},
		"it is anything":      {compact: func(string) string { return "x" }},
		"it is huge":          {claims: map[string]any{"more": strings.Repeat("a", 9000)}},
		"its type is missing": {form: func(f url.Values) { f.Del("client_assertion_type") }},
		"its type is SAML": {form: func(f url.Values) {
			f.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer")
		}},
		"only its type is":     {form: func(f url.Values) { f.Del("client_assertion") }},
		"client_id is another": {form: func(f url.Values) { f.Set("client_id", "web") }},
	}
}

func TestClientAssertionRefused(t *testing.T) {
	t.Parallel()
	good, second := newAssertionKey(t, jose.ES256, "k1"), newAssertionKey(t, jose.ES256, "k2")
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{signingClient("signer", jwksOf(t, good, second))}})
	rows := malformedClaims(s)
	maps.Copy(rows, malformedTexts(t, good))
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := "jti of " + name
			claims := map[string]any{"jti": id}
			maps.Copy(claims, row.claims)
			payload, key := string(saying(s, "signer", claims)), good
			if row.payload != nil {
				payload = row.payload(payload)
			}
			if row.key != nil {
				key = row.key
			}
			compact := key.sign(t, []byte(payload), row.header)
			if row.compact != nil {
				compact = row.compact(compact)
			}
			form := asserting(clientCredentials(), compact)
			if row.form != nil {
				row.form(form)
			}
			refused := s.Post(t.Context(), s.Client(), "/token", form)
			refusedWith(t, refused, http.StatusUnauthorized, "invalid_client")
			if refused.Text("error_description") != "The client could not be authenticated." {
				t.Errorf("the answer says more: %s", refused.Body)
			}
			// The same with nothing wrong is good, which shows too that its jti was not used up.
			fine := good.sign(t, saying(s, "signer", map[string]any{"jti": id}), nil)
			grantedTokens(t, s.Post(t.Context(), s.Client(), "/token", asserting(clientCredentials(), fine)))
		})
	}
}

func TestClientAssertionAccepted(t *testing.T) {
	t.Parallel()
	good := newAssertionKey(t, jose.ES256, "k1")
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{signingClient("signer", jwksOf(t, good))}})
	at := func(d time.Duration) int64 { return s.Clock.Now().Add(d).Unix() }
	for name, row := range map[string]malformed{
		"it is as it should be":               {},
		"its aud is a list of the issuer":     {claims: map[string]any{"aud": []string{s.Issuer}}},
		"its exp is five minutes off":         {claims: map[string]any{"exp": at(5*time.Minute + 10*time.Second)}},
		"its exp is within the skew":          {claims: map[string]any{"exp": at(-9 * time.Second)}},
		"its exp has a fraction":              {claims: map[string]any{"exp": float64(at(time.Minute)) + 0.5}},
		"it has no iat":                       {claims: map[string]any{"iat": nil}},
		"its iat is within the skew":          {claims: map[string]any{"iat": at(10 * time.Second), "nbf": at(10 * time.Second)}},
		"its iat is five minutes ago":         {claims: map[string]any{"iat": at(-5*time.Minute - 10*time.Second)}},
		"its jti has 256 bytes":               {claims: map[string]any{"jti": strings.Repeat("j", 256)}},
		"it says more than anybody asked":     {claims: map[string]any{"azp": []int{1}}},
		"its typ is JWT":                      {header: map[jose.HeaderKey]any{"typ": "JWT"}},
		"its typ is jwt":                      {header: map[jose.HeaderKey]any{"typ": "jwt"}},
		"its typ is that of client assertion": {header: map[jose.HeaderKey]any{"typ": "client-authentication+jwt"}},
		"it has no kid where one key fits":    {key: &assertionKey{alg: good.alg, private: good.private}},
		"client_id says the same":             {form: func(f url.Values) { f.Set("client_id", "signer") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := good
			if row.key != nil {
				key = row.key
			}
			form := asserting(clientCredentials(), key.sign(t, saying(s, "signer", row.claims), row.header))
			if row.form != nil {
				row.form(form)
			}
			grantedTokens(t, s.Post(t.Context(), s.Client(), "/token", form))
		})
	}
}

// Every algorithm that metadata names, and RS256 and ES384 only by name.
func TestClientAssertionAlgorithms(t *testing.T) {
	t.Parallel()
	var clients []*storage.Client
	keys := map[string]*assertionKey{}
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.PS256, jose.EdDSA, jose.RS256, jose.ES384} {
		k := newAssertionKey(t, alg, "k")
		free, pinned, other := signingClient("any-"+string(alg), jwksOf(t, k)), signingClient("pinned-"+string(alg), jwksOf(t, k)), signingClient("other-"+string(alg), jwksOf(t, k))
		pinned.AuthAlg, other.AuthAlg = string(alg), "ES256"
		if alg == jose.ES256 {
			other.AuthAlg = "PS256"
		}
		for _, c := range []*storage.Client{free, pinned, other} {
			clients = append(clients, c)
			keys[c.ID] = k
		}
	}
	odd := signingClient("pinned-to-HMAC", jwksOf(t, keys["any-ES256"]))
	odd.AuthAlg, keys[odd.ID] = "HS256", keys["any-ES256"]
	s := providertest.NewServer(t, providertest.Options{Clients: append(clients, odd)})
	named, _ := s.Get(t.Context(), s.Client(), "/.well-known/openid-configuration").JSON()["token_endpoint_auth_signing_alg_values_supported"].([]any)
	for id, k := range keys {
		good := strings.HasPrefix(id, "pinned-") && id != odd.ID || slices.Contains([]string{"any-ES256", "any-PS256", "any-EdDSA"}, id)
		reply := s.Post(t.Context(), s.Client(), "/token", asserting(clientCredentials(), k.assertion(t, s, id)))
		if (reply.Status == http.StatusOK) != good {
			t.Errorf("%s: %d %s", id, reply.Status, reply.Body)
		}
		if !slices.Contains(named, any(string(k.alg))) {
			t.Errorf("metadata %v lacks %s", named, k.alg)
		}
	}
}

// A client has one method, and a request uses one.
func TestClientAuthMethods(t *testing.T) {
	t.Parallel()
	key := newAssertionKey(t, jose.ES256, "k")
	secret := [][32]byte{sha256.Sum256([]byte(providertest.ClientSecret))}
	client := func(id, method string) *storage.Client {
		c := signingClient(id, jwksOf(t, key))
		c.AuthMethod, c.SecretHashes = method, secret
		return c
	}
	public := client("public", "none")
	public.SecretHashes = nil
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{
		client("either", ""), client("basic", "client_secret_basic"), client("post", "client_secret_post"), client("jwt", "private_key_jwt"), public,
	}})
	send := func(id, how string) *providertest.Reply {
		form, header := clientCredentials(), ""
		switch how {
		case "assertion":
			form = asserting(form, key.assertion(t, s, id))
		case "post":
			form.Set("client_id", id)
			form.Set("client_secret", providertest.ClientSecret)
		case "basic":
			header = "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+providertest.ClientSecret))
		case "none":
			form.Set("client_id", id)
		case "nobody":
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL("/token"), strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if header != "" {
			req.Header.Set("Authorization", header)
		}
		return s.Do(s.Client(), req)
	}
	good := map[string]string{"either": "basic post", "basic": "basic", "post": "post", "jwt": "assertion"}
	for _, id := range []string{"either", "basic", "post", "jwt"} {
		for _, how := range []string{"assertion", "post", "basic", "none"} {
			reply := send(id, how)
			if strings.Contains(good[id], how) {
				grantedTokens(t, reply)
			} else {
				refusedWith(t, reply, http.StatusUnauthorized, "invalid_client")
			}
		}
	}
	// A public client is known, and may not have a token of its own.
	refusedWith(t, send("public", "none"), http.StatusBadRequest, "unauthorized_client")
	refusedWith(t, send("public", "post"), http.StatusUnauthorized, "invalid_client")
	refusedWith(t, send("public", "assertion"), http.StatusUnauthorized, "invalid_client")

	two := asserting(clientCredentials(), key.assertion(t, s, "jwt"))
	two.Set("client_secret", providertest.ClientSecret)
	refusedWith(t, s.Post(t.Context(), s.Client(), "/token", two), http.StatusBadRequest, "invalid_request")
	refusedWith(t, s.PostAs(t.Context(), "jwt", "/token", asserting(clientCredentials(), key.assertion(t, s, "jwt"))), http.StatusBadRequest, "invalid_request")
}

// An assertion for an endpoint's address is good for clients that cannot do better.
func TestClientAssertionAudienceEndpoint(t *testing.T) {
	t.Parallel()
	key := newAssertionKey(t, jose.ES256, "k")
	client := signingClient("signer", jwksOf(t, key))
	client.AssertionAudience = storage.AudienceEndpoint
	s := providertest.NewServer(t, providertest.Options{Path: "/id", Clients: []*storage.Client{client}})
	for name, row := range map[string]struct {
		audience any
		good     bool
	}{
		"the issuer":                     {s.Issuer, true},
		"the token endpoint":             {s.Issuer + "/token", true},
		"the endpoint called":            {s.Issuer + "/introspect", true},
		"a list of all of them":          {[]string{s.Issuer, s.Issuer + "/token", s.Issuer + "/introspect"}, true},
		"another endpoint":               {s.Issuer + "/revoke", false},
		"the endpoint and another":       {[]string{s.Issuer + "/introspect", s.Issuer + "/revoke"}, false},
		"the endpoint with a query":      {s.Issuer + "/introspect?a=b", false},
		"a host of somebody else":        {"https://other.example/id/token", false},
		"the host without the path":      {strings.TrimSuffix(s.Issuer, "/id"), false},
		"the issuer four times over":     {[]string{s.Issuer, s.Issuer, s.Issuer, s.Issuer}, false},
		"the issuer and somebody else":   {[]string{s.Issuer, "https://other.example"}, false},
		"the issuer in another spelling": {strings.ToUpper(s.Issuer), false},
	} {
		compact := key.sign(t, saying(s, "signer", map[string]any{"aud": row.audience}), nil)
		reply := s.Post(t.Context(), s.Client(), "/introspect", asserting(url.Values{"token": {"x"}}, compact))
		if (reply.Status == http.StatusOK) != row.good {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Body)
		}
	}
}

func TestClientAssertionOnce(t *testing.T) {
	t.Parallel()
	a, b := newAssertionKey(t, jose.ES256, "k"), newAssertionKey(t, jose.ES256, "k")
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{
		signingClient("a", jwksOf(t, a)), signingClient("b", jwksOf(t, b)), signingClient("a|b", jwksOf(t, b)),
	}})
	post := func(path string, compact string) *providertest.Reply {
		return s.Post(t.Context(), s.Client(), path, asserting(url.Values{"grant_type": {"client_credentials"}, "token": {"x"}}, compact))
	}
	compact := a.sign(t, saying(s, "a", map[string]any{"jti": "once"}), nil)
	grantedTokens(t, post("/token", compact))
	refusedWith(t, post("/token", compact), http.StatusUnauthorized, "invalid_client")
	// At every endpoint, and in another text of the same identifier.
	refusedWith(t, post("/introspect", compact), http.StatusUnauthorized, "invalid_client")
	refusedWith(t, post("/token", a.sign(t, saying(s, "a", map[string]any{"jti": "once", "nbf": 1}), nil)), http.StatusUnauthorized, "invalid_client")
	// Until it is good no more, the skew included.
	s.Clock.Advance(time.Minute + 9*time.Second)
	refusedWith(t, post("/token", compact), http.StatusUnauthorized, "invalid_client")
	// The identifiers are each client's own, however they are spelt.
	grantedTokens(t, post("/token", b.sign(t, saying(s, "b", map[string]any{"jti": "once"}), nil)))
	grantedTokens(t, post("/token", a.sign(t, saying(s, "a", map[string]any{"jti": "b|once"}), nil)))
	grantedTokens(t, post("/token", b.sign(t, saying(s, "a|b", map[string]any{"jti": "once"}), nil)))
}

func TestClientAssertionRace(t *testing.T) {
	t.Parallel()
	key := newAssertionKey(t, jose.ES256, "k")
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{signingClient("signer", jwksOf(t, key))}})
	for range 5 {
		form := asserting(clientCredentials(), key.assertion(t, s, "signer"))
		replies := make(chan *providertest.Reply, 16)
		var group sync.WaitGroup
		for range cap(replies) {
			group.Go(func() { replies <- s.Post(t.Context(), s.Client(), "/token", form) })
		}
		group.Wait()
		close(replies)
		won := 0
		for r := range replies {
			if r.Status == http.StatusOK {
				won++
			} else {
				refusedWith(t, r, http.StatusUnauthorized, "invalid_client")
			}
		}
		if won != 1 {
			t.Errorf("%d of the requests won", won)
		}
	}
}

// fullReplays is a store that keeps no more identifiers.
type fullReplays struct{ storage.Store }

func (fullReplays) UseOnce(context.Context, [32]byte, time.Time, time.Time) error {
	return errors.Join(errors.New("no room"), storage.ErrFull)
}

// A failure of ours is not the client's fault.
func TestClientAssertionStoreFails(t *testing.T) {
	t.Parallel()
	key := newAssertionKey(t, jose.ES256, "k")
	s := providertest.NewServer(t, providertest.Options{
		Clients: []*storage.Client{signingClient("signer", jwksOf(t, key))},
		Wrap:    func(inner storage.Store) storage.Store { return fullReplays{inner} },
	})
	reply := s.Post(t.Context(), s.Client(), "/token", asserting(clientCredentials(), key.assertion(t, s, "signer")))
	refusedWith(t, reply, http.StatusServiceUnavailable, "temporarily_unavailable")
	// What is wrong is found out first.
	reply = s.Post(t.Context(), s.Client(), "/token", asserting(clientCredentials(), key.sign(t, saying(s, "signer", map[string]any{"aud": "x"}), nil)))
	refusedWith(t, reply, http.StatusUnauthorized, "invalid_client")
}

// The client of the code flow and of the QR grant signs at every endpoint that asks who it is, and
// once for each request.
func TestClientAssertionEverywhere(t *testing.T) {
	t.Parallel()
	old, rotated := newAssertionKey(t, jose.ES256, "old"), newAssertionKey(t, jose.EdDSA, "new")
	web := signingClient("signer", jwksOf(t, old, rotated))
	web.GrantTypes, web.Scopes = []string{"authorization_code", "refresh_token", qr.GrantType}, []string{"openid", "offline_access"}
	web.RedirectURIs, web.FirstParty, web.QR = []string{providertest.RedirectURI}, true, storage.QRPolicy{Enabled: true}
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{web}})
	post := func(k *assertionKey, path string, form url.Values) *providertest.Reply {
		return s.Post(t.Context(), s.Client(), path, asserting(form, k.assertion(t, s, "signer")))
	}
	verifier, challenge := providertest.Verifier()
	redirect := s.Code(t.Context(), s.Browser(), providertest.AuthorizeQuery("signer", "openid offline_access", challenge))
	tokens := post(old, "/token", url.Values{
		"grant_type": {"authorization_code"}, "code": {redirect.Location().Query().Get("code")}, "redirect_uri": {providertest.RedirectURI}, "code_verifier": {verifier},
	})
	grantedTokens(t, tokens)

	// The answer is lost; the client asks again, with its next key.
	refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens.Text("refresh_token")}}
	grantedTokens(t, post(old, "/token", refresh))
	again := post(rotated, "/token", refresh)
	grantedTokens(t, again)

	if about := post(rotated, "/introspect", url.Values{"token": {again.Text("access_token")}}); about.JSON()["active"] != true {
		t.Errorf("introspection: %s", about.Body)
	}
	if gone := post(rotated, "/revoke", url.Values{"token": {again.Text("access_token")}}); gone.Status != http.StatusOK {
		t.Errorf("revocation: %d %s", gone.Status, gone.Body)
	}
	if about := post(rotated, "/introspect", url.Values{"token": {again.Text("access_token")}}); about.JSON()["active"] != false {
		t.Errorf("introspection of what was revoked: %s", about.Body)
	}
	start := post(old, "/device_authorization", url.Values{"scope": {"openid"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"}})
	if start.Status != http.StatusOK {
		t.Fatalf("start: %d %s", start.Status, start.Body)
	}
	poll := url.Values{"grant_type": {qr.GrantType}, "device_code": {start.Text("device_code")}, "code_verifier": {verifier}}
	refusedWith(t, post(old, "/token", poll), http.StatusBadRequest, "authorization_pending")
	// Nobody else gets anywhere with the id alone.
	for _, path := range []string{"/token", "/introspect", "/revoke", "/device_authorization"} {
		form := maps.Clone(poll)
		form.Set("client_id", "signer")
		form.Set("token", "x")
		refusedWith(t, s.Post(t.Context(), s.Client(), path, form), http.StatusUnauthorized, "invalid_client")
	}
}

// FuzzClientAssertion signs any payload and sends any text: only the client's own claims pass.
func FuzzClientAssertion(f *testing.F) {
	key := newAssertionKey(f, jose.ES256, "k")
	s := providertest.NewServer(f, providertest.Options{Clients: []*storage.Client{signingClient("signer", jwksOf(f, key))}})
	good := string(saying(s, "signer", nil))
	for _, payload := range []string{
		good, "", "{}", "null", "[]", strings.Replace(good, "{", `{"iss":"x",`, 1), strings.Replace(good, `"signer"`, `"signer\u0000"`, 1),
		strings.Replace(good, `"exp":`, `"exp":1e`, 1), `{"aud":{"a":[{}]}}`, good + " ", "\xef\xbb\xbf" + good,
	} {
		f.Add([]byte(payload), true)
		f.Add([]byte(payload), false)
	}
	f.Add([]byte(key.assertion(f, s, "signer")), false)
	f.Fuzz(func(t *testing.T, payload []byte, signed bool) {
		compact := string(payload)
		if signed {
			compact = key.sign(t, payload, nil)
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, s.Issuer+"/token", strings.NewReader(asserting(clientCredentials(), compact).Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		s.Provider.ServeHTTP(w, r)
		if w.Code >= 500 || w.Code != http.StatusOK && !strings.Contains(w.Body.String(), `"error"`) {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		var said map[string]any
		if w.Code == http.StatusOK && signed && (json.Unmarshal(payload, &said) != nil || said["iss"] != "signer" || said["sub"] != "signer") {
			t.Fatalf("%q was good", payload)
		}
	})
}
