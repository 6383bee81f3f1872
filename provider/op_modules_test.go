package provider_test

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

// opModule is a module of the suite that every response type is put through.
type opModule struct {
	name string
	// needs is what the response type must hold for the module to make sense; empty is always.
	needs string
	run   func(p *party)
}

// opModules are those of the basic plan, and what the implicit and the hybrid plan add to them.
func opModules() []opModule {
	modules := []opModule{
		{"server", "", func(p *party) { p.signIn("state", longState) }},
		{"response-type-missing", "", (*party).withoutResponseType},
		{"idtoken-signature", "", (*party).signature},
		{"idtoken-unsigned", "", (*party).wantNoneNotOffered},
		{"ensure-request-without-nonce", "", (*party).withoutNonce},
		{"alternate-happy-flow", "", (*party).inAnotherOrder},
		{"prompt-login", "", func(p *party) { p.wantNewSignIn("prompt", "login") }},
		{"prompt-none-not-logged-in", "", func(p *party) { p.wantRefusal("login_required", "prompt", "none", "state", longState) }},
		{"prompt-none-logged-in", "", func(p *party) { p.wantSameSignIn(p.signIn(), "prompt", "none") }},
		{"max-age-1", "", func(p *party) { p.wantNewSignIn("max_age", "1") }},
		{"max-age-10000", "", func(p *party) { p.wantSameSignIn(p.signIn("max_age", "15000"), "max_age", "10000") }},
		{"id-token-hint", "", func(p *party) {
			if e := p.signIn(); e.idToken() != nil {
				p.wantSameSignIn(e, "prompt", "none", "id_token_hint", e.raw())
			}
		}},
		{"ensure-request-with-acr-values-succeeds", "", (*party).withACRValues},
		{"ensure-registered-redirect-uri", "", (*party).toUnregistered},
		{"ensure-post-request-succeeds", "", (*party).byPost},
		{"claims-essential", "", (*party).essentialClaims},
		{"request-uri-unsigned-supported-correctly-or-rejected-as-unsupported", "", func(p *party) {
			p.wantRefusal("invalid_request_uri", "request_uri", "https://web.example/request.jwt")
		}},
		{"unsigned-request-object-supported-correctly-or-rejected-as-unsupported", "", func(p *party) {
			p.wantRefusal("invalid_request_object", "request", unsignedObject)
		}},
		{"ensure-request-object-with-redirect-uri", "", (*party).objectDecides},
		{"userinfo", "token", (*party).userinfoInEveryWay},
		{"codereuse", "code", func(p *party) { p.codeTwice(0) }},
		{"codereuse-30seconds", "code", func(p *party) { p.codeTwice(30 * time.Second) }},
		{"server-client-secret-post", "code", (*party).withSecret},
		{"refresh-token", "code", func(p *party) { p.refreshes(p.another(nil)) }},
		{"ensure-request-with-valid-pkce-succeeds", "code", (*party).withChallenge},
	}
	for scope, claims := range map[string][]string{
		"profile": profileClaims(), "email": {"email", "email_verified"}, "phone": {"phone_number", "phone_number_verified"}, "address": {"address"},
	} {
		modules = append(modules, opModule{"scope-" + scope, "", func(p *party) { p.scope("openid "+scope, claims...) }})
	}
	modules = append(modules, opModule{"scope-all", "", func(p *party) {
		p.scope("openid profile email address phone",
			append(profileClaims(), "email", "email_verified", "address", "phone_number", "phone_number_verified")...)
	}})
	for name, change := range map[string][]string{
		"display-page": {"display", "page"}, "display-popup": {"display", "popup"}, "ui-locales": {"ui_locales", "se"}, "claims-locales": {"claims_locales", "se"},
		"login-hint": {"login_hint", providertest.AliceLogin}, "ensure-request-with-unknown-parameter-succeeds": {"extra", "foobar"},
	} {
		modules = append(modules, opModule{name, "", func(p *party) { p.signIn(change...) }})
	}
	return modules
}

// everyModule runs the modules that make sense for a response type, by a client that is answered
// in one mode. They share a provider but no browser, as in the suite.
func everyModule(t *testing.T, types, mode string) {
	t.Helper()
	t.Run(types+" by "+mode, func(t *testing.T) {
		t.Parallel()
		p := newParty(t, types, mode, nil)
		for _, module := range opModules() {
			if module.needs == "code" && !p.has("code") || module.needs == "token" && types == "id_token" {
				continue
			}
			t.Run(module.name, func(t *testing.T) { module.run(p.as(t)) })
		}
	})
}

func (p *party) wantRefusal(code string, changes ...string) {
	p.t.Helper()
	if got := p.refusal(changes...); got != code {
		p.t.Errorf("error %q, want %q", got, code)
	}
}

// withoutResponseType: an answer in a fragment would be a guess at what the client meant.
func (p *party) withoutResponseType() {
	if p.mode == "fragment" {
		p.mode = "query"
	}
	p.wantRefusal("unsupported_response_type", "response_type", "")
}

// signature: what finish checks against the published keys is an RS256 ID token, unless the client
// wished otherwise.
func (p *party) signature() {
	e := p.signIn()
	for _, raw := range []string{e.answer.Get("id_token"), e.tokens.IDToken} {
		if raw == "" {
			continue
		}
		var header struct{ Alg, Kid string }
		if decodeSegment(p.t, raw, 0, &header); header.Alg != "RS256" || header.Kid == "" {
			p.t.Errorf("header %+v", header)
		}
	}
}

func (p *party) wantNoneNotOffered() {
	for _, list := range []string{"id_token_signing_alg_values_supported", "request_object_signing_alg_values_supported"} {
		if algs := p.offers(list); slices.Contains(algs, "none") || len(algs) == 0 {
			p.t.Errorf("%s %v", list, algs)
		}
	}
}

// withoutNonce: a client needs one to tell whether an ID token of the front channel is an answer
// to its own request (OpenID Connect Core §3.2.2.1, §3.3.2.11).
func (p *party) withoutNonce() {
	if p.has("id_token") {
		p.wantRefusal("invalid_request", "nonce", "")
		return
	}
	p.signIn("nonce", "")
}

func (p *party) inAnotherOrder() {
	q := p.request("scope", "email openid")
	names := slices.Sorted(maps.Keys(q))
	slices.Reverse(names)
	var parts []string
	for _, name := range names {
		parts = append(parts, name+"="+url.QueryEscape(q.Get(name)))
	}
	// The words of the response type mean the same in every order.
	words := strings.Fields(p.types)
	slices.Reverse(words)
	sent := strings.Replace(strings.Join(parts, "&"), url.QueryEscape(p.types), url.QueryEscape(strings.Join(words, " ")), 1)
	page := p.Get(p.t.Context(), p.browser, "/authorize?"+sent)
	p.finish(p.allow(p.SignIn(p.t.Context(), p.browser, page)), "scope", "email openid")
}

// allow presses the button of the consent page, if there is one.
func (o *op) allow(page *providertest.Reply) *providertest.Reply {
	o.t.Helper()
	if page.Hidden("request") == "" {
		return page
	}
	return o.Post(o.t.Context(), o.browser, "/consent", url.Values{"csrf": {page.Hidden("csrf")}, "request": {page.Hidden("request")}, "decision": {"allow"}})
}

// wantNewSignIn checks that a request in a browser with a sign-in asks for another one.
func (p *party) wantNewSignIn(changes ...string) {
	p.t.Helper()
	first := p.signIn()
	p.Clock.Advance(2 * time.Second)
	if page := p.ask(changes...); !isSignIn(page) {
		p.t.Fatalf("no sign-in page: %d %s", page.Status, page.Body)
	}
	second := p.signIn(changes...)
	if was, is := first.idToken(), second.idToken(); was["sub"] != is["sub"] || is["auth_time"].(float64) <= was["auth_time"].(float64) {
		p.t.Errorf("signed in at %v, then at %v", was["auth_time"], is["auth_time"])
	}
}

// wantSameSignIn checks that a later request in the same browser needs nobody.
func (p *party) wantSameSignIn(first *exchanged, changes ...string) {
	p.t.Helper()
	p.Clock.Advance(2 * time.Second)
	was, is := first.idToken(), p.silent(changes...).idToken()
	if was["sub"] != is["sub"] || was["auth_time"] != is["auth_time"] || was["sid"] != is["sid"] {
		p.t.Errorf("%v, then %v", was, is)
	}
}

func (p *party) withACRValues() {
	if claims := p.signIn("acr_values", "1 2").idToken(); !slices.Contains(p.offers("acr_values_supported"), claims["acr"].(string)) {
		p.t.Errorf("acr %v is not offered", claims["acr"])
	}
}

func (p *party) toUnregistered() {
	for _, uri := range []string{providertest.RedirectURI + "/", providertest.RedirectURI + "?x=1", "https://evil.example/callback"} {
		p.wantErrorPage(p.ask("redirect_uri", uri))
	}
}

func (p *party) byPost() {
	back := p.Post(p.t.Context(), p.browser, "/authorize", p.request())
	page := p.Get(p.t.Context(), p.browser, p.HTTP.URL+back.Location().String())
	p.finish(p.allow(p.SignIn(p.t.Context(), p.browser, page)))
}

// scope checks that the claims of the scopes are told once: by userinfo or, where there is never
// an access token, by the ID token (OpenID Connect Core §5.4).
func (p *party) scope(scope string, claims ...string) {
	p.t.Helper()
	e := p.signIn("scope", scope)
	told, elsewhere := p.info(e), []map[string]any{e.front, e.back}
	if len(e.access) == 0 {
		told, elsewhere = e.front, nil
	}
	want, got := map[string]any{}, map[string]any{}
	for _, name := range append(profileClaims(), "email", "email_verified", "address", "phone_number", "phone_number_verified") {
		if value, there := told[name]; there {
			got[name] = value
		}
		for _, other := range elsewhere {
			if _, twice := other[name]; twice {
				p.t.Errorf("%s stands in an ID token too", name)
			}
		}
		if value, seconds := providertest.Alice().Claims[name].(int); slices.Contains(claims, name) && seconds {
			want[name] = float64(value)
		} else if slices.Contains(claims, name) {
			want[name] = providertest.Alice().Claims[name]
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		p.t.Error(diff)
	}
}

// essentialClaims: the one place is asked for the name and tells it, the other does not.
func (p *party) essentialClaims() {
	place := "userinfo"
	if p.types == "id_token" {
		place = "id_token"
	}
	e := p.signIn("claims", `{"`+place+`":{"name":{"essential":true}}}`)
	inFront, inBack := e.front["name"], e.back["name"]
	if place == "id_token" && inFront != "Alice Arden" || place == "userinfo" && (inFront != nil || inBack != nil || p.info(e)["name"] != "Alice Arden") {
		p.t.Errorf("the ID tokens say %v and %v", inFront, inBack)
	}
}

func (p *party) objectDecides() {
	for _, beside := range []string{"https://evil.example/callback", providertest.RedirectURI} {
		p.finish(p.Code(p.t.Context(), p.browser, p.outside("request", p.object(p.key), "redirect_uri", beside)))
	}
}

// userinfoInEveryWay is three modules: userinfo-get, userinfo-post-header and userinfo-post-body.
func (p *party) userinfoInEveryWay() {
	for _, token := range p.signIn().access {
		for way, reply := range map[string]*providertest.Reply{
			"get":         p.Bearer(p.t.Context(), "/userinfo", token),
			"post-header": send(p.t, p.Server, http.MethodPost, "/userinfo", "", http.Header{"Authorization": {"Bearer " + token}}),
			"post-body":   p.Post(p.t.Context(), p.Client(), "/userinfo", url.Values{"access_token": {token}}),
		} {
			if reply.Status != http.StatusOK || reply.Text("sub") != providertest.AliceSubject {
				p.t.Errorf("%s: %d %s", way, reply.Status, reply.Body)
			}
		}
	}
}

// codeTwice: who sends a code twice may have stolen it, so all that came of it ends, the tokens of
// the front channel too.
func (p *party) codeTwice(after time.Duration) {
	p.t.Helper()
	e := p.signIn()
	p.Clock.Advance(after)
	wantError(p.t, p.redeemed(e.answer), http.StatusBadRequest, "invalid_grant")
	for _, token := range e.access {
		wantError(p.t, p.Bearer(p.t.Context(), "/userinfo", token), http.StatusUnauthorized, "invalid_token")
	}
}

// withSecret is a client that registered client_secret_post and nothing else.
func (p *party) withSecret() {
	client := p.another(map[string]any{"token_endpoint_auth_method": "client_secret_post", "jwks": nil})
	if client.registered.JSON()["client_secret_expires_at"] != 0.0 || client.registered.Text("client_secret") == "" {
		p.t.Fatalf("registered %s", client.registered.Body)
	}
	answer := client.answered(client.Code(p.t.Context(), client.browser, client.request()), client.request())
	form := url.Values{
		"grant_type": {"authorization_code"}, "code": {answer.Get("code")}, "redirect_uri": {providertest.RedirectURI},
		"client_id": {client.client}, "client_secret": {client.registered.Text("client_secret")},
	}
	tokens := tokensOf(p.t, p.Post(p.t.Context(), p.Client(), "/token", form))
	client.claimsOf(tokens.IDToken, "a-nonce", tokens.AccessToken, "")
}

func (p *party) withChallenge() {
	verifier, challenge := providertest.Verifier()
	asked := func() url.Values {
		q := p.request("code_challenge", challenge, "code_challenge_method", "S256")
		return p.answered(p.Code(p.t.Context(), p.browser, q), q)
	}
	wantError(p.t, p.redeemed(asked(), "code_verifier", challenge), http.StatusBadRequest, "invalid_grant")
	wantError(p.t, p.redeemed(asked()), http.StatusBadRequest, "invalid_grant")
	tokens := tokensOf(p.t, p.redeemed(asked(), "code_verifier", verifier))
	p.claimsOf(tokens.IDToken, "a-nonce", tokens.AccessToken, "")
}
