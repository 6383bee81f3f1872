package provider_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

// party is a client that has registered itself, as those of the suite's dynamic, implicit, hybrid
// and form-post plans do: it has a key instead of a secret and knows no PKCE. The provider has
// every switch on.
type party struct {
	*op
	docs *providertest.Documents
	key  *providertest.ClientKey
	// registered is the answer to its registration.
	registered *providertest.Reply
	library    *oidc.Provider
}

// newParty runs a provider and registers a client for the response types. changes replace
// metadata; nil leaves a member out.
func newParty(t *testing.T, types, mode string, changes map[string]any) *party {
	t.Helper()
	docs := providertest.NewDocuments(t)
	p := &party{op: newOP(t, mode, nil, providertest.EverySwitch(docs)), docs: docs}
	p.types = types
	_, p.library, _ = relyingParty(t, p.Server, "")
	return p.another(changes)
}

// dynamic is newParty for the code flow.
func dynamic(t *testing.T, changes map[string]any) *party {
	t.Helper()
	t.Parallel()
	return newParty(t, "code", "query", changes)
}

// another registers a further client at the same provider, with a browser of its own.
func (p *party) another(changes map[string]any) *party {
	p.t.Helper()
	key := providertest.NewClientKey(p.t, jose.ES256, "a-key")
	reply := p.Register(p.t.Context(), p.metadata(key, changes))
	if reply.Status != http.StatusCreated || !strings.HasPrefix(reply.Header.Get("Content-Type"), "application/json") || reply.Text("client_id") == "" {
		p.t.Fatalf("registration: %d %s", reply.Status, reply.Body)
	}
	operator := *p.op
	operator.client, operator.browser = reply.Text("client_id"), p.Browser()
	return &party{op: &operator, docs: p.docs, key: key, registered: reply, library: p.library}
}

// metadata is what a client registers with.
func (p *party) metadata(key *providertest.ClientKey, changes map[string]any) map[string]any {
	grants := []string{}
	if strings.Contains(p.types, "code") {
		grants = append(grants, "authorization_code", "refresh_token")
	}
	if p.types != "code" {
		grants = append(grants, "implicit")
	}
	metadata := map[string]any{
		"client_name": "A client of the suite", "redirect_uris": []string{providertest.RedirectURI}, "response_types": []string{p.types},
		"grant_types": grants, "token_endpoint_auth_method": "private_key_jwt", "jwks": providertest.JWKS(key), "contacts": []string{"certification@oidf.org"},
	}
	maps.Copy(metadata, changes)
	maps.DeleteFunc(metadata, func(_ string, value any) bool { return value == nil })
	return metadata
}

// as is the party in a subtest, with a browser that knows nobody.
func (p *party) as(t *testing.T) *party {
	t.Helper()
	same, operator := *p, *p.op
	operator.t, operator.browser = t, p.Browser()
	same.op = &operator
	return &same
}

func (p *party) has(word string) bool { return slices.Contains(strings.Fields(p.types), word) }

// exchanged is all that came of one authorization request.
type exchanged struct {
	answer url.Values
	// front and back are the claims of the ID tokens of the two endpoints; nil where there is none.
	front, back map[string]any
	tokens      providertest.Tokens
	// access are the access tokens of both endpoints, the front one first.
	access []string
}

// idToken returns the claims of the ID token that came first.
func (e *exchanged) idToken() map[string]any {
	if e.front != nil {
		return e.front
	}
	return e.back
}

// raw returns that ID token.
func (e *exchanged) raw() string {
	if e.front != nil {
		return e.answer.Get("id_token")
	}
	return e.tokens.IDToken
}

// signIn runs a request to its end, signing in and allowing as asked, and checks all that every
// module checks.
func (p *party) signIn(changes ...string) *exchanged {
	p.t.Helper()
	return p.finish(p.Code(p.t.Context(), p.browser, p.request(changes...)), changes...)
}

// silent is signIn for a request that must need nobody.
func (p *party) silent(changes ...string) *exchanged {
	p.t.Helper()
	return p.finish(p.ask(changes...), changes...)
}

// answered checks what an answer that is no error holds: what the response type names, the state,
// the issuer and nothing else.
func (p *party) answered(reply *providertest.Reply, q url.Values) url.Values {
	p.t.Helper()
	answer := p.answerOf(reply)
	want := []string{"iss", "state"}
	for _, word := range strings.Fields(p.types) {
		want = append(want, map[string][]string{"code": {"code"}, "id_token": {"id_token"}, "token": {"access_token", "token_type", "expires_in"}}[word]...)
	}
	if p.has("token") && strings.Contains(q.Get("scope"), "offline_access") {
		// There is no refresh token beside the access token of the front channel.
		want = append(want, "scope")
	}
	if answer == nil {
		p.t.Fatalf("no answer: %d %s %s", reply.Status, reply.Header.Get("Location"), reply.Body)
	}
	wantMembers(p.t, p.types, answer, want...)
	if answer.Get("iss") != p.Issuer || answer.Get("state") != q.Get("state") || p.has("token") && answer.Get("token_type") != "Bearer" {
		p.t.Fatalf("answer %v", answer)
	}
	return answer
}

// finish takes the answer to the request, redeems its code and checks every token of it.
func (p *party) finish(reply *providertest.Reply, changes ...string) *exchanged {
	p.t.Helper()
	q := p.request(changes...)
	e := &exchanged{answer: p.answered(reply, q)}
	if p.has("id_token") {
		e.front = p.claimsOf(e.answer.Get("id_token"), q.Get("nonce"), e.answer.Get("access_token"), e.answer.Get("code"))
	}
	if p.has("token") {
		e.access = append(e.access, e.answer.Get("access_token"))
	}
	if p.has("code") {
		e.tokens = tokensOf(p.t, p.redeemed(e.answer))
		e.access = append(e.access, e.tokens.AccessToken)
		e.back = p.claimsOf(e.tokens.IDToken, q.Get("nonce"), e.tokens.AccessToken, "")
	}
	if e.front != nil && e.back != nil && (e.front["sub"] != e.back["sub"] || e.front["iss"] != e.back["iss"] || e.front["sid"] != e.back["sid"]) {
		p.t.Errorf("the front channel is about %v, the token endpoint about %v", e.front, e.back)
	}
	for _, token := range e.access {
		if reply := p.Bearer(p.t.Context(), "/userinfo", token); reply.Status != http.StatusOK || e.idToken() != nil && p.infoOf(reply)["sub"] != e.idToken()["sub"] {
			p.t.Errorf("userinfo: %d %s", reply.Status, reply.Body)
		}
	}
	return e
}

// infoOf reads an answer of userinfo, signed or not.
func (p *party) infoOf(reply *providertest.Reply) map[string]any {
	p.t.Helper()
	if reply.Header.Get("Content-Type") != "application/jwt" {
		return reply.JSON()
	}
	return p.verified(reply.Body, "JWT")
}

// redeemed redeems the code of an answer with an assertion. changes replace members of the form.
func (p *party) redeemed(answer url.Values, changes ...string) *providertest.Reply {
	p.t.Helper()
	form := url.Values{"grant_type": {"authorization_code"}, "code": {answer.Get("code")}, "redirect_uri": {providertest.RedirectURI}}
	for i := 0; i < len(changes); i += 2 {
		form.Set(changes[i], changes[i+1])
	}
	return p.PostSigned(p.t.Context(), p.key, p.client, "/token", form)
}

// refreshed redeems a refresh token with an assertion.
func (p *party) refreshed(token string) *providertest.Reply {
	p.t.Helper()
	return p.PostSigned(p.t.Context(), p.key, p.client, "/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
}

// claimsOf has go-oidc check an ID token, and checks what go-oidc does not: the nonce, and that it
// vouches for the access token and the code that it came with (OpenID Connect Core §3.3.2.11).
func (p *party) claimsOf(raw, nonce, accessToken, code string) map[string]any {
	p.t.Helper()
	verifier := p.library.Verifier(&oidc.Config{
		ClientID: p.client, SupportedSigningAlgs: []string{p.alg()}, Now: p.Clock.Now,
	})
	token, err := verifier.Verify(p.t.Context(), raw)
	if err != nil {
		p.t.Fatalf("%v: %s", err, raw)
	}
	var claims map[string]any
	if err := token.Claims(&claims); err != nil {
		p.t.Fatal(err)
	}
	if token.Nonce != nonce || claims["auth_time"].(float64) > float64(token.IssuedAt.Unix()) || claims["sid"] == "" {
		p.t.Errorf("nonce %q, claims %v", token.Nonce, claims)
	}
	if accessToken != "" {
		if err := token.VerifyAccessToken(accessToken); err != nil {
			p.t.Errorf("at_hash: %v", err)
		}
	}
	if _, vouches := claims["at_hash"]; vouches != (accessToken != "") {
		p.t.Errorf("at_hash %v for the token %q", claims["at_hash"], accessToken)
	}
	var want any
	if code != "" {
		sum := sha256.Sum256([]byte(code))
		want = base64.RawURLEncoding.EncodeToString(sum[:sha256.Size/2])
	}
	if claims["c_hash"] != want {
		p.t.Errorf("c_hash %v, want %v", claims["c_hash"], want)
	}
	return claims
}

// alg is the algorithm of ID tokens that the registration was answered with.
func (p *party) alg() string { return p.registered.Text("id_token_signed_response_alg") }

// info asks userinfo with every access token; the answers must not differ.
func (p *party) info(e *exchanged) map[string]any {
	p.t.Helper()
	var info map[string]any
	for _, token := range e.access {
		got := p.infoOf(p.Bearer(p.t.Context(), "/userinfo", token))
		if info != nil && fmt.Sprint(got) != fmt.Sprint(info) {
			p.t.Errorf("userinfo says %v to one token and %v to the other", info, got)
		}
		info = got
	}
	return info
}

// object returns a request object of the party's, and the claims of request.
func (p *party) object(key *providertest.ClientKey, changes ...string) string {
	p.t.Helper()
	claims := map[string]any{"iss": p.client, "aud": p.Issuer, "exp": p.Clock.Now().Unix() + 60}
	for name, values := range p.request(changes...) {
		claims[name] = values[0]
	}
	return key.Sign(p.t, "oauth-authz-req+jwt", claims)
}

// outside is the request that an object comes with: no more than OAuth 2.0 demands.
func (p *party) outside(changes ...string) url.Values {
	q := url.Values{"client_id": {p.client}, "response_type": {p.types}, "scope": {"openid"}}
	for i := 0; i < len(changes); i += 2 {
		q.Set(changes[i], changes[i+1])
	}
	return q
}

// metadataDocument is what discovery says.
func (o *op) metadataDocument() map[string]any {
	o.t.Helper()
	reply := o.Get(o.t.Context(), o.Client(), "/.well-known/openid-configuration")
	var document map[string]any
	if err := json.Unmarshal([]byte(reply.Body), &document); err != nil || reply.Status != http.StatusOK {
		o.t.Fatalf("discovery: %d %v", reply.Status, err)
	}
	return document
}

// offers returns a list of the metadata.
func (o *op) offers(name string) []string {
	o.t.Helper()
	var values []string
	list, _ := o.metadataDocument()[name].([]any)
	for _, value := range list {
		text, _ := value.(string)
		values = append(values, text)
	}
	return values
}

// source hands go-oidc an access token.
func source(token string) oauth2.TokenSource {
	return oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token})
}
