package provider_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// approverApps are first-party approvers at every kind of redirect.
func approverApps() (clients []*storage.Client, redirects map[string]string) {
	redirects = map[string]string{
		"loopback": "http://127.0.0.1/callback", "scheme": "com.example.app:/cb", "claimed": "https://app.example/cb",
		"claimed-loopback": "https://127.0.0.1/cb", "secret-loopback": "http://127.0.0.1/callback", "secret-claimed": "https://app.example/cb",
	}
	for id, redirect := range redirects {
		c := &storage.Client{
			ID: id, RedirectURIs: []string{redirect}, FirstParty: true, Approver: true, GrantTypes: []string{"authorization_code"},
			Scopes: []string{"openid", qr.ApproveScope},
		}
		if strings.HasPrefix(id, "secret") {
			c.SecretHashes = providertest.Clients()[0].SecretHashes
		}
		clients = append(clients, c)
	}
	return clients, redirects
}

// TestNobodyBecomesAnApproverSilently: any program on the person's device can play an app whose
// redirect stays there (RFC 8252 §8.6). A browser that is signed in must not answer it alone.
func TestNobodyBecomesAnApproverSilently(t *testing.T) {
	t.Parallel()
	clients, redirects := approverApps()
	s := providertest.NewServer(t, providertest.Options{Clients: clients})
	for id, row := range map[string]struct{ approves, signsIn bool }{
		"claimed": {true, true}, "secret-claimed": {true, true}, "secret-loopback": {false, true},
		"loopback": {}, "scheme": {}, "claimed-loopback": {},
	} {
		browser := s.Browser()
		s.SignedIn(t.Context(), browser, "web", "openid")
		for scope, silent := range map[string]bool{"openid": row.signsIn, "openid " + qr.ApproveScope: row.approves} {
			what := id + ", " + scope
			_, challenge := providertest.Verifier()
			query := providertest.AuthorizeQuery(id, scope, challenge)
			query.Set("redirect_uri", redirects[id])
			page := s.Get(t.Context(), browser, "/authorize?"+query.Encode())
			query.Set("prompt", "none")
			none := s.Get(t.Context(), browser, "/authorize?"+query.Encode())
			if silent {
				if page.Location().Query().Get("code") == "" || none.Location().Query().Get("code") == "" {
					t.Errorf("%s: an ordinary app is asked about: %d %q", what, page.Status, errorOf(none))
				}
				continue
			}
			if page.Hidden("request") == "" || errorOf(none) != "consent_required" {
				t.Errorf("%s: nobody was asked: %d %s, silently %q", what, page.Status, page.Header.Get("Location"), errorOf(none))
				continue
			}
			// A yes is for this once.
			yes := s.Post(t.Context(), browser, "/consent", url.Values{"csrf": {page.Hidden("csrf")}, "request": {page.Hidden("request")}, "decision": {"allow"}})
			if yes.Location().Query().Get("code") == "" {
				t.Errorf("%s: the yes: %d %s", what, yes.Status, yes.Body)
			}
			if again := s.Get(t.Context(), browser, "/authorize?"+query.Encode()); errorOf(again) != "consent_required" {
				t.Errorf("%s: a yes was remembered: %q", what, again.Header.Get("Location"))
			}
		}
		// Whoever signs in for the app is not asked beside that.
		fresh := s.Browser()
		_, challenge := providertest.Verifier()
		query := providertest.AuthorizeQuery(id, "openid "+qr.ApproveScope, challenge)
		query.Set("redirect_uri", redirects[id])
		reply := s.SignIn(t.Context(), fresh, s.Get(t.Context(), fresh, "/authorize?"+query.Encode()))
		if reply.Location().Query().Get("code") == "" {
			t.Errorf("%s: asked after a sign-in for this very request: %d %s", id, reply.Status, reply.Body)
		}
	}
}

// TestApproverOnAnotherPort is the theft as a program would do it.
func TestApproverOnAnotherPort(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	victim := s.Browser()
	s.SignedIn(t.Context(), victim, "phone", "openid "+qr.ApproveScope)
	reply := ask(t, s, victim, "phone", "scope", "openid "+qr.ApproveScope+" offline_access", "redirect_uri", "http://127.0.0.1:6666/callback", "prompt", "none")
	if errorOf(reply) != "consent_required" || reply.Location().Query().Get("code") != "" {
		t.Errorf("another port: %s", reply.Header.Get("Location"))
	}
}

// TestUsedCodeOfAStranger: a used code has stood in a URL. Only who could have redeemed it shows
// by sending it again that it is in two hands.
func TestUsedCodeOfAStranger(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	verifier, challenge := providertest.Verifier()
	redirect := s.Code(t.Context(), s.Browser(), providertest.AuthorizeQuery("web", "openid offline_access", challenge))
	form := url.Values{"grant_type": {"authorization_code"}, "code": {redirect.Location().Query().Get("code")}, "redirect_uri": {providertest.RedirectURI}}
	with := func(name, value string) url.Values {
		changed := url.Values{name: {value}}
		for other, values := range form {
			if other != name {
				changed[other] = values
			}
		}
		return changed
	}
	strangers := func(when string) {
		public := with("client_id", "phone")
		public.Set("code_verifier", verifier)
		for what, reply := range map[string]*providertest.Reply{
			"a public client":                    s.Post(t.Context(), s.Client(), "/token", with("client_id", "phone")),
			"a public client, the right one":     s.Post(t.Context(), s.Client(), "/token", public),
			"another client, the right verifier": s.PostAs(t.Context(), "thirdparty", "/token", with("code_verifier", verifier)),
			"the client, a wrong verifier":       s.PostAs(t.Context(), "web", "/token", with("code_verifier", strings.Repeat("x", 43))),
			"the client, no verifier":            s.PostAs(t.Context(), "web", "/token", form),
		} {
			t.Log(when, what)
			wantError(t, reply, http.StatusBadRequest, "invalid_grant")
		}
		unknown := s.Post(t.Context(), s.Client(), "/token", with("client_id", "web"))
		wantError(t, unknown, http.StatusUnauthorized, "invalid_client")
	}
	strangers("before")
	tokens := tokensOf(t, s.Redeem(t.Context(), "web", redirect, verifier))
	strangers("after")
	if !active(t, s, tokens.AccessToken) {
		t.Error("strangers revoked the access token")
	}
	next := tokensOf(t, refresh(t, s, "web", tokens.RefreshToken, nil))
	wantError(t, s.Redeem(t.Context(), "web", redirect, verifier), http.StatusBadRequest, "invalid_grant")
	wantError(t, refresh(t, s, "web", next.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
	if active(t, s, next.AccessToken) {
		t.Error("the client's own replay revoked nothing")
	}
}

// TestUsedCodeWithoutAChallenge: there is no verifier to tell by, so the client's secret does.
func TestUsedCodeWithoutAChallenge(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	redirect := s.Code(t.Context(), s.Browser(), providertest.AuthorizeQuery("thirdparty", "openid", ""))
	tokens := tokensOf(t, s.Redeem(t.Context(), "thirdparty", redirect, ""))
	wantError(t, s.Redeem(t.Context(), "web", redirect, ""), http.StatusBadRequest, "invalid_grant")
	if !active(t, s, tokens.AccessToken) {
		t.Error("another client revoked the token")
	}
	wantError(t, s.Redeem(t.Context(), "thirdparty", redirect, ""), http.StatusBadRequest, "invalid_grant")
	if active(t, s, tokens.AccessToken) {
		t.Error("the client's own replay revoked nothing")
	}
}

func manyWords(n int) string {
	words := make([]string, n)
	for i := range words {
		words[i] = fmt.Sprintf("w%d", i)
	}
	return strings.Join(words, " ")
}

// TestListsOfWordsAreShort: what is done for each word of a list would add up.
func TestListsOfWordsAreShort(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	many, repeated, most := manyWords(10_000), strings.Repeat("openid ", 65), strings.TrimSpace(strings.Repeat("openid ", 64))
	for name, row := range map[string]struct {
		changes []string
		want    string
	}{
		"scope":                  {[]string{"scope", many}, "invalid_scope"},
		"scope, the same again":  {[]string{"scope", repeated}, "invalid_scope"},
		"prompt":                 {[]string{"prompt", many}, "invalid_request"},
		"prompt, the same again": {[]string{"prompt", strings.Repeat("login ", 65)}, "invalid_request"},
	} {
		if got := errorOf(ask(t, s, s.Browser(), "web", row.changes...)); got != row.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if reply := ask(t, s, s.Browser(), "web", "scope", most); !isSignIn(reply) {
		t.Errorf("64 words: %d %s", reply.Status, reply.Header.Get("Location"))
	}
	// The first languages are read, and no more.
	if page := ask(t, s, s.Browser(), "web", "ui_locales", "zh "+many); !strings.Contains(page.Body, `lang="zh`) {
		t.Errorf("the first language: %d %s", page.Status, page.Body)
	}
	if page := ask(t, s, s.Browser(), "web", "ui_locales", many+" zh"); !strings.Contains(page.Body, `lang="en"`) {
		t.Errorf("the last of 10001 languages: %d %s", page.Status, page.Body)
	}
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	wantError(t, refresh(t, s, "web", tokens.RefreshToken, url.Values{"scope": {repeated}}), http.StatusBadRequest, "invalid_scope")
	wantError(t, s.PostAs(t.Context(), "svc", "/token", url.Values{"grant_type": {"client_credentials"}, "scope": {strings.Repeat("reports:read ", 65)}}), http.StatusBadRequest, "invalid_scope")
	tokensOf(t, refresh(t, s, "web", tokens.RefreshToken, url.Values{"scope": {most}}))
}

// TestForwardedAddressesWithPorts: proxies write addresses in several ways, and one that is not
// understood would put everybody into one network.
func TestForwardedAddressesWithPorts(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		via      string
		distinct bool
	}{
		"a port":                      {"203.0.%d.7:4711", true},
		"brackets and a port":         {"[2001:db8:%d::1]:4711", true},
		"brackets":                    {"[2001:db8:%d::1]", true},
		"a port after trusted hops":   {"203.0.%d.7:4711, 127.0.0.9:80", true},
		"ports of one address":        {"203.0.113.7:471%d", false},
		"a mapped address and a port": {"[::ffff:203.0.113.7]:471%d", false},
		"an open bracket":             {"[2001:db8:%d::1", false},
		"brackets around IPv4":        {"[203.0.%d.7", false},
		"a port that is none":         {"203.0.%d.7:port", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{HTTP: true, Change: func(c *provider.Config) {
				c.TrustedProxies, c.QRLimits.OpensPerMinute = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, 3
			}})
			var last *providertest.Reply
			for i := range 4 {
				last = send(t, s, "POST", "/device_authorization", "client_id=tv&scope=openid", http.Header{"X-Forwarded-For": {fmt.Sprintf(row.via, i+1)}})
			}
			if limited := last.Status == http.StatusTooManyRequests; limited == row.distinct {
				t.Errorf("four openings from %s: %d %s", row.via, last.Status, last.Body)
			}
		})
	}
}

func TestUnreadableForwardedAddressIsLoggedOnce(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	s := providertest.NewServer(t, providertest.Options{
		HTTP: true, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Change: func(c *provider.Config) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} },
	})
	const warning = "X-Forwarded-For that cannot be read"
	opening := func(via ...string) {
		header := http.Header{}
		if via != nil {
			header["X-Forwarded-For"] = via
		}
		send(t, s, "POST", "/device_authorization", "client_id=tv&scope=openid", header)
	}
	opening()
	opening("203.0.113.7:4711")
	opening("what the sender wrote, 203.0.113.7")
	if strings.Contains(log.String(), warning) {
		t.Errorf("warned of nothing: %s", log.String())
	}
	for range 3 {
		opening("canary-of-the-header")
	}
	if n := strings.Count(log.String(), warning); n != 1 || strings.Contains(log.String(), "canary") || !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("%d warnings: %s", n, log.String())
	}
}

// TestConsentIsJudgedWhenItIsGiven: the page was right when it was made.
func TestConsentIsJudgedWhenItIsGiven(t *testing.T) {
	t.Parallel()
	disable := func(change func(*storage.Client)) func(*testing.T, *providertest.Server) {
		return func(t *testing.T, s *providertest.Server) {
			t.Helper()
			mustChange(t, s, "stranger", change)
		}
	}
	later := func(d time.Duration) func(*testing.T, *providertest.Server) {
		return func(_ *testing.T, s *providertest.Server) { s.Clock.Advance(d) }
	}
	for name, row := range map[string]struct {
		meanwhile func(*testing.T, *providertest.Server)
		status    int
		signIn    bool
	}{
		"nothing":                      {later(0), http.StatusSeeOther, false},
		"ten minutes":                  {later(10 * time.Minute), http.StatusSeeOther, false},
		"more than ten minutes":        {later(10*time.Minute + time.Second), http.StatusForbidden, false},
		"the client has no QR sign-in": {disable(func(c *storage.Client) { c.QR.Enabled = false }), http.StatusSeeOther, true},
		"the policy has fewer scopes":  {disable(func(c *storage.Client) { c.QR.AllowedScopes = []string{"openid"} }), http.StatusSeeOther, true},
		"the client is disabled":       {disable(func(c *storage.Client) { c.Disabled = true }), http.StatusBadRequest, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t, providertest.Options{})
			b := visit(t, s, s.Browser(), "stranger", "prompt", "consent", "max_age", "1")
			b.approve(newPhone(t, s))
			page := b.press("continue")
			row.meanwhile(t, s)
			reply := s.Post(t.Context(), b.browser, "/consent", url.Values{"csrf": {page.Hidden("csrf")}, "request": {page.Hidden("request")}, "decision": {"allow"}})
			code := reply.Location().Query().Get("code") != ""
			if reply.Status != row.status || code != (row.status == http.StatusSeeOther && !row.signIn) {
				t.Fatalf("%d %s %s", reply.Status, reply.Header.Get("Location"), reply.Body)
			}
			if !row.signIn {
				return
			}
			if next := s.Get(t.Context(), b.browser, reply.Header.Get("Location")); !isSignIn(next) {
				t.Errorf("led to %s: %d", reply.Header.Get("Location"), next.Status)
			}
			if c, err := s.Store.Consent(t.Context(), providertest.AliceSubject, "stranger"); err == nil {
				t.Errorf("remembered %v", c.Scopes)
			}
		})
	}
}

// TestRefusingMoreKeepsWhatWasAllowed: only a no to the same again takes it back.
func TestRefusingMoreKeepsWhatWasAllowed(t *testing.T) {
	t.Parallel()
	o := newOP(t, "query", opClients(), nil)
	o.tokens("scope", "openid email")
	cancel := func(changes ...string) {
		page := o.ask(changes...)
		reply := o.Post(t.Context(), o.browser, "/consent", url.Values{"csrf": {page.Hidden("csrf")}, "request": {page.Hidden("request")}, "decision": {"cancel"}})
		if errorOf(reply) != "access_denied" {
			t.Errorf("%v: %d %s", changes, reply.Status, reply.Header.Get("Location"))
		}
	}
	cancel("scope", "openid email profile")
	cancel("scope", "openid profile", "prompt", "consent")
	if diff := cmp.Diff([]string{"openid", "email"}, consentOf(t, o, "rp")); diff != "" {
		t.Errorf("after a no to more: %s", diff)
	}
	o.silent("scope", "openid email", "prompt", "none")
	cancel("scope", "openid", "prompt", "consent")
	if kept := consentOf(t, o, "rp"); kept != nil {
		t.Errorf("after a no to the same: %v", kept)
	}
}

// TestParkedPromptLogin: "New code" again and again must not turn a sign-in of hours ago into
// one that is newer than the request.
func TestParkedPromptLogin(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		parked time.Duration
		status int
	}{
		"twelve minutes": {12 * time.Minute, http.StatusOK},
		"longer":         {15 * time.Minute, http.StatusUnauthorized},
		"two hours":      {120 * time.Minute, http.StatusUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t, providertest.Options{Change: lasting})
			b := visit(t, s, s.Browser(), "shop", "prompt", "login")
			p := newPhone(t, s)
			for range row.parked / (3 * time.Minute) {
				s.Clock.Advance(3 * time.Minute)
				b.press("new")
				b.load()
			}
			if scan := p.scan(b.scanned(), "scanner"); scan.Status != row.status {
				t.Errorf("a sign-in from the beginning: %d %s", scan.Status, scan.Body)
			}
			if row.status == http.StatusOK {
				return
			}
			b.signedIn(newPhone(t, s))
		})
	}
}

// TestRevocationAtABrowsersSignIn: a client's token is its own to revoke; the person's single
// sign-on and what other clients hold are not.
func TestRevocationAtABrowsersSignIn(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"access token", "refresh token"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newShop(t, providertest.Options{})
			b := visit(t, s, s.Browser(), "shop", "scope", "openid profile offline_access")
			shop := b.signedIn(newPhone(t, s))
			verifier, challenge := providertest.Verifier()
			redirect := s.Code(t.Context(), b.browser, providertest.AuthorizeQuery("stranger", "openid offline_access", challenge))
			other := tokensOf(t, s.Redeem(t.Context(), "stranger", redirect, verifier))
			for _, row := range []struct {
				client     string
				own, spare providertest.Tokens
			}{{"stranger", other, shop}, {"shop", shop, providertest.Tokens{}}} {
				token := row.own.AccessToken
				if kind == "refresh token" {
					token = row.own.RefreshToken
				}
				if reply := s.PostAs(t.Context(), row.client, "/revoke", url.Values{"token": {token}}); reply.Status != http.StatusOK {
					t.Fatalf("%s: %d %s", row.client, reply.Status, reply.Body)
				}
				wantError(t, refresh(t, s, row.client, row.own.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
				if active(t, s, row.own.AccessToken) {
					t.Errorf("%s: its access token outlived its family", row.client)
				}
				if row.spare.AccessToken != "" && !active(t, s, row.spare.AccessToken) {
					t.Errorf("%s revoked another client's tokens", row.client)
				}
				if reply := visit(t, s, b.browser, "shop", "prompt", "none").page; reply.Location().Query().Get("code") == "" {
					t.Errorf("%s ended the person's sign-in: %s", row.client, reply.Header.Get("Location"))
				}
			}
		})
	}
}

// TestRevocationAtTheDirectDoor is "Not me" (protocol §4): the sign-in is the client's own.
func TestRevocationAtTheDirectDoor(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	_, tokens := signIn(t, s, "cli", url.Values{"scope": {"openid offline_access"}})
	sid, _ := claims(t, tokens.IDToken)["sid"].(string)
	if reply := s.Post(t.Context(), s.Client(), "/revoke", url.Values{"token": {tokens.AccessToken}, "client_id": {"cli"}}); reply.Status != http.StatusOK {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	if signedIn, err := s.Store.Session(t.Context(), sid); err != nil || signedIn.EndedAt.IsZero() {
		t.Errorf("the sign-in lasts: %+v %v", signedIn, err)
	}
	wantError(t, refreshed(t, s, "cli", tokens.RefreshToken), http.StatusBadRequest, "invalid_grant")
}

// TestForeignIntrospectionIsNoUse: a refresh token whose answer was lost may come back until its
// successors were used. Another client's question about them is no use.
func TestForeignIntrospectionIsNoUse(t *testing.T) {
	t.Parallel()
	for asker, status := range map[string]int{"thirdparty": http.StatusOK, "web": http.StatusBadRequest} {
		t.Run(asker, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			first := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
			second := tokensOf(t, refresh(t, s, "web", first.RefreshToken, nil))
			answer := s.PostAs(t.Context(), asker, "/introspect", url.Values{"token": {second.AccessToken}})
			if own := asker == "web"; answer.JSON()["active"] != own {
				t.Errorf("%d %s", answer.Status, answer.Body)
			}
			if reply := refresh(t, s, "web", first.RefreshToken, nil); reply.Status != status {
				t.Errorf("the lost answer again: %d %s", reply.Status, reply.Body)
			}
		})
	}
}

// TestStolenFlowCookie: the cookie of the QR code does not take the sign-in to another browser.
func TestStolenFlowCookie(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b := visit(t, s, s.Browser(), "shop")
	issuer, err := url.Parse(s.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	thief := s.Browser()
	s.Get(t.Context(), thief, "/device") // a form cookie of its own
	for _, name := range b.flowCookies() {
		thief.Jar.SetCookies(issuer, []*http.Cookie{{Name: name, Value: b.cookies()[name], Path: "/", Secure: true}})
	}
	b.approve(newPhone(t, s))
	// The frame without script is sealed for whoever loads it.
	frame := s.Get(t.Context(), thief, "/login/qr?"+url.Values{"flow": {b.flow()}, "next": {"/authorize?" + b.query.Encode()}}.Encode())
	for _, button := range []string{"continue", "not-me", "new"} {
		reply := s.Post(t.Context(), thief, "/login/qr/"+button, url.Values{"csrf": {frame.Hidden("csrf")}, "flow": {b.flow()}, "next": {"/authorize?" + b.query.Encode()}})
		if frame.Hidden("csrf") == "" || reply.Status != http.StatusForbidden {
			t.Errorf("%s with the stolen cookie: %d %s", button, reply.Status, reply.Header.Get("Location"))
		}
	}
	if reply := b.press("continue"); reply.Location().Query().Get("code") == "" {
		t.Errorf("the browser itself: %d %s", reply.Status, reply.Body)
	}
}

// TestFlowOutlivesTheFormCookie: a browser that was closed in between gets another code.
func TestFlowOutlivesTheFormCookie(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b := visit(t, s, s.Browser(), "shop")
	was, kept := b.flow(), b.cookies()
	issuer, err := url.Parse(s.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	if b.browser.Jar, err = cookiejar.New(nil); err != nil {
		t.Fatal(err)
	}
	for name, value := range kept {
		if strings.HasPrefix(name, "__Host-qr-") {
			b.browser.Jar.SetCookies(issuer, []*http.Cookie{{Name: name, Value: value, Path: "/", Secure: true}})
		}
	}
	b.load()
	if b.flow() == was || b.status() != "pending" {
		t.Fatalf("the old code: %q %q", b.flow(), b.status())
	}
	b.signedIn(newPhone(t, s))
}
