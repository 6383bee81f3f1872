package provider_test

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

func TestOPDynamicIDTokenRS256(t *testing.T) {
	p := dynamic(t, map[string]any{"id_token_signed_response_alg": "RS256"})
	e := p.signIn()
	var header struct{ Alg, Kid string }
	decodeSegment(t, e.raw(), 0, &header)
	if header.Alg != "RS256" || header.Kid == "" {
		t.Errorf("header %+v", header)
	}
	if unsaid := p.another(nil); unsaid.alg() != "RS256" {
		t.Errorf("a client that says nothing gets %s", unsaid.alg())
	}
	for _, alg := range []string{"ES256", "EdDSA"} {
		other := p.another(map[string]any{"id_token_signed_response_alg": alg})
		if decodeSegment(t, other.signIn().raw(), 0, &header); header.Alg != alg {
			t.Errorf("registered %s, signed with %s", alg, header.Alg)
		}
	}
}

// The module is skipped: the algorithm none is not offered. Nor can it be registered.
func TestOPDynamicIDTokenUnsigned(t *testing.T) {
	p := dynamic(t, nil)
	if algs := p.offers("id_token_signing_alg_values_supported"); slices.Contains(algs, "none") || !slices.Contains(algs, "RS256") {
		t.Errorf("offered %v", algs)
	}
	wantError(t, p.Register(t.Context(), p.metadata(p.key, map[string]any{"id_token_signed_response_alg": "none"})),
		http.StatusBadRequest, "invalid_client_metadata")
}

func TestOPDynamicUserinfoRS256(t *testing.T) {
	p := dynamic(t, map[string]any{"userinfo_signed_response_alg": "RS256"})
	e := p.signIn("scope", "openid email")
	reply := p.Bearer(t.Context(), "/userinfo", e.tokens.AccessToken)
	var header struct{ Alg string }
	decodeSegment(t, reply.Body, 0, &header)
	if reply.Header.Get("Content-Type") != "application/jwt" || header.Alg != "RS256" {
		t.Fatalf("%v %+v", reply.Header, header)
	}
	want := map[string]any{"iss": p.Issuer, "aud": p.client, "sub": providertest.AliceSubject, "email": "alice@example.org", "email_verified": true}
	if diff := cmp.Diff(want, p.infoOf(reply)); diff != "" {
		t.Error(diff)
	}
	// A library that knows only the metadata reads it too.
	info, err := p.library.UserInfo(oidc.ClientContext(t.Context(), p.HTTP.Client()), source(e.tokens.AccessToken))
	if err != nil || info.Subject != providertest.AliceSubject || info.Email != "alice@example.org" {
		t.Errorf("go-oidc: %+v, %v", info, err)
	}
	// Without the wish the answer is JSON.
	plain := p.another(nil)
	reply = plain.Bearer(t.Context(), "/userinfo", plain.signIn().tokens.AccessToken)
	if !strings.HasPrefix(reply.Header.Get("Content-Type"), "application/json") {
		t.Errorf("%v", reply.Header)
	}
}

func TestOPDynamicEnsureRedirectURIInAuthorizationRequest(t *testing.T) {
	p := dynamic(t, map[string]any{"redirect_uris": []string{providertest.RedirectURI, "https://web.example/second"}})
	p.wantErrorPage(p.ask("redirect_uri", ""))
	p.signIn()
}

const queryRedirect = providertest.RedirectURI + "?dummy1=lorem&dummy2=ipsum"

func TestOPDynamicRedirectURIQueryOK(t *testing.T) {
	p := dynamic(t, map[string]any{"redirect_uris": []string{queryRedirect}})
	reply := p.Code(t.Context(), p.browser, p.request("redirect_uri", queryRedirect))
	answer := p.answerOf(reply)
	wantMembers(t, "answer", answer, "code", "dummy1", "dummy2", "iss", "state")
	if answer.Get("dummy1") != "lorem" || answer.Get("dummy2") != "ipsum" {
		t.Errorf("answer %v", answer)
	}
	tokens := tokensOf(t, p.redeemed(answer, "redirect_uri", queryRedirect))
	p.claimsOf(tokens.IDToken, "a-nonce", tokens.AccessToken, "")
}

func TestOPDynamicRedirectURIQueryMismatch(t *testing.T) {
	p := dynamic(t, map[string]any{"redirect_uris": []string{queryRedirect}})
	for _, sent := range []string{
		providertest.RedirectURI + "?dummy1=lorem&dummy2=other", providertest.RedirectURI + "?dummy2=ipsum&dummy1=lorem", providertest.RedirectURI,
	} {
		p.wantErrorPage(p.ask("redirect_uri", sent))
	}
}

func TestOPDynamicRedirectURIQueryAdded(t *testing.T) {
	p := dynamic(t, nil)
	p.wantErrorPage(p.ask("redirect_uri", queryRedirect))
	p.signIn()
}

func TestOPDynamicRedirectURIRegfrag(t *testing.T) {
	p := dynamic(t, nil)
	for _, uri := range []string{providertest.RedirectURI + "#foobar", providertest.RedirectURI + "#"} {
		reply := p.Register(t.Context(), p.metadata(p.key, map[string]any{"redirect_uris": []string{uri}}))
		wantError(t, reply, http.StatusBadRequest, "invalid_redirect_uri")
	}
}

func TestOPDynamicDiscoveryEndpointVerification(t *testing.T) {
	p := dynamic(t, nil)
	document := p.metadataDocument()
	if document["issuer"] != p.Issuer || document["registration_endpoint"] != p.Issuer+"/register" {
		t.Errorf("issuer %v, registration at %v", document["issuer"], document["registration_endpoint"])
	}
	for name, value := range document {
		address, _ := value.(string)
		if strings.HasSuffix(name, "_endpoint") && !strings.HasPrefix(address, "https://") || !slices.Contains(knownMetadata(), name) {
			t.Errorf("%s is %v", name, value)
		}
	}
	for name, want := range map[string][]string{
		"response_types_supported":                         {"code", "id_token", "id_token token", "code id_token", "code token", "code id_token token"},
		"response_modes_supported":                         {"query", "fragment", "form_post"},
		"grant_types_supported":                            {"authorization_code", "implicit"},
		"subject_types_supported":                          {"public", "pairwise"},
		"token_endpoint_auth_methods_supported":            {"private_key_jwt"},
		"id_token_signing_alg_values_supported":            {"RS256"},
		"userinfo_signing_alg_values_supported":            {"RS256"},
		"request_object_signing_alg_values_supported":      {"RS256"},
		"token_endpoint_auth_signing_alg_values_supported": {"RS256", "ES256"},
	} {
		offered := p.offers(name)
		for _, value := range want {
			if !slices.Contains(offered, value) {
				t.Errorf("%s %v lacks %s", name, offered, value)
			}
		}
	}
	if document["request_parameter_supported"] != true || document["request_uri_parameter_supported"] != true || document["require_request_uri_registration"] != true {
		t.Errorf("request objects: %v", document)
	}
}

// Every algorithm that is offered authenticates, with the key by value.
func TestOPDynamicServer(t *testing.T) {
	p := dynamic(t, nil)
	for _, alg := range p.offers("token_endpoint_auth_signing_alg_values_supported") {
		if alg == string(jose.ES384) {
			continue // the same kind of key on a larger curve
		}
		key := providertest.NewClientKey(t, jose.SignatureAlgorithm(alg), "of "+alg)
		client := p.another(map[string]any{"jwks": providertest.JWKS(key), "token_endpoint_auth_signing_alg": alg})
		client.key = key
		if e := client.signIn("state", longState); e.idToken()["sub"] != providertest.AliceSubject {
			t.Errorf("%s: %v", alg, e.idToken())
		}
		// The keys of others are worth nothing.
		reply := p.PostSigned(t.Context(), p.key, client.client, "/token", url.Values{"grant_type": {"authorization_code"}, "code": {"a-code"}})
		wantError(t, reply, http.StatusUnauthorized, "invalid_client")
	}
}

// wantOnFirstPage checks that the sign-in page shows what a client registered, and that of a
// client that registered nothing shows none of it.
func wantOnFirstPage(t *testing.T, member, address, shown string) {
	t.Helper()
	p := dynamic(t, map[string]any{member: address})
	if page := p.ask(); !isSignIn(page) || !strings.Contains(page.Body, shown) {
		t.Errorf("no %s: %d %s", shown, page.Status, page.Body)
	}
	if page := p.another(nil).ask(); !isSignIn(page) || strings.Contains(page.Body, shown) {
		t.Errorf("%s of another client: %d", shown, page.Status)
	}
}

func TestOPDynamicRegistrationLogoURI(t *testing.T) {
	wantOnFirstPage(t, "logo_uri", "https://web.example/logo.png", `src="https://web.example/logo.png"`)
}

func TestOPDynamicRegistrationPolicyURI(t *testing.T) {
	wantOnFirstPage(t, "policy_uri", "https://web.example/policy", `href="https://web.example/policy"`)
}

func TestOPDynamicRegistrationTOSURI(t *testing.T) {
	wantOnFirstPage(t, "tos_uri", "https://web.example/terms", `href="https://web.example/terms"`)
}

func TestOPDynamicRegistrationJWKSURI(t *testing.T) {
	p := dynamic(t, nil)
	key := providertest.NewClientKey(t, jose.ES256, "at-an-address")
	client := p.another(map[string]any{
		"jwks": nil, "jwks_uri": p.docs.PutJSON("/jwks", providertest.JWKS(key)), "token_endpoint_auth_signing_alg": "ES256",
	})
	client.key = key
	client.signIn()
	client.silent()
	if n := p.docs.Reads("/jwks"); n != 1 {
		t.Errorf("the keys were read %d times", n)
	}
}

const secondRedirect = "https://shop.example/callback"

// Clients of one sector know the person by one name, which others do not.
func TestOPDynamicRegistrationSectorURI(t *testing.T) {
	p := dynamic(t, nil)
	list := p.docs.PutJSON("/sector.json", []string{providertest.RedirectURI, secondRedirect})
	sector := map[string]any{"subject_type": "pairwise", "sector_identifier_uri": list, "redirect_uris": []string{providertest.RedirectURI, secondRedirect}}
	subs := map[string]any{}
	for name, client := range map[string]*party{
		"one": p.another(sector), "two": p.another(sector), "elsewhere": p.another(map[string]any{"subject_type": "pairwise"}), "public": p.another(nil),
	} {
		e := client.signIn("scope", "openid email")
		subs[name] = e.idToken()["sub"]
		if sub := client.info(e)["sub"]; sub != subs[name] {
			t.Errorf("%s: userinfo calls the person %v, the ID token %v", name, sub, subs[name])
		}
	}
	if subs["public"] != providertest.AliceSubject || subs["one"] != subs["two"] || subs["one"] == subs["public"] || subs["one"] == subs["elsewhere"] || subs["elsewhere"] == subs["public"] {
		t.Errorf("subjects %v", subs)
	}
	if p.docs.Reads("/sector.json") == 0 {
		t.Error("the list was not read")
	}
}

func TestOPDynamicRegistrationSectorBad(t *testing.T) {
	p := dynamic(t, nil)
	for name, address := range map[string]string{
		"a list without the redirect URI": p.docs.PutJSON("/other.json", []string{secondRedirect}),
		"an empty list":                   p.docs.PutJSON("/empty.json", []string{}),
		"no list":                         p.docs.PutJSON("/object.json", map[string]any{"redirect_uris": []string{providertest.RedirectURI}}),
		"nothing":                         p.docs.URL + "/nothing.json",
		"no TLS":                          "http" + strings.TrimPrefix(p.docs.PutJSON("/plain.json", []string{providertest.RedirectURI}), "https"),
	} {
		reply := p.Register(t.Context(), p.metadata(p.key, map[string]any{"subject_type": "pairwise", "sector_identifier_uri": address}))
		if reply.Status != http.StatusBadRequest || reply.Text("error") != "invalid_client_metadata" {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Body)
		}
	}
}

// The new key is published beside the old one, which still verifies what it has signed.
func TestOPDynamicServerRotateKeys(t *testing.T) {
	p := dynamic(t, map[string]any{"id_token_signed_response_alg": "ES256"})
	e := p.signIn()
	var before, after struct{ Kid string }
	decodeSegment(t, e.raw(), 0, &before)
	p.Clock.Advance(89 * day)
	sweep(t, p.Server)
	p.Clock.Advance(day)
	decodeSegment(t, p.signIn().raw(), 0, &after)
	if published := kids(t, p.Server); before.Kid == after.Kid || !slices.Contains(published, before.Kid) || !slices.Contains(published, after.Kid) {
		t.Errorf("signed by %s, then %s; published %v", before.Kid, after.Kid, published)
	}
	p.silent("prompt", "none", "id_token_hint", e.raw())
}

// A refresh token outlives the key that its client had then.
func TestOPDynamicRefreshTokenRPKeyRotation(t *testing.T) {
	p := dynamic(t, nil)
	former, next := providertest.NewClientKey(t, jose.ES256, "former"), providertest.NewClientKey(t, jose.ES256, "next")
	client := p.another(map[string]any{
		"jwks": nil, "jwks_uri": p.docs.PutJSON("/jwks", providertest.JWKS(former)), "token_endpoint_auth_signing_alg": "ES256",
	})
	client.key = former
	tokens := client.signIn("scope", "openid offline_access", "prompt", "consent").tokens
	// The keys are good for ten minutes; an unknown kid has them read again before that.
	p.docs.PutJSON("/jwks", providertest.JWKS(next))
	p.Clock.Advance(2 * time.Minute)
	client.key = next
	tokens = tokensOf(t, client.refreshed(tokens.RefreshToken))
	client.claimsOf(tokens.IDToken, "", tokens.AccessToken, "")
	client.key = former
	wantError(t, client.refreshed(tokens.RefreshToken), http.StatusUnauthorized, "invalid_client")
}

// The module is skipped: the algorithm none is not offered. Nor is such an object taken.
func TestOPDynamicRequestURIUnsigned(t *testing.T) {
	p := dynamic(t, nil)
	address := p.docs.Put("/request.jwt", "application/oauth-authz-req+jwt", unsignedObject)
	if algs := p.offers("request_object_signing_alg_values_supported"); slices.Contains(algs, "none") || len(algs) == 0 {
		t.Errorf("offered %v", algs)
	}
	client := p.another(map[string]any{"request_uris": []string{address}})
	if got := client.refusal("request_uri", address); got != "invalid_request_object" {
		t.Errorf("error %q", got)
	}
	wantError(t, p.Register(t.Context(), p.metadata(p.key, map[string]any{"request_object_signing_alg": "none"})), http.StatusBadRequest, "invalid_client_metadata")
}

func TestOPDynamicRequestURISignedRS256(t *testing.T) {
	p := dynamic(t, nil)
	key := providertest.NewClientKey(t, jose.RS256, "for-requests")
	path := p.docs.URL + "/request.jwt"
	client := p.another(map[string]any{
		"jwks": providertest.JWKS(p.key, key), "request_object_signing_alg": "RS256", "token_endpoint_auth_signing_alg": "ES256",
		"request_uris": []string{path, path + "#sha256-of-another"},
	})
	client.key = p.key
	object := client.object(key, "nonce", "of-the-object", "state", "of-the-object")
	sum := sha256.Sum256([]byte(object))
	named := path + "#" + base64.RawURLEncoding.EncodeToString(sum[:])
	client = client.updated(map[string]any{"request_uris": []string{path, named}})
	p.docs.Put("/request.jwt", "application/oauth-authz-req+jwt", object)
	for _, address := range []string{path, named} {
		reply := client.Code(t.Context(), client.as(t).browser, client.outside("request_uri", address))
		client.finish(reply, "state", "of-the-object", "nonce", "of-the-object")
	}
	if p.docs.Reads("/request.jwt") == 0 {
		t.Error("the object was not read")
	}
	// Another key, another algorithm, an address of nobody: none of them is applied.
	foreign := providertest.NewClientKey(t, jose.RS256, "for-requests")
	for name, put := range map[string]string{"a foreign key": client.object(foreign), "another algorithm": client.object(p.key)} {
		p.docs.Put("/request.jwt", "application/oauth-authz-req+jwt", put)
		if got := client.refusal("request_uri", path); got != "invalid_request_object" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := client.refusal("request_uri", p.docs.URL+"/other.jwt"); got != "invalid_request_uri" || p.docs.Reads("/other.jwt") != 0 {
		t.Errorf("an address that was not registered: %q", got)
	}
}

// The redirect URI of the object counts, whatever stands beside it.
func TestOPDynamicEnsureRequestObjectWithRedirectURI(t *testing.T) {
	p := dynamic(t, map[string]any{"redirect_uris": []string{providertest.RedirectURI, secondRedirect}})
	for _, beside := range []string{"https://evil.example/callback", secondRedirect, providertest.RedirectURI} {
		reply := p.Code(t.Context(), p.browser, p.outside("request", p.object(p.key), "redirect_uri", beside))
		p.finish(reply)
	}
	p.wantErrorPage(p.ask("request", p.object(p.key, "redirect_uri", "https://evil.example/callback")))
}

func TestOPDynamicRefreshToken(t *testing.T) {
	p := dynamic(t, nil)
	p.refreshes(p.another(nil))
}

// refreshes runs the module refresh-token with a second client.
func (p *party) refreshes(second *party) {
	p.t.Helper()
	offline := []string{"scope", "openid offline_access", "prompt", "consent"}
	first, other := p.signIn(offline...), second.signIn(offline...)
	if first.tokens.RefreshToken == "" || other.tokens.RefreshToken == "" {
		p.t.Fatalf("no refresh token: %+v", first.tokens)
	}
	p.Clock.Advance(2 * time.Second)
	renewed := tokensOf(p.t, p.refreshed(first.tokens.RefreshToken))
	claims := p.claimsOf(renewed.IDToken, "", renewed.AccessToken, "")
	for _, name := range []string{"iss", "sub", "aud", "auth_time", "sid"} {
		if first.back[name] != claims[name] || claims[name] == nil {
			p.t.Errorf("%s %v, then %v", name, first.back[name], claims[name])
		}
	}
	if claims["iat"].(float64) <= first.back["iat"].(float64) || renewed.AccessToken == first.tokens.AccessToken || renewed.RefreshToken == first.tokens.RefreshToken {
		p.t.Errorf("iat %v, then %v; or a token came twice", first.back["iat"], claims["iat"])
	}
	wantError(p.t, p.refreshed(other.tokens.RefreshToken), http.StatusBadRequest, "invalid_grant")
}

// Both the issuer and the token endpoint are audiences that a registered client may write.
func TestOPDynamicEnsureClientAssertionWithIssAudSucceeds(t *testing.T) {
	p := dynamic(t, nil)
	assertedFor := func(audience any) *providertest.Reply {
		answer := p.answerOf(p.Code(t.Context(), p.browser, p.request()))
		form := url.Values{"grant_type": {"authorization_code"}, "code": {answer.Get("code")}, "redirect_uri": {providertest.RedirectURI}}
		return p.Post(t.Context(), p.Client(), "/token", providertest.AssertionForm(form, p.Assertion(p.key, p.client, map[string]any{"aud": audience})))
	}
	for _, audience := range []any{p.Issuer, p.Issuer + "/token", []string{p.Issuer}, []string{p.Issuer + "/token", p.Issuer}} {
		tokens := tokensOf(t, assertedFor(audience))
		p.claimsOf(tokens.IDToken, "a-nonce", tokens.AccessToken, "")
	}
	for _, audience := range []any{nil, "", "https://other.example", p.Issuer + "/", []string{p.Issuer, "https://other.example"}, []string{}} {
		wantError(t, assertedFor(audience), http.StatusUnauthorized, "invalid_client")
	}
}

// updated changes what the client registered (RFC 7592 §2.2).
func (p *party) updated(changes map[string]any) *party {
	p.t.Helper()
	metadata := p.registered.JSON()
	for _, name := range []string{"registration_access_token", "registration_client_uri", "client_id_issued_at"} {
		delete(metadata, name)
	}
	for name, value := range changes {
		metadata[name] = value
	}
	reply := p.SendJSON(p.t.Context(), http.MethodPut, p.registered.Text("registration_client_uri"), p.registered.Text("registration_access_token"), metadata)
	if reply.Status != http.StatusOK {
		p.t.Fatalf("update: %d %s", reply.Status, reply.Body)
	}
	same := *p
	same.registered = reply
	return &same
}
