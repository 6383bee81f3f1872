package provider_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

func consentOf(t *testing.T, o *op, client string) []string {
	t.Helper()
	c, err := o.Store.Consent(t.Context(), providertest.AliceSubject, client)
	if err != nil {
		return nil
	}
	return c.Scopes
}

func TestConsentIsRemembered(t *testing.T) {
	t.Parallel()
	clients := append(opClients(), &storage.Client{ID: "spa", RedirectURIs: []string{"http://127.0.0.1/cb"}, Scopes: []string{"openid"}})
	o := newOP(t, "query", clients, nil)
	o.tokens("scope", "openid email")
	_, challenge := providertest.Verifier()
	app := []string{"client_id", "spa", "redirect_uri", "http://127.0.0.1:5/cb", "code_challenge", challenge, "code_challenge_method", "S256"}
	if reply := o.Code(t.Context(), o.browser, o.request(app...)); reply.Location().Query().Get("code") == "" {
		t.Errorf("the app: %d %s", reply.Status, reply.Body)
	}
	o.silent("scope", "openid email", "prompt", "none")
	o.silent("scope", "email")
	for name, changes := range map[string][]string{
		"a new scope":             {"scope", "openid email profile"},
		"a claim of a new scope":  {"scope", "openid email", "claims", `{"id_token":{"phone_number":null}}`},
		"another client":          {"client_id", "rp2"},
		"prompt=consent":          {"prompt", "consent"},
		"an app anybody could be": app,
	} {
		page := o.ask(changes...)
		if page.Hidden("request") == "" || !strings.Contains(page.Body, `id="allow"`) {
			t.Errorf("%s: nobody was asked: %d %s", name, page.Status, page.Header.Get("Location"))
		}
		if strings.HasPrefix(name, "a claim") && !strings.Contains(page.Body, "telephone number") {
			t.Errorf("%s: the page does not say what is asked: %s", name, page.Body)
		}
		if name == "prompt=consent" {
			continue
		}
		if got := errorOf(o.ask(append(changes, "prompt", "none")...)); got != "consent_required" {
			t.Errorf("%s, with prompt=none: %q", name, got)
		}
	}
	// What was allowed adds up.
	o.tokens("scope", "openid profile", "prompt", "consent")
	o.silent("scope", "openid profile email")
	if diff := cmp.Diff([]string{"openid", "email", "profile"}, consentOf(t, o, "rp")); diff != "" {
		t.Error(diff)
	}
	// A no takes it back.
	page := o.ask("prompt", "consent")
	reply := o.Post(t.Context(), o.browser, "/consent", url.Values{"csrf": {page.Hidden("csrf")}, "request": {page.Hidden("request")}, "decision": {"cancel"}})
	if errorOf(reply) != "access_denied" || consentOf(t, o, "rp") != nil {
		t.Errorf("%d %s, kept %v", reply.Status, reply.Header.Get("Location"), consentOf(t, o, "rp"))
	}
	if got := o.refusal("prompt", "none"); got != "consent_required" {
		t.Errorf("after the no: %q", got)
	}
}

// What the person allows is what tokens are for as well as what they can do: more servers are a
// new question, and a yes to them is remembered beside the others. This server needs none.
func TestConsentIsForResources(t *testing.T) {
	t.Parallel()
	clients := opClients()
	clients[0].Resources = []string{jwtAPI, otherAPI}
	o := newOP(t, "query", clients, nil)
	o.tokens("scope", "openid email")
	both := o.request("scope", "openid email")
	both["resource"] = []string{jwtAPI, otherAPI}
	visitBoth := func() *providertest.Reply {
		return o.Get(t.Context(), o.browser, "/authorize?"+both.Encode())
	}
	asked := func(page *providertest.Reply, resources ...string) {
		t.Helper()
		if page.Hidden("request") == "" {
			t.Fatalf("nobody was asked: %d %s", page.Status, page.Header.Get("Location"))
		}
		for _, resource := range resources {
			if !strings.Contains(page.Body, "<code>"+resource+"</code>") {
				t.Errorf("the page does not name %s: %s", resource, page.Body)
			}
		}
	}
	if got := o.refusal("resource", jwtAPI, "prompt", "none"); got != "consent_required" {
		t.Errorf("a resource that nobody allowed: %q", got)
	}
	o.silent("resource", o.Issuer)
	asked(o.ask("resource", jwtAPI), jwtAPI)

	o.tokens("resource", jwtAPI)
	o.silent("resource", jwtAPI)
	o.silent("scope", "openid email", "resource", jwtAPI) // what was allowed adds up
	o.silent("scope", "openid")
	asked(visitBoth(), jwtAPI, otherAPI)
	if got := o.refusal("resource", otherAPI, "prompt", "none"); got != "consent_required" {
		t.Errorf("another resource: %q", got)
	}
	// A no to more leaves what was allowed.
	page := visitBoth()
	refused := o.Post(t.Context(), o.browser, "/consent", url.Values{"csrf": {page.Hidden("csrf")}, "request": {page.Hidden("request")}, "decision": {"cancel"}})
	if errorOf(refused) != "access_denied" {
		t.Errorf("the no: %d %s", refused.Status, refused.Header.Get("Location"))
	}
	o.silent("resource", jwtAPI)

	o.tokens("resource", otherAPI)
	if again := visitBoth(); o.answerOf(again).Get("code") == "" {
		t.Errorf("both, each allowed: %d %s", again.Status, again.Header.Get("Location"))
	}
	want := &storage.Consent{
		Subject: providertest.AliceSubject, ClientID: "rp", Scopes: []string{"openid", "email"}, Resources: []string{jwtAPI, otherAPI}, At: o.Clock.Now(),
	}
	stored, err := o.Store.Consent(t.Context(), providertest.AliceSubject, "rp")
	if diff := cmp.Diff(want, stored); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	mine := entry(t, accountPage(t, o.Server, o.browser), "consents", "Relying Party rp")
	for _, resource := range stored.Resources {
		if !strings.Contains(mine, "<code>"+resource+"</code>") {
			t.Errorf("/account does not name %s: %s", resource, mine)
		}
	}
}

// The claims parameter beyond the certification's module (OpenID Connect Core §5.5).
func TestClaimsParameter(t *testing.T) {
	t.Parallel()
	clients := opClients()
	clients[1].Scopes = []string{"openid", "offline_access"}
	o := newOP(t, "query", clients, nil)
	tokens, members := o.tokens("scope", "openid offline_access", "claims", `{"userinfo":{"email":null,"nickname":{"essential":true},"unknown":null,"password_hash":null},
		"id_token":{"name":{"value":"somebody else"},"address":null,"auth_time":{"essential":true},"iss":{"value":"https://evil.example"},"login":null}}`)
	wantInfo := map[string]any{"sub": providertest.AliceSubject, "email": "alice@example.org", "nickname": "Al"}
	if diff := cmp.Diff(wantInfo, o.userinfo(tokens.AccessToken)); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]any{"name": "Alice Arden", "address": providertest.Alice().Claims["address"], "iss": o.Issuer, "email": nil, "login": nil} {
		if diff := cmp.Diff(want, members[name]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	// A refresh says the same.
	tokens, members = o.checked("rp", "", refresh(t, o.Server, "rp", tokens.RefreshToken, nil))
	if diff := cmp.Diff(wantInfo, o.userinfo(tokens.AccessToken)); diff != "" || members["name"] != "Alice Arden" {
		t.Errorf("%v %s", members, diff)
	}
	// A client gets by name no more than it may ask for by scope.
	tokens, members = o.tokens("client_id", "rp2", "claims", `{"userinfo":{"email":{"essential":true}},"id_token":{"email":null}}`)
	if diff := cmp.Diff(map[string]any{"sub": providertest.AliceSubject}, o.userinfo(tokens.AccessToken)); diff != "" || members["email"] != nil {
		t.Errorf("%v %s", members, diff)
	}
	for name, row := range map[string][2]string{
		"this person":            {`{"id_token":{"sub":{"value":"` + providertest.AliceSubject + `"}}}`, ""},
		"another person":         {`{"id_token":{"sub":{"value":"bob"}}}`, "login_required"},
		"an essential acr here":  {`{"id_token":{"acr":{"essential":true,"values":["x","urn:qrgrant:acr:password"]}}}`, ""},
		"an essential acr above": {`{"id_token":{"acr":{"essential":true,"values":["urn:example:gold"]}}}`, "login_required"},
		"a voluntary acr above":  {`{"id_token":{"acr":{"values":["urn:example:gold"]}}}`, ""},
		"no object":              {`[]`, "invalid_request"},
		"no JSON":                {`{"userinfo":`, "invalid_request"},
		"a wrong type":           {`{"userinfo":{"name":{"essential":"yes"}}}`, "invalid_request"},
	} {
		reply := o.ask("prompt", "none", "claims", row[0])
		if answer := o.answerOf(reply); answer.Get("error") != row[1] || (answer.Get("code") == "") != (row[1] != "") {
			t.Errorf("%s: %v", name, answer)
		}
	}
	// Without openid it means nothing.
	o.silent("scope", "email", "claims", "broken")
	// What a fresh sign-in cannot meet either is an error, never a loop.
	reply := o.Code(t.Context(), o.browser, o.request("claims", `{"id_token":{"acr":{"essential":true,"values":["urn:example:gold"]}}}`))
	if got := errorOf(reply); got != "unmet_authentication_requirements" {
		t.Errorf("after signing in: %q, %d", got, reply.Status)
	}
}
