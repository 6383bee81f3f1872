package provider_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

// leave follows a logout request to its end, pressing the button of the page that asks.
func (o *op) leave(params url.Values) *providertest.Reply {
	o.t.Helper()
	return o.confirm(o.Get(o.t.Context(), o.browser, "/logout?"+params.Encode()))
}

func (o *op) confirm(page *providertest.Reply) *providertest.Reply {
	o.t.Helper()
	if page.Hidden("csrf") == "" {
		return page
	}
	return o.Post(o.t.Context(), o.browser, "/logout", url.Values{"csrf": {page.Hidden("csrf")}, "request": {page.Hidden("request")}})
}

// wantLeft checks that nobody is signed in at the browser any more.
func (o *op) wantLeft() {
	o.t.Helper()
	if got := o.refusal("prompt", "none"); got != "login_required" {
		o.t.Errorf("prompt=none after the logout: %q", got)
	}
}

// wantSignedOutPage checks that the answer is a page that says so and leads nowhere.
func (o *op) wantSignedOutPage(reply *providertest.Reply) {
	o.t.Helper()
	if reply.Status != http.StatusOK || reply.Header.Get("Location") != "" || !strings.Contains(reply.Body, "You are signed out") || strings.Contains(reply.Body, "web.example") {
		o.t.Errorf("no signed-out page: %d %s %s", reply.Status, reply.Header.Get("Location"), reply.Body)
	}
}

func TestOPRPInitiatedLogoutDiscoveryEndpointVerification(t *testing.T) {
	t.Parallel()
	o := newOP(t, "query", opClients(), nil)
	document := o.Get(t.Context(), o.Client(), "/.well-known/openid-configuration")
	if got := document.Text("end_session_endpoint"); got != o.Issuer+"/logout" || !strings.HasPrefix(got, "https://") {
		t.Errorf("end_session_endpoint %q", got)
	}
}

func TestOPRPInitiatedLogout(t *testing.T) {
	t.Parallel()
	for name, send := range map[string]func(o *op, params url.Values) *providertest.Reply{
		"GET": func(o *op, params url.Values) *providertest.Reply {
			return o.Get(o.t.Context(), o.browser, "/logout?"+params.Encode())
		},
		"POST": func(o *op, params url.Values) *providertest.Reply {
			back := o.Post(o.t.Context(), o.Client(), "/logout", params)
			if back.Status != http.StatusSeeOther || !strings.HasPrefix(back.Location().String(), "/logout?") {
				o.t.Errorf("%d %s", back.Status, back.Location())
			}
			return o.Get(o.t.Context(), o.browser, o.HTTP.URL+back.Location().String())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOP(t, "query", opClients(), nil)
			tokens, _ := o.tokens("scope", "openid offline_access")
			// The hint may have expired long ago.
			o.Clock.Advance(time.Hour)
			page := send(o, url.Values{
				"id_token_hint": {tokens.IDToken}, "post_logout_redirect_uri": {"https://web.example/bye"}, "state": {longState},
				"client_id": {"rp"}, "logout_hint": {"alice"}, "ui_locales": {"se"},
			})
			if page.Status != http.StatusOK || !strings.Contains(page.Body, `<button id="sign-out"`) || !strings.Contains(page.Body, "autofocus") ||
				!strings.Contains(page.Body, "Relying Party rp") || !strings.Contains(page.Body, "/static/submit.js") {
				t.Fatalf("%d %s", page.Status, page.Body)
			}
			if got := page.Header.Get("Content-Security-Policy"); !strings.HasSuffix(got, "script-src 'self'") || !strings.Contains(got, "form-action 'self' https://web.example;") {
				t.Errorf("CSP %q", got)
			}
			// GET has changed nothing.
			o.silent("prompt", "none")
			reply := o.confirm(page)
			if got := reply.Header.Get("Location"); reply.Status != http.StatusSeeOther || got != "https://web.example/bye?state="+longState {
				t.Errorf("%d %q", reply.Status, got)
			}
			o.wantLeft()
			wantError(t, o.Bearer(t.Context(), "/userinfo", tokens.AccessToken), http.StatusUnauthorized, "invalid_token")
			wantError(t, refresh(t, o.Server, "rp", tokens.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
			// Once more, as from a page that stood open: the way back, and no fault.
			if again := o.confirm(page); again.Header.Get("Location") != reply.Header.Get("Location") {
				t.Errorf("the second press: %d %s", again.Status, again.Body)
			}
		})
	}
}

func TestOPRPInitiatedLogoutNoState(t *testing.T) {
	t.Parallel()
	o := newOP(t, "query", opClients(), nil)
	tokens, _ := o.tokens()
	reply := o.leave(url.Values{"id_token_hint": {tokens.IDToken}, "post_logout_redirect_uri": {"https://web.example/bye"}})
	if got := reply.Header.Get("Location"); got != "https://web.example/bye" {
		t.Errorf("%d %q", reply.Status, got)
	}
	o.wantLeft()
}

// A registered query stays.
func TestOPRPInitiatedLogoutRegisteredQueryIsKept(t *testing.T) {
	t.Parallel()
	o := newOP(t, "query", opClients(), nil)
	tokens, _ := o.tokens()
	reply := o.leave(url.Values{"id_token_hint": {tokens.IDToken}, "post_logout_redirect_uri": {opBye}, "state": {"a b&c"}})
	if got := reply.Header.Get("Location"); got != opBye+"&state=a+b%26c" {
		t.Errorf("%d %q", reply.Status, got)
	}
}

// wantNoWayBack runs a logout whose address must not be followed: the person is asked and ends
// signed out, here.
func wantNoWayBack(t *testing.T, params func(o *op, idToken string) url.Values) {
	t.Helper()
	o := newOP(t, "query", opClients(), nil)
	tokens, _ := o.tokens()
	values := params(o, tokens.IDToken)
	page := o.Get(t.Context(), o.browser, "/logout?"+values.Encode())
	if page.Status != http.StatusOK || page.Header.Get("Location") != "" || !strings.Contains(page.Body, `id="no-return"`) ||
		!strings.Contains(page.Header.Get("Content-Security-Policy"), "form-action 'self'") || strings.Contains(page.Header.Get("Content-Security-Policy"), ".example") {
		t.Errorf("%d %v %s", page.Status, page.Header, page.Body)
	}
	o.wantSignedOutPage(o.confirm(page))
	o.wantLeft()
	// Nor is there a way for somebody who is not signed in.
	o.wantSignedOutPage(o.Get(t.Context(), o.browser, "/logout?"+values.Encode()))
}

func TestOPRPInitiatedLogoutBadPostLogoutRedirectURI(t *testing.T) {
	t.Parallel()
	for _, uri := range []string{
		"https://evil.example/", "https://web.example/bye/", "https://web.example/BYE", "https://web.example:443/bye", "http://web.example/bye",
		"https://web.example/bye#f", "//web.example/bye", "javascript:alert(1)", "https://web.example@evil.example/bye", providertest.RedirectURI,
	} {
		t.Run(uri, func(t *testing.T) {
			t.Parallel()
			wantNoWayBack(t, func(_ *op, idToken string) url.Values {
				return url.Values{"id_token_hint": {idToken}, "post_logout_redirect_uri": {uri}, "state": {"x"}}
			})
		})
	}
}

func TestOPRPInitiatedLogoutQueryAddedToPostLogoutRedirectURI(t *testing.T) {
	t.Parallel()
	wantNoWayBack(t, func(_ *op, idToken string) url.Values {
		return url.Values{"id_token_hint": {idToken}, "post_logout_redirect_uri": {"https://web.example/bye?foo=bar"}}
	})
}

func TestOPRPInitiatedLogoutModifiedIDTokenHint(t *testing.T) {
	t.Parallel()
	wantNoWayBack(t, func(_ *op, idToken string) url.Values {
		none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + strings.Split(idToken, ".")[1] + "."
		return url.Values{"id_token_hint": {none}, "post_logout_redirect_uri": {opBye}}
	})
}

func TestOPRPInitiatedLogoutBadIDTokenHint(t *testing.T) {
	t.Parallel()
	wantNoWayBack(t, func(_ *op, _ string) url.Values {
		// Another provider's token, alike in all but the key.
		foreign, _ := newOP(t, "query", opClients(), nil).tokens()
		return url.Values{"id_token_hint": {foreign.IDToken}, "post_logout_redirect_uri": {opBye}}
	})
}

func TestOPRPInitiatedLogoutHintOfAnotherClient(t *testing.T) {
	t.Parallel()
	wantNoWayBack(t, func(_ *op, idToken string) url.Values {
		return url.Values{"id_token_hint": {idToken}, "client_id": {"rp2"}, "post_logout_redirect_uri": {opBye}}
	})
}

func TestOPRPInitiatedLogoutNoIDTokenHint(t *testing.T) {
	t.Parallel()
	wantNoWayBack(t, func(*op, string) url.Values { return url.Values{"post_logout_redirect_uri": {opBye}, "state": {"x"}} })
}

// wantPlainEnd runs a logout that names no address.
func wantPlainEnd(t *testing.T, params func(idToken string) url.Values) {
	t.Helper()
	o := newOP(t, "query", opClients(), nil)
	tokens, _ := o.tokens()
	page := o.Get(t.Context(), o.browser, "/logout?"+params(tokens.IDToken).Encode())
	if !strings.Contains(page.Body, "Sign out?") || strings.Contains(page.Body, `id="no-return"`) {
		t.Errorf("%d %s", page.Status, page.Body)
	}
	o.wantSignedOutPage(o.confirm(page))
	o.wantLeft()
}

func TestOPRPInitiatedLogoutNoParams(t *testing.T) {
	t.Parallel()
	wantPlainEnd(t, func(string) url.Values { return nil })
}

func TestOPRPInitiatedLogoutNoPostLogoutRedirectURI(t *testing.T) {
	t.Parallel()
	wantPlainEnd(t, func(idToken string) url.Values { return url.Values{"id_token_hint": {idToken}, "state": {"x"}} })
}

func TestOPRPInitiatedLogoutOnlyState(t *testing.T) {
	t.Parallel()
	wantPlainEnd(t, func(string) url.Values { return url.Values{"state": {"x"}} })
}

// A client_id may lead back once the person has agreed, but never somebody nobody asked.
func TestLogoutWithClientIDOnly(t *testing.T) {
	t.Parallel()
	o := newOP(t, "query", opClients(), nil)
	params := url.Values{"client_id": {"rp"}, "post_logout_redirect_uri": {opBye}}
	o.wantSignedOutPage(o.leave(params))
	o.tokens()
	page := o.Get(t.Context(), o.browser, "/logout?"+params.Encode())
	if strings.Contains(page.Body, "<script") {
		t.Error("the form of an unproven client sends itself")
	}
	if got := o.confirm(page).Header.Get("Location"); got != opBye {
		t.Errorf("%q", got)
	}
	o.wantLeft()
}

// Nobody is signed in any more, and the hint proves who asks: there is nothing to ask.
func TestLogoutWithoutASessionLeadsBack(t *testing.T) {
	t.Parallel()
	o := newOP(t, "query", opClients(), nil)
	tokens, _ := o.tokens()
	o.browser = o.Browser()
	reply := o.Get(t.Context(), o.browser, "/logout?"+url.Values{"id_token_hint": {tokens.IDToken}, "post_logout_redirect_uri": {opBye}}.Encode())
	if got := reply.Header.Get("Location"); got != opBye {
		t.Errorf("%d %q", reply.Status, got)
	}
	// An ID token is no credential: the sign-in elsewhere goes on.
	o.userinfo(tokens.AccessToken)
}

func TestLogoutIsSentByThePersonAlone(t *testing.T) {
	t.Parallel()
	o := newOP(t, "query", opClients(), nil)
	old, _ := o.tokens()
	o.Clock.Advance(time.Second)
	current, _ := o.tokens("prompt", "login")
	params := url.Values{"id_token_hint": {old.IDToken}, "post_logout_redirect_uri": {opBye}}
	page := o.Get(t.Context(), o.browser, "/logout?"+params.Encode())
	if strings.Contains(page.Body, "<script") {
		t.Error("the hint names another sign-in, and the form sends itself")
	}
	stay := url.Values{"csrf": {page.Hidden("csrf")}, "request": {page.Hidden("request")}, "decision": {"stay"}}
	if reply := o.Post(t.Context(), o.browser, "/logout", stay); !strings.Contains(reply.Body, "still signed in") {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	o.silent("prompt", "none")
	for name, form := range map[string]url.Values{
		"a forged token":        {"csrf": {"x"}, "request": {page.Hidden("request")}},
		"an exchanged request":  {"csrf": {page.Hidden("csrf")}, "request": {"client_id=rp&post_logout_redirect_uri=https://web.example/bye"}},
		"a request put in late": {"csrf": {page.Hidden("csrf")}},
	} {
		if reply := o.Post(t.Context(), o.browser, "/logout", form); reply.Status != http.StatusForbidden {
			t.Errorf("%s: %d", name, reply.Status)
		}
	}
	o.silent("prompt", "none")
	// The person agrees: both sign-ins of this person end.
	if got := o.confirm(page).Header.Get("Location"); got != opBye {
		t.Errorf("%q", got)
	}
	for _, tokens := range []providertest.Tokens{old, current} {
		wantError(t, o.Bearer(t.Context(), "/userinfo", tokens.AccessToken), http.StatusUnauthorized, "invalid_token")
	}
}

// A key that has retired still vouches for its old ID tokens (OpenID Connect RP-Initiated
// Logout 1.0 §4).
func TestLogoutHintOfARetiredKey(t *testing.T) {
	t.Parallel()
	clients := opClients()
	clients[0].IDTokenAlg = "ES256"
	o := newOP(t, "query", clients, nil)
	kid := func(token string) string {
		var header struct{ Kid string }
		decodeSegment(t, token, 0, &header)
		return header.Kid
	}
	old, _ := o.tokens()
	for _, days := range []time.Duration{89, 1, 1} {
		o.Clock.Advance(days * 24 * time.Hour)
		if _, err := o.Provider.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if current, _ := o.tokens(); kid(current.IDToken) == kid(old.IDToken) {
		t.Fatal("the key has not changed")
	}
	reply := o.leave(url.Values{"id_token_hint": {old.IDToken}, "post_logout_redirect_uri": {opBye}})
	if got := reply.Header.Get("Location"); got != opBye {
		t.Errorf("%d %q %s", reply.Status, got, reply.Body)
	}
	o.wantLeft()
}

// The hint of somebody else ends nothing of theirs.
func TestLogoutHintOfAnotherPerson(t *testing.T) {
	t.Parallel()
	o := newOP(t, "query", opClients(), nil)
	bob := providertest.Alice()
	bob.Subject, bob.Login = "bob", "bob"
	if err := o.Store.PutUser(t.Context(), bob); err != nil {
		t.Fatal(err)
	}
	browser := o.Browser()
	page := o.Get(t.Context(), browser, "/authorize?"+o.request().Encode())
	asked := o.Post(t.Context(), browser, "/login", url.Values{
		"csrf": {page.Hidden("csrf")}, "next": {page.Hidden("next")}, "login": {"bob"}, "password": {providertest.AlicePassword},
	})
	back := o.Post(t.Context(), browser, "/consent", url.Values{"csrf": {asked.Hidden("csrf")}, "request": {asked.Hidden("request")}, "decision": {"allow"}})
	bobs := tokensOf(t, o.redeem("rp", o.answerOf(back)))
	o.tokens()
	o.leave(url.Values{"id_token_hint": {bobs.IDToken}, "post_logout_redirect_uri": {opBye}})
	o.wantLeft()
	if reply := o.Bearer(t.Context(), "/userinfo", bobs.AccessToken); reply.Status != http.StatusOK {
		t.Errorf("bob: %d %s", reply.Status, reply.Body)
	}
}

// A hint that names the person who is signed in says so on the page; any other says nothing, and
// puts nothing on the page.
func TestOPRPInitiatedLogoutHint(t *testing.T) {
	t.Parallel()
	o := newOP(t, "query", opClients(), nil)
	tokens, claims := o.tokens()
	asked := func(pairs ...string) *providertest.Reply {
		params := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			params.Set(pairs[i], pairs[i+1])
		}
		return o.Get(t.Context(), o.browser, "/logout?"+params.Encode())
	}
	sid, _ := claims["sid"].(string)
	for name, page := range map[string]*providertest.Reply{
		"login":                 asked("logout_hint", providertest.AliceLogin),
		"login in another case": asked("logout_hint", strings.ToUpper(providertest.AliceLogin)),
		"subject":               asked("logout_hint", providertest.AliceSubject, "client_id", "rp"),
		"sid":                   asked("logout_hint", sid),
		"the ID token":          asked("id_token_hint", tokens.IDToken),
	} {
		if sid == "" || page.Status != http.StatusOK || !strings.Contains(page.Body, `<strong>alice</strong> <span id="named">(the account that was named)</span>`) {
			t.Errorf("%s: %d %s", name, page.Status, page.Body)
		}
	}
	plain := asked("client_id", "rp").Body
	for name, page := range map[string]*providertest.Reply{
		"nothing":           asked(),
		"nobody":            asked("logout_hint", ""),
		"another person":    asked("logout_hint", "mallory"),
		"another name":      asked("logout_hint", "alice@example.org"),
		"an attack":         asked("logout_hint", "<b>alice</b>"),
		"a foreign token":   asked("id_token_hint", "x.y.z", "client_id", "rp"),
		"part of a subject": asked("logout_hint", providertest.AliceSubject[:4]),
	} {
		body, _, _ := strings.Cut(page.Body, "<form")
		if page.Status != http.StatusOK || !strings.Contains(body, "<strong>alice</strong>. ") || strings.Contains(body, "named") ||
			strings.Contains(body, "mallory") || strings.Contains(body, "@example") || strings.Contains(body, "<b>") {
			t.Errorf("%s: %d %s", name, page.Status, page.Body)
		}
	}
	if !strings.Contains(plain, "Relying Party rp") {
		t.Errorf("without a hint: %s", plain)
	}
}
