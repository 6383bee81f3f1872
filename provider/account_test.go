package provider_test

import (
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// accountPage opens the account page in a browser and signs Alice in when it asks for that.
func accountPage(t *testing.T, s *providertest.Server, browser *http.Client) *providertest.Reply {
	t.Helper()
	page := s.Get(t.Context(), browser, "/account")
	if page.Hidden("next") == "" {
		return page
	}
	to := s.SignIn(t.Context(), browser, page)
	if to.Status != http.StatusSeeOther || !strings.HasSuffix(to.Header.Get("Location"), "/account") {
		t.Fatalf("sign-in: %d %s", to.Status, to.Body)
	}
	return s.Get(t.Context(), browser, to.Header.Get("Location"))
}

// entry is the part of the account page's list about what it names.
func entry(t *testing.T, page *providertest.Reply, list, name string) string {
	t.Helper()
	_, part, _ := strings.Cut(page.Body, `id="`+list+`">`)
	part, _, _ = strings.Cut(part, "</section>")
	for _, item := range regexp.MustCompile(`(?s)<li>\n<p><strong>.*?\n</li>`).FindAllString(part, -1) {
		if strings.Contains(item, "<strong>"+name+"</strong>") {
			return item
		}
	}
	t.Fatalf("%s is not among the %s: %s", name, list, page.Body)
	return ""
}

// formOf are the fields of the only form in a part of a page.
func formOf(part string) url.Values {
	form := url.Values{}
	for _, field := range regexp.MustCompile(`name="([^"]*)" value="([^"]*)"`).FindAllStringSubmatch(part, -1) {
		form.Set(field[1], html.UnescapeString(field[2]))
	}
	return form
}

// othersForm is the button that ends every other sign-in.
func othersForm(page *providertest.Reply) url.Values {
	_, part, _ := strings.Cut(page.Body, `id="others-ask"`)
	part, _, _ = strings.Cut(part, "</details>")
	return formOf(part)
}

// pressed sends a form of the account page and returns the page that it leads to.
func pressed(t *testing.T, s *providertest.Server, browser *http.Client, form url.Values) *providertest.Reply {
	t.Helper()
	reply := s.Post(t.Context(), browser, "/account", form)
	if reply.Status != http.StatusSeeOther {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	return s.Get(t.Context(), browser, reply.Header.Get("Location"))
}

// alive checks which access tokens userinfo takes.
func alive(t *testing.T, s *providertest.Server, want bool, tokens map[string]string) {
	t.Helper()
	status := http.StatusUnauthorized
	if want {
		status = http.StatusOK
	}
	for name, token := range tokens {
		if reply := s.Bearer(t.Context(), "/userinfo", token); reply.Status != status {
			t.Errorf("%s: %d %s, want %d", name, reply.Status, reply.Body, status)
		}
	}
}

func TestAccountPage(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Path: "/id", Change: roomy})
	p := newPhone(t, s)
	linked(t, s, p, "cli")
	s.Clock.Advance(25 * time.Hour)
	browser := s.Browser()
	s.SignedIn(t.Context(), browser, "thirdparty", "openid email")
	page := accountPage(t, s, browser)
	if page.Status != http.StatusOK || page.Header.Get("Cache-Control") != "no-store" || page.Header.Get("X-Frame-Options") != "DENY" ||
		page.Header.Get("Cross-Origin-Opener-Policy") != "same-origin" || !strings.Contains(page.Header.Get("Content-Security-Policy"), "form-action 'self'") {
		t.Errorf("%d %v", page.Status, page.Header)
	}
	if strings.Contains(page.Body, "Command Line") {
		t.Error("a sign-in that is over is listed")
	}
	p = newPhone(t, s)
	linked(t, s, p, "cli")
	page = accountPage(t, s, browser)
	cli := entry(t, page, "sign-ins", "Command Line")
	for _, want := range []string{"A program", "127.0.0.1", "Approved with Phone App", `<time datetime="2026-03-02T13:00:02Z">2026-03-02 13:00 UTC</time>`, ">new<"} {
		if !strings.Contains(cli, want) {
			t.Errorf("the entry lacks %q: %s", want, cli)
		}
	}
	own := page.Body[:strings.Index(page.Body, ">this browser<")]
	own = own[strings.LastIndex(own, "<li>"):] + page.Body[strings.Index(page.Body, ">this browser<"):]
	own, _, _ = strings.Cut(own, "</li>")
	if strings.Contains(own, "<form") || strings.Contains(own, ">new<") || !strings.Contains(own, "Third Party") || !strings.Contains(own, "With your password") {
		t.Errorf("this browser: %s", own)
	}
	if consent := entry(t, page, "consents", "Third Party"); !strings.Contains(consent, "See your e-mail address") {
		t.Errorf("the consent: %s", consent)
	}
	if phone := entry(t, page, "phones", "Phone App"); !strings.Contains(phone, "Sign-ins it approved: 1<") {
		t.Errorf("the phone: %s", phone)
	}
	if strings.Contains(page.Body, `id="done"`) || !strings.Contains(page.Body, `href="/id/device"`) {
		t.Errorf("%s", page.Body)
	}
	// It names only this person's things, and leads here from the other pages.
	device := s.Get(t.Context(), browser, "/device")
	home := openPage(t, s, browser, http.MethodGet, "/", browserAccept, "en")
	for _, from := range []*providertest.Reply{device, home} {
		if !strings.Contains(from.Body, `href="/id/account"`) {
			t.Errorf("no way here: %s", from.Body)
		}
	}
}

func TestAccountEndsASignIn(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	p := newPhone(t, s)
	_, cli := linked(t, s, p, "cli")
	_, tv := linked(t, s, p, "tv")
	browser := s.Browser()
	form := formOf(entry(t, accountPage(t, s, browser), "sign-ins", "Command Line"))
	page := pressed(t, s, browser, form)
	if !strings.Contains(page.Body, "The sign-in has ended.") || strings.Contains(page.Body, "Command Line") {
		t.Errorf("%s", page.Body)
	}
	alive(t, s, false, map[string]string{"the one": cli.AccessToken})
	alive(t, s, true, map[string]string{"another": tv.AccessToken, "the phone": p.token})
	// A second press of a page that was left open is no error.
	pressed(t, s, browser, form)
	if rows := revokedRows(t, s); len(rows) != 1 || rows[0].Detail != "account" {
		t.Errorf("audit: %+v", rows)
	}
}

func TestAccountLostPhone(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	p := newPhone(t, s)
	_, cli := linked(t, s, p, "cli")
	web := s.SignedIn(t.Context(), s.Browser(), "web", "openid")
	browser := s.Browser()
	page := pressed(t, s, browser, formOf(entry(t, accountPage(t, s, browser), "phones", "Phone App")))
	if !strings.Contains(page.Body, "The phone is signed out") || strings.Contains(page.Body, `id="phones"`) {
		t.Errorf("%s", page.Body)
	}
	alive(t, s, false, map[string]string{"the phone": p.token, "what it approved": cli.AccessToken})
	alive(t, s, true, map[string]string{"with a password": web.AccessToken})

	// A phone that has signed out left behind what it approved.
	p = newPhone(t, s)
	_, left := linked(t, s, p, "cli")
	own := p.sids()[1]
	wantStatus(t, p.send(http.MethodDelete, "/sessions/"+own), http.StatusNoContent)
	alive(t, s, true, map[string]string{"approved before": left.AccessToken})
	pressed(t, s, browser, formOf(entry(t, accountPage(t, s, browser), "phones", "Phone App")))
	alive(t, s, false, map[string]string{"approved before": left.AccessToken})
}

// The app and the account page in one browser: that phone is in the person's hand and not listed
// as lost; ended by another, it leaves the browser signed out.
func TestAccountInThePhonesBrowser(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	phoneBrowser, pc := s.Browser(), s.Browser()
	p := &phone{t: t, s: s, token: s.SignedIn(t.Context(), phoneBrowser, "phone", "openid "+qr.ApproveScope).AccessToken}
	_, cli := linked(t, s, p, "cli")
	page := accountPage(t, s, phoneBrowser)
	if strings.Contains(page.Body, `id="phones"`) || !strings.Contains(page.Body, ">this browser<") {
		t.Errorf("%s", page.Body)
	}
	stale := formOf(entry(t, page, "sign-ins", "Command Line"))
	pressed(t, s, pc, formOf(entry(t, accountPage(t, s, pc), "phones", "Phone App")))
	alive(t, s, false, map[string]string{"the phone": p.token, "what it approved": cli.AccessToken})
	if page := s.Get(t.Context(), phoneBrowser, "/account"); page.Hidden("next") == "" {
		t.Errorf("%s", page.Body)
	}
	if reply := s.Post(t.Context(), phoneBrowser, "/account", stale); reply.Hidden("next") == "" {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
}

// A sign-in that took the place of this one was made with this browser's cookies: whoever ends it
// ends both, and is told.
func TestAccountEndsWhatTookItsPlace(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	browser, copied := s.Browser(), s.Browser()
	own := s.SignedIn(t.Context(), browser, "web", "openid")
	issuer, err := url.Parse(s.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	copied.Jar.SetCookies(issuer, browser.Jar.Cookies(issuer))
	s.Clock.Advance(time.Second)
	verifier, challenge := providertest.Verifier()
	query := providertest.AuthorizeQuery("thirdparty", "openid", challenge)
	query.Set("prompt", "login")
	later := tokensOf(t, s.Redeem(t.Context(), "thirdparty", s.Code(t.Context(), copied, query), verifier))
	form := formOf(entry(t, accountPage(t, s, browser), "sign-ins", "A program"))
	reply := s.Post(t.Context(), browser, "/account", form)
	if reply.Status != http.StatusSeeOther || reply.Header.Get("Location") != "/logout" {
		t.Fatalf("%d %v %s", reply.Status, reply.Header, reply.Body)
	}
	if page := s.Get(t.Context(), browser, "/logout"); !strings.Contains(page.Body, "You are signed out") {
		t.Errorf("%s", page.Body)
	}
	alive(t, s, false, map[string]string{"this one": own.AccessToken, "what took its place": later.AccessToken})
}

func TestAccountEndsAllOthers(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	p := newPhone(t, s)
	_, cli := linked(t, s, p, "cli")
	other, browser := s.Browser(), s.Browser()
	web := s.SignedIn(t.Context(), other, "web", "openid")
	bob := newPhoneOf(t, s, "bob")
	own := s.SignedIn(t.Context(), browser, "web", "openid")
	page := pressed(t, s, browser, othersForm(accountPage(t, s, browser)))
	if !strings.Contains(page.Body, "All other sign-ins have ended.") || strings.Contains(page.Body, `id="others-ask"`) {
		t.Errorf("%s", page.Body)
	}
	alive(t, s, false, map[string]string{"the phone": p.token, "a device": cli.AccessToken, "a browser": web.AccessToken})
	alive(t, s, true, map[string]string{"this browser": own.AccessToken, "another person": bob.token})
	if page := s.Get(t.Context(), other, "/account"); page.Hidden("next") == "" {
		t.Errorf("the other browser: %s", page.Body)
	}
}

// TestAccountWithdrawsAConsent: with the permission goes what the client got of it, here and at
// the direct door, and the next request asks.
func TestAccountWithdrawsAConsent(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	browser := s.Browser()
	third := s.SignedIn(t.Context(), browser, "thirdparty", "openid offline_access")
	web := s.SignedIn(t.Context(), browser, "web", "openid")
	_, challenge := providertest.Verifier()
	query := providertest.AuthorizeQuery("thirdparty", "openid", challenge)
	query.Set("prompt", "none")
	pending := s.Get(t.Context(), browser, "/authorize?"+query.Encode())
	if pending.Location().Query().Get("code") == "" {
		t.Fatalf("no code: %v", pending.Header)
	}
	// A device whose client also has a consent, as one of the hosted door would.
	_, cli := linked(t, s, newPhone(t, s), "cli")
	if err := s.Store.PutConsent(t.Context(), &storage.Consent{Subject: providertest.AliceSubject, ClientID: "cli", Scopes: []string{"openid", "x:y"}, At: s.Clock.Now()}); err != nil {
		t.Fatal(err)
	}
	page := accountPage(t, s, browser)
	if !strings.Contains(entry(t, page, "consents", "Command Line"), "<li>x:y</li>") {
		t.Errorf("%s", page.Body)
	}
	page = pressed(t, s, browser, formOf(entry(t, page, "consents", "Third Party")))
	if !strings.Contains(page.Body, "The permission is withdrawn") {
		t.Errorf("%s", page.Body)
	}
	alive(t, s, false, map[string]string{"access": third.AccessToken})
	wantError(t, refresh(t, s, "thirdparty", third.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
	wantError(t, s.PostAs(t.Context(), "thirdparty", "/token", url.Values{
		"grant_type": {"authorization_code"}, "code": {pending.Location().Query().Get("code")}, "redirect_uri": {providertest.RedirectURI},
	}), http.StatusBadRequest, "invalid_grant")
	if got := s.Get(t.Context(), browser, "/authorize?"+query.Encode()).Location().Query().Get("error"); got != "consent_required" {
		t.Errorf("the next request: %q", got)
	}
	alive(t, s, true, map[string]string{"another client": web.AccessToken, "a device": cli.AccessToken})

	page = pressed(t, s, browser, formOf(entry(t, page, "consents", "Command Line")))
	alive(t, s, false, map[string]string{"a device": cli.AccessToken})
	if !strings.Contains(page.Body, `id="no-consents"`) || strings.Contains(page.Body, "Command Line") {
		t.Errorf("%s", page.Body)
	}
}

// TestAccountFormsAreOurs: a form of another site, another browser, another person, another target
// or an hour ago changes nothing.
func TestAccountFormsAreOurs(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	p := newPhone(t, s)
	_, cli := linked(t, s, p, "cli")
	_, tv := linked(t, s, p, "tv")
	browser, other := s.Browser(), s.Browser()
	page := accountPage(t, s, browser)
	good := formOf(entry(t, page, "sign-ins", "Command Line"))
	changed := func(field, value string) url.Values {
		form := url.Values{}
		for name := range good {
			form.Set(name, good.Get(name))
		}
		form.Set(field, value)
		return form
	}
	bob := s.Browser()
	addPerson(t, s, "bob")
	asks := s.Get(t.Context(), bob, "/account")
	s.Post(t.Context(), bob, "/login", url.Values{"csrf": {asks.Hidden("csrf")}, "next": {asks.Hidden("next")}, "login": {"bob"}, "password": {providertest.AlicePassword}})
	for name, c := range map[string]struct {
		browser *http.Client
		form    url.Values
	}{
		"no token":                {browser, changed("csrf", "")},
		"a made-up token":         {browser, changed("csrf", "abc.def")},
		"another target":          {browser, changed("target", formOf(entry(t, page, "sign-ins", "Living Room TV")).Get("target"))},
		"another action":          {browser, changed("do", "lost")},
		"an unknown action":       {browser, changed("do", "x")},
		"the token of a sign-out": {browser, changed("csrf", page.Hidden("csrf"))},
		"another browser":         {other, good},
		"another person":          {bob, good},
	} {
		if c.browser == other {
			accountPage(t, s, other)
		}
		if reply := s.Post(t.Context(), c.browser, "/account", c.form); reply.Status != http.StatusForbidden {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Body)
		}
	}
	for name, header := range map[string]http.Header{
		"another origin": {"Origin": {"https://evil.example"}}, "no origin": {"Origin": {"null"}},
		"another site": {"Sec-Fetch-Site": {"cross-site"}}, "a subdomain": {"Sec-Fetch-Site": {"same-site"}},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL("/account"), strings.NewReader(good.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for field, values := range header {
			req.Header[field] = values
		}
		if reply := s.Do(browser, req); reply.Status != http.StatusForbidden {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Body)
		}
	}
	// GET changes nothing, whatever its query says.
	if reply := s.Get(t.Context(), browser, "/account?"+good.Encode()); reply.Status != http.StatusOK || strings.Contains(reply.Body, `id="done"`) {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	alive(t, s, true, map[string]string{"cli": cli.AccessToken, "tv": tv.AccessToken, "the phone": p.token})
	s.Clock.Advance(61 * time.Minute)
	if reply := s.Post(t.Context(), browser, "/account", good); reply.Status != http.StatusForbidden {
		t.Errorf("an hour later: %d %s", reply.Status, reply.Body)
	}
}

// A link cannot make the page say that something was done.
func TestAccountSaysOnlyWhatWasDone(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	linked(t, s, newPhone(t, s), "cli")
	browser, other := s.Browser(), s.Browser()
	reply := s.Post(t.Context(), browser, "/account", formOf(entry(t, accountPage(t, s, browser), "sign-ins", "Command Line")))
	query := reply.Location().Query()
	accountPage(t, s, other)
	for name, c := range map[string]struct {
		browser    *http.Client
		done, seal string
	}{
		"no seal": {browser, "others", ""}, "another word's seal": {browser, "others", query.Get("seal")}, "another browser's": {other, query.Get("done"), query.Get("seal")},
	} {
		page := s.Get(t.Context(), c.browser, "/account?"+url.Values{"done": {c.done}, "seal": {c.seal}}.Encode())
		if page.Status != http.StatusOK || strings.Contains(page.Body, `id="done"`) {
			t.Errorf("%s: %d %s", name, page.Status, page.Body)
		}
	}
	if page := s.Get(t.Context(), browser, "/account?"+query.Encode()); !strings.Contains(page.Body, `id="done"`) {
		t.Errorf("%s", page.Body)
	}
}

// TestAccountRefusesAQRBornSignIn: a browser that another device signed in is offered a sign-in
// with the password, and changes nothing before (protocol §8).
func TestAccountRefusesAQRBornSignIn(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{Change: roomy})
	p := newPhone(t, s)
	_, cli := linked(t, s, p, "cli")
	b := visit(t, s, s.Browser(), "shop")
	b.signedIn(p)
	page := s.Get(t.Context(), b.browser, "/account")
	if page.Hidden("next") != "/account" || !strings.Contains(page.Body, "You are signed in here by another device.") || strings.Contains(page.Body, "Command Line") {
		t.Errorf("%d %s", page.Status, page.Body)
	}
	fresh := s.Browser()
	form := formOf(entry(t, accountPage(t, s, fresh), "sign-ins", "Command Line"))
	if reply := s.Post(t.Context(), b.browser, "/account", form); reply.Hidden("next") != "/account" {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	alive(t, s, true, map[string]string{"cli": cli.AccessToken})
	if page := accountPage(t, s, b.browser); !strings.Contains(page.Body, "Command Line") || !strings.Contains(page.Body, "Approved with Phone App") {
		t.Errorf("after the password: %s", page.Body)
	}
}

func TestAccountInChinese(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	linked(t, s, newPhone(t, s), "cli")
	browser := s.Browser()
	accountPage(t, s, browser)
	page := openPage(t, s, browser, http.MethodGet, "/account", browserAccept, "zh")
	for _, want := range []string{`<html lang="zh">`, "您的账户", "批准应用： Phone App", "此浏览器", "在那里退出登录"} {
		if !strings.Contains(page.Body, want) {
			t.Errorf("lacks %q: %s", want, page.Body)
		}
	}
}
