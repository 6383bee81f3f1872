package provider_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// Threat T13: an attacker scans the victim's screen and approves, so that the victim works in the
// attacker's account. The page names the account and signs nobody in before the button.
func TestThreatT13AttackerScansTheVictimsScreen(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b := visit(t, s, s.Browser(), "shop")
	attacker := newPhoneOf(t, s, "mallory")
	decided := b.approve(attacker)
	if !strings.Contains(b.page.Body, `<span id="qr-name">mallory</span>`) {
		t.Errorf("the page does not name the account: %s", b.page.Body)
	}
	for name := range b.cookies() {
		if name == "__Host-qrgrant" {
			t.Error("signed in before the button")
		}
	}
	if reply := visit(t, s, b.browser, "shop", "prompt", "none"); errorOf(reply.page) != "login_required" {
		t.Errorf("a code before the button: %s", reply.page.Header.Get("Location"))
	}
	if _, err := s.Store.Session(t.Context(), decided.Text("sid")); err == nil {
		t.Error("the sign-in exists before the button")
	}
	if reply := b.press("not-me"); reply.Status != http.StatusSeeOther {
		t.Fatalf("not me: %d %s", reply.Status, reply.Body)
	}
	if got := b.record().State; got != storage.QRAborted {
		t.Errorf("state %s", got)
	}
	if reply := b.press("continue"); reply.Location().Query().Get("code") != "" || b.cookies()["__Host-qrgrant"] != "" {
		t.Errorf("continue after not me: %d %s", reply.Status, reply.Header.Get("Location"))
	}
}

// TestThreatT13NotMeAfterTheFact: the answer of the button was lost, the browser still holds the
// flow's cookie, and the person says that it was not them.
func TestThreatT13NotMeAfterTheFact(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b := visit(t, s, s.Browser(), "shop")
	decided := b.approve(newPhoneOf(t, s, "mallory"))
	lost := s.Client() // sends the cookies and keeps none of the answer
	u, err := url.Parse(s.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	lost.Jar = frozenJar{b.browser.Jar.Cookies(u)}
	redirect := b.pressIn(lost, "continue")
	tokens := tokensOf(t, s.Redeem(t.Context(), "shop", redirect, b.verifier))
	if reply := b.press("not-me"); reply.Status != http.StatusSeeOther {
		t.Fatalf("not me: %d %s", reply.Status, reply.Body)
	}
	if session, err := s.Store.Session(t.Context(), decided.Text("sid")); err != nil || session.EndedAt.IsZero() {
		t.Errorf("the sign-in lasts: %+v %v", session, err)
	}
	if active(t, s, tokens.AccessToken) {
		t.Error("its access token lasts")
	}
}

// frozenJar sends cookies and takes none.
type frozenJar struct{ cookies []*http.Cookie }

func (frozenJar) SetCookies(*url.URL, []*http.Cookie) {}
func (j frozenJar) Cookies(*url.URL) []*http.Cookie   { return j.cookies }

// The button pressed twice signs in once, and a copy of the flow's cookie used later ends what
// it had signed in.
func TestHostedContinueIsRedeemedOnce(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b := visit(t, s, s.Browser(), "shop")
	decided := b.approve(newPhone(t, s))
	u, err := url.Parse(s.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	copied := s.Client()
	copied.Jar = frozenJar{b.browser.Jar.Cookies(u)}
	if reply := b.pressIn(copied, "continue"); reply.Location().Query().Get("code") == "" {
		t.Fatalf("first: %d %s", reply.Status, reply.Body)
	}
	if reply := b.pressIn(copied, "continue"); reply.Location().Query().Get("code") != "" || strings.Contains(reply.Header.Get("Set-Cookie"), "__Host-qrgrant=") {
		t.Errorf("second: %s", reply.Header.Get("Location"))
	}
	if session, err := s.Store.Session(t.Context(), decided.Text("sid")); err != nil || !session.EndedAt.IsZero() {
		t.Errorf("a button pressed twice ended the sign-in: %v", err)
	}
	s.Clock.Advance(time.Minute)
	b.pressIn(copied, "continue")
	if session, err := s.Store.Session(t.Context(), decided.Text("sid")); err != nil || session.EndedAt.IsZero() {
		t.Errorf("a replay left the sign-in: %v", err)
	}
}

// Threat T14: other sites can neither press the buttons nor read the state.
func TestThreatT14OtherSitesAtTheHostedDoor(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b := visit(t, s, s.Browser(), "shop")
	b.approve(newPhone(t, s))
	was := b.record()
	code := b.code()
	form := url.Values{"csrf": {code.Hidden("csrf")}, "flow": {code.Hidden("flow")}, "next": {code.Hidden("next")}}
	for what, header := range map[string]http.Header{
		"a cross-site form":  {"Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://evil.example"}},
		"a sibling's form":   {"Sec-Fetch-Site": {"same-site"}},
		"a foreign origin":   {"Origin": {"https://evil.example"}},
		"a sandboxed origin": {"Origin": {"null"}},
	} {
		for _, path := range []string{"/login/qr/continue", "/login/qr/not-me", "/login/qr/new"} {
			if reply := sendForm(t, s, b.browser, path, form, header); reply.Status != http.StatusForbidden {
				t.Errorf("%s at %s: %d", what, path, reply.Status)
			}
		}
	}
	for what, change := range map[string]url.Values{
		"no CSRF token":       {"csrf": {""}},
		"a forged one":        {"csrf": {form.Get("csrf") + "A"}},
		"the password form's": {"csrf": {b.page.Hidden("csrf")}},
		"another next":        {"next": {"https://evil.example/"}},
		"another request":     {"next": {form.Get("next") + "&prompt=consent"}},
		"another flow":        {"flow": {visit(t, s, b.browser, "shop").flow()}},
	} {
		for _, path := range []string{"/login/qr/continue", "/login/qr/not-me", "/login/qr/new"} {
			sent := url.Values{"csrf": form["csrf"], "flow": form["flow"], "next": form["next"]}
			for name, value := range change {
				sent[name] = value
			}
			if reply := s.Post(t.Context(), b.browser, path, sent); reply.Status != http.StatusForbidden {
				t.Errorf("%s at %s: %d", what, path, reply.Status)
			}
		}
	}
	for _, path := range []string{b.attribute("data-state"), b.attribute("data-svg"), frameOf(b)} {
		for _, site := range []string{"cross-site", "same-site"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL(path), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Sec-Fetch-Site", site)
			req.Header.Set("Origin", "https://evil.example")
			reply := s.Do(b.browser, req)
			if reply.Status == http.StatusOK || strings.Contains(reply.Body, "Alice") || reply.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s of %.30s: %d %s", site, path, reply.Status, reply.Body)
			}
		}
	}
	// The frame leads nowhere but to the request its flow was opened for.
	for _, next := range []string{"https://evil.example/", form.Get("next") + "&prompt=consent", "/device", ""} {
		path := "/login/qr?" + url.Values{"flow": {b.flow()}, "next": {next}}.Encode()
		if reply := s.Get(t.Context(), b.browser, path); reply.Status != http.StatusBadRequest || strings.Contains(reply.Body, "Alice") {
			t.Errorf("a frame for %q: %d", next, reply.Status)
		}
	}
	// No GET moves a session.
	for _, path := range []string{"/login/qr/continue", "/login/qr/not-me", "/login/qr/new"} {
		if reply := s.Get(t.Context(), b.browser, path+"?"+form.Encode()); reply.Status != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: %d", path, reply.Status)
		}
	}
	if got := b.record(); got.Version != was.Version {
		t.Errorf("the session moved: %s", got.State)
	}
}

func sendForm(t *testing.T, s *providertest.Server, browser *http.Client, path string, form url.Values, header http.Header) *providertest.Reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL(path), strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return s.Do(browser, req)
}

// A browser that has the URL of the page, the id of the flow and even the whole page, but not the
// cookie, gets nothing and disturbs nothing.
func TestHostedForeignBrowserGetsNothing(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b := visit(t, s, s.Browser(), "shop")
	b.approve(newPhone(t, s))
	foreign := visit(t, s, s.Browser(), "shop")
	foreign.query = b.query
	foreign.load()
	if foreign.flow() == b.flow() || foreign.status() != "pending" || strings.Contains(foreign.page.Body, "Alice") {
		t.Errorf("the URL gives %q %q", foreign.flow(), foreign.status())
	}
	u, err := url.Parse(s.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	foreignSecret := foreign.cookies()["__Host-qr-"+foreign.flow()]
	for name, secret := range map[string]string{"no cookie": "", "a cookie of its own": foreignSecret, "a short one": "AAAA"} {
		browser := s.Browser()
		if secret != "" {
			browser.Jar.SetCookies(u, []*http.Cookie{{Name: "__Host-qr-" + b.flow(), Value: secret, Path: "/", Secure: true}})
		}
		for _, path := range []string{b.attribute("data-state"), b.attribute("data-svg"), "/login/qr.png?flow=" + b.flow(), frameOf(b)} {
			if reply := s.Get(t.Context(), browser, path); reply.Status == http.StatusOK || strings.Contains(reply.Body, "Alice") {
				t.Errorf("%s: %.30s: %d %s", name, path, reply.Status, reply.Body)
			}
		}
		for range 6 { // five failures would end the session, if anybody could count them
			for _, button := range []string{"continue", "not-me", "new"} {
				if reply := b.pressIn(browser, button); reply.Status != http.StatusForbidden {
					t.Errorf("%s: %s: %d", name, button, reply.Status)
				}
			}
		}
	}
	if got := b.record().State; got != storage.QRApproved {
		t.Fatalf("state %s", got)
	}
	if reply := b.press("continue"); reply.Location().Query().Get("code") == "" {
		t.Errorf("the browser itself: %d %s", reply.Status, reply.Body)
	}
}

// The flow is of no use at the token endpoint, whose clients hold no cookie.
func TestHostedSessionAtTheDirectDoor(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	c, b := openQR(t, s, "cli", nil), visit(t, s, s.Browser(), "shop")
	b.approve(newPhone(t, s))
	form := c.tokenForm()
	for _, code := range []string{b.flow(), b.cookies()["__Host-qr-"+b.flow()], b.flow() + b.cookies()["__Host-qr-"+b.flow()]} {
		form.Set("device_code", code)
		wantError(t, c.post(t.Context(), "/token", form, nil), http.StatusBadRequest, "invalid_grant")
		wantError(t, c.post(t.Context(), "/qr/cancel", url.Values{"device_code": {code}}, nil), http.StatusBadRequest, "invalid_grant")
	}
	if got := b.record().State; got != storage.QRApproved {
		t.Errorf("state %s", got)
	}
}

// Step-up (RFC 9470): prompt=login and max_age are answered by a fresh sign-in on the phone.
func TestHostedStepUp(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		changes []string
		maxAge  float64
	}{
		"prompt=login": {[]string{"prompt", "login"}, 0},
		"max_age=0":    {[]string{"max_age", "0"}, 0},
		"max_age=30":   {[]string{"max_age", "30"}, 30},
	} {
		for _, renewed := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newShop(t, providertest.Options{})
				p, browser := newPhone(t, s), s.Browser()
				visit(t, s, browser, "shop").signedIn(p)
				s.Clock.Advance(time.Minute)
				b := visit(t, s, browser, "shop", row.changes...)
				if b.status() != "pending" {
					t.Fatalf("no page: %d %s", b.page.Status, b.page.Header.Get("Location"))
				}
				asked := unixOf(s.Clock.Now())
				refused := p.scan(b.scanned(), "scanner")
				if refused.Status != http.StatusUnauthorized || refused.Text("error") != "insufficient_user_authentication" || refused.JSON()["max_age"] != row.maxAge {
					t.Fatalf("an old sign-in: %d %s", refused.Status, refused.Body)
				}
				s.Clock.Advance(5 * time.Second)
				p = newPhone(t, s)
				if renewed {
					// The code ran out meanwhile. The sign-in is still newer than the request.
					s.Clock.Advance(5 * time.Minute)
					b.press("new")
					b.load()
				}
				tokens := b.signedIn(p)
				if got, _ := claims(t, tokens.IDToken)["auth_time"].(float64); got < asked {
					t.Errorf("auth_time %v, asked at %v", got, asked)
				}
			})
		}
	}
}

func TestHostedHints(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	hint := visit(t, s, s.Browser(), "shop").signedIn(newPhone(t, s)).IDToken
	b := visit(t, s, s.Browser(), "shop", "id_token_hint", hint)
	if reply := newPhoneOf(t, s, "bob").scan(b.scanned(), "scanner"); reply.Status != http.StatusForbidden || reply.Text("error") != "wrong_account" {
		t.Errorf("id_token_hint, another person: %d %s", reply.Status, reply.Body)
	}
	b.signedIn(newPhone(t, s))
	// login_hint fills the form in and binds nobody.
	b = visit(t, s, s.Browser(), "shop", "login_hint", "bob")
	if !strings.Contains(b.page.Body, `value="bob"`) {
		t.Error("the form is not filled in")
	}
	b.signedIn(newPhone(t, s))
}

// Laundering (protocol §8) from a browser that a phone signed in at the hosted door.
func TestHostedLaundering(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{Change: roomy, Clients: launderingClients()[:2]})
	b := visit(t, s, s.Browser(), "shop", "scope", "openid offline_access")
	tokens := b.signedIn(newPhone(t, s))
	for _, generation := range []string{"exchanged", "refreshed", "refreshed twice"} {
		if !marked(t, s, storage.TokenAccess, tokens.AccessToken) || !marked(t, s, storage.TokenRefresh, tokens.RefreshToken) {
			t.Errorf("%s: the mark is lost", generation)
		}
		wantNoApprover(t, s, generation, tokens.AccessToken)
		tokens = tokensOf(t, refresh(t, s, "shop", tokens.RefreshToken, nil))
	}
	for name, row := range map[string]struct{ client, scope string }{
		"the approver client":         {"phone", "openid"},
		"the approver's scope":        {"phone", "openid " + qr.ApproveScope},
		"a client without QR sign-in": {"web", "openid"},
		"a scope beyond the policy":   {"shop", "openid email"},
	} {
		other := visit(t, s, b.browser, row.client, "scope", row.scope)
		if !isSignIn(other.page) || other.flow() != "" {
			t.Errorf("%s: %d %s", name, other.page.Status, other.page.Header.Get("Location"))
		}
	}
	c := openQR(t, s, "tv", nil)
	was := c.record()
	page := s.Get(t.Context(), b.browser, "/device?user_code="+c.userCode())
	if !isSignIn(page) || !strings.Contains(page.Body, "signed in here by another device") || strings.Contains(page.Body, `id="qr"`) {
		t.Errorf("/device: %d %s", page.Status, page.Body)
	}
	wantUnmoved(t, c, was)
	// The person's own phone ends what it approved, by the sid it was told.
	if again := visit(t, s, b.browser, "shop"); again.page.Location().Query().Get("code") == "" {
		t.Errorf("single sign-on where it is allowed: %d", again.page.Status)
	}
}

// Personal data reaches the page only after the approval, and then the name only (I13).
func TestHostedNoPersonalDataBeforeApproval(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b, p := visit(t, s, s.Browser(), "shop"), newPhone(t, s)
	silent := func(where string) {
		t.Helper()
		b.load()
		for _, body := range []string{b.page.Body, b.state().Body, s.Get(t.Context(), b.browser, frameOf(b)).Body} {
			for _, secret := range []string{"Alice", "alice", providertest.AliceSubject} {
				if strings.Contains(body, secret) {
					t.Errorf("%s: %q is shown", where, secret)
				}
			}
		}
	}
	silent("pending")
	scan := p.scan(b.scanned(), "scanner")
	silent("scanned")
	p.decide(scan, "approve", b.state().Text("check_code"))
	b.load()
	for _, body := range []string{b.page.Body, b.state().Body} {
		if !strings.Contains(body, "Alice Arden") || strings.Contains(body, "alice@example.org") || strings.Contains(body, providertest.AliceSubject) {
			t.Errorf("approved: %s", body)
		}
	}
}
