package provider_test

import (
	"crypto/tls"
	"encoding/base64"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
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

// receiver is a relying party's back-channel logout endpoint over HTTPS.
type receiver struct {
	*httptest.Server
	got chan *http.Request
	// answers are given in turn, the last one for ever.
	answers chan func(http.ResponseWriter)
}

func newReceiver(t *testing.T, answers ...func(http.ResponseWriter)) *receiver {
	t.Helper()
	r := &receiver{got: make(chan *http.Request, 16), answers: make(chan func(http.ResponseWriter), 16)}
	for _, answer := range answers {
		r.answers <- answer
	}
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if err := req.ParseForm(); err != nil {
			t.Errorf("receiver: %v", err)
		}
		select {
		case answer := <-r.answers:
			answer(w)
		default:
		}
		r.got <- req
	}))
	// A handshake that fails is what one test wants.
	r.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	r.StartTLS()
	t.Cleanup(r.Close)
	return r
}

// wait returns the next request.
func (r *receiver) wait(t *testing.T) *http.Request {
	t.Helper()
	select {
	case req := <-r.got:
		return req
	case <-t.Context().Done():
	case <-time.After(30 * time.Second):
	}
	t.Fatal("no logout token came")
	return nil
}

// withReceiver is a provider whose two clients listen at the receiver.
func withReceiver(t *testing.T, r *receiver, change func(*provider.Config)) *op {
	t.Helper()
	clients := opClients()
	for _, c := range clients {
		c.BackchannelLogoutURI, c.BackchannelLogoutSessionRequired = r.URL+"/"+c.ID+"?x=1", true
	}
	clients[1].IDTokenAlg = "ES256"
	return newOP(t, "query", clients, func(c *provider.Config) {
		c.BackchannelNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		c.BackchannelRoots = r.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
		if change != nil {
			change(c)
		}
	})
}

func status(code int) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { w.WriteHeader(code) }
}

func TestOPBackchannelRPInitiatedLogoutDiscoveryEndpointVerification(t *testing.T) {
	t.Parallel()
	document := newOP(t, "query", opClients(), nil)
	got := document.Get(t.Context(), document.Client(), "/.well-known/openid-configuration").JSON()
	if got["backchannel_logout_supported"] != true || got["backchannel_logout_session_supported"] != true || got["end_session_endpoint"] == nil {
		t.Errorf("%v", got)
	}
}

func TestOPBackchannelRPInitiatedLogout(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	o := withReceiver(t, r, nil)
	tokens, members := o.tokens()
	o.tokens("client_id", "rp2")
	o.tokens() // takes part once however often it asks
	reply := o.leave(url.Values{"id_token_hint": {tokens.IDToken}, "post_logout_redirect_uri": {opBye}, "state": {"x"}})
	if got := reply.Header.Get("Location"); got != opBye+"&state=x" {
		t.Errorf("%q", got)
	}
	o.wantLeft()
	told := map[string]bool{}
	for range 2 {
		req := r.wait(t)
		client := strings.TrimPrefix(req.URL.Path, "/")
		told[client] = true
		if req.Method != http.MethodPost || req.URL.RawQuery != "x=1" || len(req.PostForm) != 1 || req.TLS.Version < tls.VersionTLS12 ||
			req.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
			t.Errorf("%s %s %v", req.Method, req.URL, req.PostForm)
		}
		token := req.PostForm.Get("logout_token")
		got := o.verified(token, "logout+jwt")
		var header struct{ Alg string }
		decodeSegment(t, token, 0, &header)
		if want := map[string]string{"rp": "RS256", "rp2": "ES256"}[client]; header.Alg != want {
			t.Errorf("%s: alg %s, want %s", client, header.Alg, want)
		}
		now := float64(o.Clock.Now().Unix())
		want := map[string]any{
			"iss": o.Issuer, "aud": client, "sub": members["sub"], "sid": members["sid"], "iat": now, "exp": now + 120, "jti": got["jti"],
			"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
		}
		if diff := cmp.Diff(want, got); diff != "" || got["jti"] == "" || got["jti"] == nil {
			t.Errorf("%s: %s", client, diff)
		}
		// It is no ID token, though it is signed by the same keys.
		if code := o.refusal("id_token_hint", token); code != "invalid_request" {
			t.Errorf("a logout token as a hint: %q", code)
		}
	}
	if !told["rp"] || !told["rp2"] || len(r.got) != 0 {
		t.Errorf("told %v, %d more", told, len(r.got))
	}
}

// "Not me" and reports end sign-ins too, and a client that took no part hears nothing.
func TestBackchannelTellsOfEveryEnd(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	o := withReceiver(t, r, nil)
	o.tokens("client_id", "rp2")
	page := o.Get(t.Context(), o.browser, "/device")
	token := page.Body[strings.LastIndex(page.Body, `name="csrf" value="`)+len(`name="csrf" value="`):]
	o.wantSignedOutPage(o.Post(t.Context(), o.browser, "/logout", url.Values{"csrf": {token[:strings.IndexByte(token, '"')]}}))
	if req := r.wait(t); req.URL.Path != "/rp2" {
		t.Errorf("told %s", req.URL.Path)
	}
	if err := o.Provider.Close(); err != nil {
		t.Fatal(err)
	}
	if len(r.got) != 0 {
		t.Errorf("%d more", len(r.got))
	}
}

// untilWaiting returns once something waits for the clock.
func untilWaiting(t *testing.T, o *op) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); o.Clock.Timers() == 0; {
		if time.Now().After(deadline) {
			t.Fatal("nothing waits")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestBackchannelTriesAgain(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, status(503), status(429), status(500))
	o := withReceiver(t, r, nil)
	o.tokens()
	o.leave(nil)
	seen := map[any]bool{}
	for _, wait := range []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 0} {
		got := o.verified(r.wait(t).PostForm.Get("logout_token"), "logout+jwt")
		if seen[got["jti"]] || got["iat"] != float64(o.Clock.Now().Unix()) {
			t.Errorf("try %d: %v", len(seen)+1, got)
		}
		seen[got["jti"]] = true
		if wait > 0 {
			untilWaiting(t, o)
			o.Clock.Advance(wait - time.Millisecond)
			if o.Clock.Timers() == 0 {
				t.Errorf("it waits less than %s", wait)
			}
			o.Clock.Advance(time.Millisecond)
		}
	}
	if err := o.Provider.Close(); err != nil {
		t.Fatal(err)
	}
	if len(r.got) != 0 || o.Clock.Timers() != 0 {
		t.Errorf("it goes on after a success: %d, %d", len(r.got), o.Clock.Timers())
	}
}

func TestBackchannelGivesUp(t *testing.T) {
	t.Parallel()
	var never []func(http.ResponseWriter)
	for range 16 {
		never = append(never, status(500))
	}
	r := newReceiver(t, never...)
	o := withReceiver(t, r, nil)
	o.tokens()
	o.leave(nil)
	for range 5 {
		r.wait(t)
		untilWaiting(t, o)
		o.Clock.Advance(10 * time.Minute)
	}
	r.wait(t)
	if err := o.Provider.Close(); err != nil {
		t.Fatal(err)
	}
	if len(r.got) != 0 || o.Clock.Timers() != 0 {
		t.Errorf("it never gives up: %d, %d", len(r.got), o.Clock.Timers())
	}
}

// What the client says is not read further than needed, and leads nowhere.
func TestBackchannelTakesNoOrders(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(http.ResponseWriter){
		"a redirect": func(w http.ResponseWriter) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
		"a refusal":    status(http.StatusBadRequest),
		"no content":   status(http.StatusNoContent),
		"endless body": func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, 8<<20)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t, answer)
			o := withReceiver(t, r, nil)
			o.tokens()
			o.leave(nil)
			r.wait(t)
			if err := o.Provider.Close(); err != nil {
				t.Fatal(err)
			}
			if len(r.got) != 0 || o.Clock.Timers() != 0 {
				t.Errorf("%d more requests, %d timers", len(r.got), o.Clock.Timers())
			}
		})
	}
}

// The networks are the operator's to open: a client's address may be anything.
func TestBackchannelStaysOutOfPrivateNetworks(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	o := withReceiver(t, r, func(c *provider.Config) { c.BackchannelNetworks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
	o.tokens()
	o.leave(nil)
	o.wantLeft()
	if err := o.Provider.Close(); err != nil {
		t.Fatal(err)
	}
	if len(r.got) != 0 || o.Clock.Timers() != 0 {
		t.Errorf("%d requests reached it, %d timers", len(r.got), o.Clock.Timers())
	}
}

// A certificate that nobody vouches for is no client's.
func TestBackchannelChecksCertificates(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	o := withReceiver(t, r, func(c *provider.Config) { c.BackchannelRoots = nil })
	o.tokens()
	o.leave(nil)
	untilWaiting(t, o)
	if len(r.got) != 0 {
		t.Error("a token went to a stranger")
	}
}

// Closing waits for no further try.
func TestBackchannelCloses(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, status(500))
	o := withReceiver(t, r, nil)
	o.tokens()
	o.leave(nil)
	r.wait(t)
	untilWaiting(t, o)
	for range 2 {
		if err := o.Provider.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCheckBackchannelLogoutURI(t *testing.T) {
	t.Parallel()
	for uri, good := range map[string]bool{
		"https://rp.example/logout": true, "https://rp.example:8443/logout?x=1": true, "http://127.0.0.1:8080/logout": true, "http://localhost/": true,
		"": false, "/logout": false, "http://rp.example/logout": false, "https://rp.example/#f": false, "https://user@rp.example/": false,
		"https:///logout": false, "ftp://rp.example/": false, "https://rp.example/%zz": false,
	} {
		if err := provider.CheckBackchannelLogoutURI(uri); (err == nil) != good {
			t.Errorf("%q: %v", uri, err)
		}
	}
}

func TestPublicAddress(t *testing.T) {
	t.Parallel()
	for address, public := range map[string]bool{
		"9.9.9.9": true, "2620:fe::fe": true,
		"127.0.0.1": false, "::1": false, "10.1.2.3": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false,
		"0.0.0.0": false, "255.255.255.255": false, "224.0.0.1": false, "fe80::1": false, "fd00::1": false, "ff02::1": false, "64:ff9b::7f00:1": false, "2002:7f00:1::": false,
	} {
		if got := provider.PublicAddress(netip.MustParseAddr(address)); got != public {
			t.Errorf("%s: %v", address, got)
		}
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

// A sign-in ends once, however often it is ended.
func TestBackchannelTellsOnce(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	o := withReceiver(t, r, nil)
	old, first := o.tokens()
	o.leave(nil)
	_, second := o.tokens()
	o.leave(url.Values{"id_token_hint": {old.IDToken}})
	told := map[any]int{}
	for range 2 {
		told[o.verified(r.wait(t).PostForm.Get("logout_token"), "logout+jwt")["sid"]]++
	}
	if err := o.Provider.Close(); err != nil {
		t.Fatal(err)
	}
	if told[first["sid"]] != 1 || told[second["sid"]] != 1 || len(r.got) != 0 {
		t.Errorf("told %v, %d more", told, len(r.got))
	}
}
