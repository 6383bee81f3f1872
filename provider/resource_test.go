package provider_test

import (
	"crypto/sha256"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// audienceOf is what introspection says a token of a client is for.
func audienceOf(t *testing.T, s *providertest.Server, clientID, token string) []string {
	t.Helper()
	reply := s.PostAs(t.Context(), clientID, "/introspect", url.Values{"token": {token}})
	list, _ := reply.JSON()["aud"].([]any)
	if reply.JSON()["active"] != true {
		t.Errorf("introspected: %d %s", reply.Status, reply.Body)
	}
	var audience []string
	for _, a := range list {
		text, _ := a.(string)
		audience = append(audience, text)
	}
	return audience
}

// What was granted bounds every access token; a token request narrows its own and no other.
func TestResourcesNarrowOneAccessToken(t *testing.T) {
	t.Parallel()
	const other = "https://other.example/"
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{jwtClient("jwt", "")}})
	granted := url.Values{"resource": {jwtAPI, other}}
	redeem := func(resources ...string) *providertest.Reply {
		form := codeForm(t, s, "jwt", "openid offline_access", granted)
		form["resource"] = resources
		return s.PostAs(t.Context(), "jwt", "/token", form)
	}
	wantAudience := func(tokens providertest.Tokens, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, audienceOf(t, s, "jwt", tokens.AccessToken)); diff != "" {
			t.Errorf("stored: %s", diff)
		}
		claimed, _ := verifiedJWT(t, s, tokens.AccessToken, "ES256", "at+jwt")["aud"].([]any)
		if len(claimed) != len(want) || claimed[0] != want[0] {
			t.Errorf("claimed: %v, want %v", claimed, want)
		}
	}
	wantAudience(tokensOf(t, redeem()), jwtAPI, other)
	narrowed := tokensOf(t, redeem(other, other))
	wantAudience(narrowed, other)
	next := tokensOf(t, refresh(t, s, "jwt", narrowed.RefreshToken, nil))
	wantAudience(next, jwtAPI, other)
	next = tokensOf(t, refresh(t, s, "jwt", next.RefreshToken, url.Values{"resource": {jwtAPI}}))
	wantAudience(next, jwtAPI)

	code := codeForm(t, s, "jwt", "openid", granted)
	for _, bad := range [][]string{{"https://third.example/"}, {jwtAPI, "https://third.example/"}, {s.Issuer}, {"x"}, {jwtAPI + "#"}} {
		code["resource"] = bad
		wantError(t, s.PostAs(t.Context(), "jwt", "/token", code), http.StatusBadRequest, "invalid_target")
		wantError(t, refresh(t, s, "jwt", next.RefreshToken, url.Values{"resource": bad}), http.StatusBadRequest, "invalid_target")
	}
	// Nothing was used up by what was refused.
	delete(code, "resource")
	wantAudience(tokensOf(t, s.PostAs(t.Context(), "jwt", "/token", code)), jwtAPI, other)
	wantAudience(tokensOf(t, refresh(t, s, "jwt", next.RefreshToken, nil)), jwtAPI, other)

	// Who asked for none at the authorization endpoint was granted none.
	plain := codeForm(t, s, "jwt", "openid", nil)
	plain["resource"] = []string{jwtAPI}
	wantError(t, s.PostAs(t.Context(), "jwt", "/token", plain), http.StatusBadRequest, "invalid_target")
}

// A resource that the client may no longer ask for is not refreshed.
func TestResourceTakenAway(t *testing.T) {
	t.Parallel()
	client := jwtClient("jwt", "")
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{client}})
	tokens := tokensOf(t, s.PostAs(t.Context(), "jwt", "/token", codeForm(t, s, "jwt", "openid offline_access", url.Values{"resource": {jwtAPI}})))
	client.Resources = nil
	if err := s.Store.PutClient(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	wantError(t, refresh(t, s, "jwt", tokens.RefreshToken, nil), http.StatusBadRequest, "invalid_target")
}

// A client asks for its own tokens with the resources it may ask for.
func TestResourcesOfAClientsOwnToken(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{jwtClient("jwt", "")}})
	own := func(resources ...string) *providertest.Reply {
		return s.PostAs(t.Context(), "jwt", "/token", url.Values{"grant_type": {"client_credentials"}, "resource": resources})
	}
	if diff := cmp.Diff([]string{jwtAPI, s.Issuer}, audienceOf(t, s, "jwt", tokensOf(t, own(jwtAPI, s.Issuer, jwtAPI)).AccessToken)); diff != "" {
		t.Error(diff)
	}
	if got := audienceOf(t, s, "jwt", tokensOf(t, own()).AccessToken); got != nil {
		t.Errorf("without a resource: %v", got)
	}
	for _, bad := range [][]string{{"https://third.example/"}, {jwtAPI, "x"}, slices.Repeat([]string{jwtAPI}, 17)} {
		wantError(t, own(bad...), http.StatusBadRequest, "invalid_target")
	}
}

// A token for other resource servers is good at none of our endpoints that speak of the person:
// any of those servers could bring it here.
func TestTokenForOthersIsNoGoodAtUserinfo(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{jwtClient("jwt", "")}})
	for _, row := range []struct {
		resources []string
		good      bool
	}{{[]string{jwtAPI}, false}, {nil, true}, {[]string{jwtAPI, s.Issuer}, true}} {
		tokens := tokensOf(t, s.PostAs(t.Context(), "jwt", "/token", codeForm(t, s, "jwt", "openid", url.Values{"resource": row.resources})))
		reply := s.Bearer(t.Context(), "/userinfo", tokens.AccessToken)
		if row.good != (reply.Status == http.StatusOK) {
			t.Errorf("for %v: %d %s", row.resources, reply.Status, reply.Body)
		}
		if !row.good {
			wantError(t, reply, http.StatusUnauthorized, "invalid_token")
			if reply.Text("error_description") != "The access token is not for this server." || len(reply.Header.Values("WWW-Authenticate")) != 1 {
				t.Errorf("%s %q", reply.Body, reply.Header.Values("WWW-Authenticate"))
			}
		}
	}
	// One that is bound says so in either case.
	p := newProver(t, s)
	for _, resource := range []string{jwtAPI, s.Issuer} {
		tokens := tokensOf(t, p.token("jwt", codeForm(t, s, "jwt", "openid", url.Values{"resource": {resource}})))
		reply := s.Bearer(t.Context(), "/userinfo", tokens.AccessToken)
		wantError(t, reply, http.StatusUnauthorized, "invalid_token")
		got := reply.Header.Values("WWW-Authenticate")
		if len(got) != 2 || !strings.HasPrefix(got[0], "Bearer ") || got[1] != `DPoP realm="qrgrant", algs="ES256 ES384 EdDSA Ed25519 PS256"` {
			t.Errorf("for %s: %q", resource, got)
		}
	}
}

// The approving scope stays with this issuer, however a token is narrowed.
func TestApproverTokenKeepsTheIssuer(t *testing.T) {
	t.Parallel()
	app := *providertest.Clients()[slices.IndexFunc(providertest.Clients(), func(c *storage.Client) bool { return c.ID == "phone" })]
	app.SharedAudiences = []string{jwtAPI}
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{&app}})
	code := public("phone", codeForm(t, s, "phone", "openid offline_access "+qr.ApproveScope, url.Values{"resource": {jwtAPI}}))
	code["resource"] = []string{jwtAPI}
	wantError(t, s.Post(t.Context(), s.Client(), "/token", code), http.StatusBadRequest, "invalid_target")
	delete(code, "resource")
	tokens := tokensOf(t, s.Post(t.Context(), s.Client(), "/token", code))
	form := refreshForm("phone", tokens.RefreshToken)
	form["resource"] = []string{jwtAPI}
	wantError(t, s.Post(t.Context(), s.Client(), "/token", form), http.StatusBadRequest, "invalid_target")
	form.Set("scope", "openid")
	narrowed := tokensOf(t, s.Post(t.Context(), s.Client(), "/token", form))
	wantError(t, s.Bearer(t.Context(), "/sessions", narrowed.AccessToken), http.StatusForbidden, "insufficient_scope")
}

// A server of a resource may ask about access tokens that are for it, and about nothing else of
// others.
func TestIntrospectionByAResourceServer(t *testing.T) {
	t.Parallel()
	server := func(id string, serves ...string) *storage.Client {
		return &storage.Client{ID: id, Name: id, SecretHashes: [][32]byte{sha256.Sum256([]byte(providertest.ClientSecret))}, GrantTypes: []string{"client_credentials"}, Serves: serves}
	}
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{
		jwtClient("jwt", ""), server("api", jwtAPI), server("another", "https://another.example/"),
	}})
	tokens := tokensOf(t, s.PostAs(t.Context(), "jwt", "/token", codeForm(t, s, "jwt", "openid offline_access", url.Values{"resource": {jwtAPI, s.Issuer}})))
	plain := tokensOf(t, s.PostAs(t.Context(), "jwt", "/token", codeForm(t, s, "jwt", "openid", nil)))
	ask := func(client, token string) *providertest.Reply {
		return s.PostAs(t.Context(), client, "/introspect", url.Values{"token": {token}})
	}
	if got := ask("api", tokens.AccessToken); got.JSON()["active"] != true || got.Text("client_id") != "jwt" || got.Text("sub") != providertest.AliceSubject {
		t.Errorf("the resource's own server: %s", got.Body)
	}
	for name, got := range map[string]*providertest.Reply{
		"a refresh token":         ask("api", tokens.RefreshToken),
		"a token without a place": ask("api", plain.AccessToken),
		"another resource's":      ask("another", tokens.AccessToken),
		"a client that serves":    ask("svc", tokens.AccessToken),
	} {
		if got.Status != http.StatusOK || got.Body != `{"active":false}` {
			t.Errorf("%s: %d %s", name, got.Status, got.Body)
		}
	}
	wantError(t, s.PostAs(t.Context(), "api", "/revoke", url.Values{"token": {tokens.AccessToken}}), http.StatusBadRequest, "unauthorized_client")
	s.Clock.Advance(10 * time.Minute)
	if got := ask("api", tokens.AccessToken); got.Body != `{"active":false}` {
		t.Errorf("an expired token: %s", got.Body)
	}
}

// A code that was asked for with a key is redeemed with that key only, and nobody else uses it up
// or ends what came of it.
func TestDPoPBoundCode(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p, thief := newProver(t, s), newProver(t, s)
	form := codeForm(t, s, "web", "openid", url.Values{"dpop_jkt": {p.jkt()}})
	wantRefused := func() {
		t.Helper()
		wantError(t, thief.token("web", form), http.StatusBadRequest, "invalid_grant")
		wantError(t, s.PostAs(t.Context(), "web", "/token", form), http.StatusBadRequest, "invalid_grant")
		wantError(t, p.tokenWith("web", form, "x"), http.StatusBadRequest, "invalid_dpop_proof")
	}
	wantRefused()
	tokens := tokensOf(t, p.token("web", form))
	wantRefused()
	if !p.good(tokens.AccessToken) {
		t.Error("a replay without the key ended the family")
	}
	wantError(t, p.token("web", form), http.StatusBadRequest, "invalid_grant")
	if p.good(tokens.AccessToken) {
		t.Error("a replay with the key did not end the family")
	}
}
