package provider_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// Row D09 (RFC 8628 §3.3.1): beside the QR code stand the user code and the address to type it at.
func TestD09SignInPageShowsUserCodeAndAddress(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b := visit(t, s, s.Browser(), "shop")
	body := b.page.Body
	if b.page.Status != http.StatusOK || b.status() != "pending" {
		t.Fatalf("page: %d %s", b.page.Status, body)
	}
	for _, want := range []string{`name="password"`, `id="login"`, s.Issuer + "/device"} {
		if !strings.Contains(body, want) {
			t.Errorf("the first HTML lacks %s", want)
		}
	}
	userCode := regexp.MustCompile(`id="user-code" class="code">([A-Z]{4}-[A-Z]{4})<`).FindStringSubmatch(body)
	if userCode == nil {
		t.Fatal("no user code on the page")
	}
	if got := b.scanned(); !strings.HasPrefix(got, s.Issuer+"/Q#1"+b.flow()) {
		t.Errorf("the picture says %q", got)
	}
	if scan := newPhone(t, s).scanCode(userCode[1]); scan.Status != http.StatusOK || b.record().State != storage.QRScanned {
		t.Errorf("the typed code: %d %s", scan.Status, scan.Body)
	}
	csp := b.page.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'self' https://web.example"} {
		if !strings.Contains(csp, want) {
			t.Errorf("policy %q lacks %q", csp, want)
		}
	}
	if strings.Contains(csp, "unsafe") || regexp.MustCompile(`<script>|\son\w+=|\sstyle=`).MatchString(body) {
		t.Errorf("inline script or style: %q", csp)
	}
	if other := s.Get(t.Context(), s.Browser(), "/device"); strings.Contains(other.Header.Get("Content-Security-Policy"), "script-src") {
		t.Error("a page without the QR code allows scripts")
	}
}

// Row D01 (RFC 8628 §3.1): plain http is for loopback only, and there the cookie has its plain name.
func TestD01HostedOverPlainHTTPOnLoopback(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{HTTP: true})
	b := visit(t, s, s.Browser(), "shop")
	if _, ok := b.cookies()["qr-"+b.flow()]; !ok || b.flow() == "" {
		t.Errorf("cookies %v", b.cookies())
	}
	for _, issuer := range []string{"http://op.example", "http://192.0.2.1"} {
		if _, err := provider.New(t.Context(), provider.Config{Issuer: issuer, Store: s.Store}); err == nil {
			t.Errorf("%s was accepted", issuer)
		}
	}
}

func TestHostedCookie(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b := visit(t, s, s.Browser(), "shop")
	for _, c := range (&http.Response{Header: b.page.Header}).Cookies() {
		if !strings.HasPrefix(c.Name, "__Host-qr-") {
			continue
		}
		if c.Name != "__Host-qr-"+b.flow() || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("cookie %s", c)
		}
		if strings.Contains(b.page.Body, c.Value) || strings.Contains(b.state().Body, c.Value) {
			t.Error("the cookie's secret stands on the page")
		}
		return
	}
	t.Error("no cookie for the flow")
}

// The whole sign-in as a browser without script does it: picture, phone, button, code, tokens.
func TestHostedWithoutScript(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	p := newPhone(t, s)
	signedIn := unixOf(s.Clock.Now())
	s.Clock.Advance(time.Minute)
	b := visit(t, s, s.Browser(), "shop", "nonce", "the-nonce")
	frame := s.Get(t.Context(), b.browser, frameOf(b))
	if frame.Status != http.StatusOK || !strings.Contains(frame.Body, `http-equiv="refresh" content="11"`) || strings.Contains(frame.Body, "<script") {
		t.Fatalf("frame: %d %s", frame.Status, frame.Body)
	}
	if got := frame.Header.Get("Content-Security-Policy"); !strings.Contains(got, "frame-ancestors 'self'") || frame.Header.Get("X-Frame-Options") != "SAMEORIGIN" {
		t.Errorf("frame policy %q", got)
	}
	scan := p.scan(b.scanned(), "scanner")
	want := map[string]any{"name": "Shop", "origin": "https://web.example"}
	context, _ := scan.JSON()["context"].(map[string]any)
	if diff := cmp.Diff(want, context["relying_party"]); diff != "" || context["door"] != "hosted" {
		t.Errorf("context %v: %s", context, diff)
	}
	if consequence, _ := context["consequence"].(string); !strings.Contains(consequence, "the address bar must show "+s.Issuer) {
		t.Errorf("consequence %q", consequence)
	}
	frame = s.Get(t.Context(), b.browser, frameOf(b))
	code := regexp.MustCompile(`class="check-code">(\d\d)<`).FindStringSubmatch(frame.Body)
	if code == nil || strings.Contains(frame.Body, "<img") || strings.Contains(frame.Body, "Alice") {
		t.Fatalf("frame after the scan: %s", frame.Body)
	}
	decided := p.decide(scan, "approve", code[1])
	frame = s.Get(t.Context(), b.browser, frameOf(b))
	if !strings.Contains(frame.Body, `<span id="qr-name">Alice Arden</span>`) {
		t.Fatalf("frame after the approval: %s", frame.Body)
	}
	redirect := s.Post(t.Context(), b.browser, "/login/qr/continue", url.Values{"csrf": {frame.Hidden("csrf")}, "flow": {frame.Hidden("flow")}, "next": {frame.Hidden("next")}})
	tokens := tokensOf(t, s.Redeem(t.Context(), "shop", redirect, b.verifier))
	got := claims(t, tokens.IDToken)
	for name, value := range map[string]any{
		"sub": providertest.AliceSubject, "aud": "shop", "nonce": "the-nonce", "sid": decided.Text("sid"), "auth_time": signedIn, "amr": []any{"pwd", "mca"},
	} {
		if diff := cmp.Diff(value, got[name]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	session, err := s.Store.Session(t.Context(), decided.Text("sid"))
	if err != nil || !session.QRBorn || session.ParentID == "" || session.ClientID != "shop" || session.ApproverID != "phone" || session.Address == "" || session.Device == "" {
		t.Errorf("session %+v, %v", session, err)
	}
	if len(b.flowCookies()) != 0 {
		t.Errorf("cookies left: %v", b.flowCookies())
	}
	// Single sign-on from here on.
	if reply := ask(t, s, b.browser, "shop", "prompt", "none"); reply.Location().Query().Get("code") == "" {
		t.Errorf("no single sign-on: %s", reply.Header.Get("Location"))
	}
}

// frameOf is the address of the frame for browsers without script.
func frameOf(b *tab) string {
	_, rest, _ := strings.Cut(b.page.Body, `<iframe class="qr-frame" src="`)
	src, _, _ := strings.Cut(rest, `"`)
	return strings.ReplaceAll(src, "&amp;", "&")
}

func TestHostedRefreshKeepsTheSession(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b := visit(t, s, s.Browser(), "shop")
	flow := b.flow()
	for range 40 {
		b.load()
	}
	if b.flow() != flow || len(b.flowCookies()) != 1 {
		t.Errorf("flow %s became %s, cookies %v", flow, b.flow(), b.flowCookies())
	}
	// A wrong password shows the same code again.
	b.page = s.Post(t.Context(), b.browser, "/login", url.Values{"csrf": {b.page.Hidden("csrf")}, "next": {b.page.Hidden("next")}, "login": {"alice"}, "password": {"wrong"}})
	if b.flow() != flow {
		t.Errorf("after a wrong password: %q", b.flow())
	}
	// An end stays readable, and is not replaced by itself.
	s.Clock.Advance(5 * time.Minute)
	b.load()
	if b.flow() != flow || b.status() != "expired" {
		t.Errorf("expired: %q %q", b.flow(), b.status())
	}
	// Another request of the same browser is another session.
	if other := visit(t, s, b.browser, "shop"); other.flow() == flow || other.flow() == "" {
		t.Errorf("two requests share %q", other.flow())
	}
}

func TestHostedPasswordGivesTheCodeUp(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b := visit(t, s, s.Browser(), "shop")
	record := b.record
	if reply := s.SignIn(t.Context(), b.browser, b.page); reply.Location().Query().Get("code") == "" {
		t.Fatalf("sign-in: %d %s", reply.Status, reply.Body)
	}
	if got := record().State; got != storage.QRCancelled || len(b.flowCookies()) != 0 {
		t.Errorf("state %s, cookies %v", got, b.flowCookies())
	}
}

func TestHostedEndsAreReadable(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		end  func(b *tab, p *phone)
		want string
	}{
		"expired": {func(b *tab, _ *phone) { b.s.Clock.Advance(181 * time.Second) }, "expired"},
		"denied":  {func(b *tab, p *phone) { p.decide(p.scan(b.scanned(), "scanner"), "deny", "") }, "denied"},
		"aborted by wrong codes": {func(b *tab, p *phone) {
			scan := p.scan(b.scanned(), "scanner")
			for range 3 {
				p.decide(scan, "approve", wrongCode(b.state().Text("check_code")))
			}
		}, "denied"},
		"not me":                {func(b *tab, p *phone) { b.approve(p); b.press("not-me") }, "denied"},
		"approval not taken up": {func(b *tab, p *phone) { b.approve(p); b.s.Clock.Advance(120 * time.Second) }, "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t, providertest.Options{})
			b := visit(t, s, s.Browser(), "shop")
			row.end(b, newPhone(t, s))
			state := b.state()
			b.load()
			if b.status() != row.want || state.Text("qr_status") != row.want || strings.Contains(state.Body, "Alice") {
				t.Errorf("page %q, state %s", b.status(), state.Body)
			}
			if reply := b.press("continue"); reply.Location().Query().Get("code") != "" || strings.Contains(reply.Header.Get("Set-Cookie"), "__Host-qrgrant=") {
				t.Errorf("continue after the end: %d %v", reply.Status, reply.Header)
			}
			// The page offers another code, which works.
			if reply := b.press("new"); reply.Status != http.StatusSeeOther {
				t.Fatalf("new: %d %s", reply.Status, reply.Body)
			}
			flow := b.flow()
			b.load()
			if b.flow() == flow || b.status() != "pending" || len(b.flowCookies()) != 1 {
				t.Fatalf("after new: %q %q %v", b.flow(), b.status(), b.flowCookies())
			}
			b.signedIn(newPhone(t, s))
		})
	}
}

// The approval waits two minutes for the person to put the phone down and press the button, with
// script and without.
func TestHostedApprovalWaitsForThePerson(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b := visit(t, s, s.Browser(), "shop")
	frame := frameOf(b)
	b.approve(newPhone(t, s))
	if got := b.state().JSON()["expires_in"]; got != 120.0 {
		t.Errorf("the page is told %v s", got)
	}
	s.Clock.Advance(119 * time.Second)
	if reply := s.Get(t.Context(), b.browser, frame); !strings.Contains(reply.Body, "/login/qr/continue") || b.state().Text("qr_status") != "approved" {
		t.Errorf("after 119 s: %s, %s", b.state().Body, reply.Body)
	}
	tokensOf(t, s.Redeem(t.Context(), "shop", b.press("continue"), b.verifier))
}

// A held request wakes up at every move and at a new frame, and says so.
func TestHostedStateWakesUp(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b, p := visit(t, s, s.Browser(), "shop"), newPhone(t, s)
	held := b.hold(seqOf(b.state()))
	s.Clock.Advance(10 * time.Second)
	frame := <-held
	if payload(frame) == "" || frame.Header.Get("Preference-Applied") != "wait=25" || frame.Text("qr_status") != "pending" {
		t.Fatalf("at a new frame: %v %s", frame.Header, frame.Body)
	}
	held = b.hold(seqOf(frame))
	scan := p.scan(payload(frame), "scanner")
	scanned := <-held
	if scanned.Text("qr_status") != "scanned" || scanned.Text("check_code") == "" || payload(scanned) != "" {
		t.Fatalf("at the scan: %s", scanned.Body)
	}
	held = b.hold(seqOf(scanned))
	p.decide(scan, "approve", scanned.Text("check_code"))
	approved := <-held
	if approved.Text("qr_status") != "approved" || approved.Text("name") != "Alice Arden" {
		t.Fatalf("at the approval: %s", approved.Body)
	}
	// One who is behind is told at once.
	if late := <-b.hold("1"); late.Text("qr_status") != "approved" || late.Header.Get("Preference-Applied") != "" {
		t.Errorf("behind: %v %s", late.Header, late.Body)
	}
	for _, picture := range []string{"/login/qr.png?flow=", "/login/qr.svg?flow="} {
		if reply := s.Get(t.Context(), b.browser, picture+b.flow()); reply.Status != http.StatusNotFound {
			t.Errorf("%s is still drawn: %d", picture, reply.Status)
		}
	}
}

// Over the limits of the browser the page is a page with a password form.
func TestHostedLimitsRenderWithoutQR(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change func(*provider.Config)
		shown  int
	}{
		"ten open per browser":  {func(*provider.Config) {}, 10},
		"thirty opens a minute": {func(c *provider.Config) { c.QRLimits = qr.Limits{BrowserOpenSessions: 100} }, 30},
		"open per network":      {func(c *provider.Config) { c.QRLimits = qr.Limits{OpenSessions: 3} }, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t, providertest.Options{Change: row.change})
			browser := s.Browser()
			for i := range row.shown + 2 {
				b := visit(t, s, browser, "shop")
				if shown := b.flow() != ""; shown != (i < row.shown) || !isSignIn(b.page) {
					t.Fatalf("visit %d: shown %v, %d", i+1, shown, b.page.Status)
				}
			}
			// The password still works there, and another browser is not concerned by its limits.
			if reply := s.SignIn(t.Context(), browser, visit(t, s, browser, "shop").page); reply.Location().Query().Get("code") == "" {
				t.Errorf("password: %d", reply.Status)
			}
			if other := visit(t, s, s.Browser(), "shop"); (other.flow() != "") != (row.shown != 3) {
				t.Errorf("another browser: shown %v", other.flow() != "")
			}
		})
	}
}

func TestHostedPolicyDecidesAboutTheCode(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	for name, row := range map[string]struct {
		client, scope string
		shown         bool
	}{
		"a client with QR sign-in":           {"shop", "openid profile", true},
		"a scope that QR does not give":      {"shop", "openid email", false},
		"a client without QR sign-in":        {"web", "openid", false},
		"the approver client":                {"phone", "openid", false},
		"the approver client, to approve":    {"phone", "openid " + qr.ApproveScope, false},
		"a third party that asks afterwards": {"stranger", "openid", true},
	} {
		b := visit(t, s, s.Browser(), row.client, "scope", row.scope)
		if !isSignIn(b.page) || (b.flow() != "") != row.shown {
			t.Errorf("%s: %d, shown %v", name, b.page.Status, b.flow() != "")
		}
	}
}

// What the person leaves out on the phone is not granted, now or by single sign-on.
func TestHostedNarrowedScopes(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b, p := visit(t, s, s.Browser(), "shop", "scope", "openid profile"), newPhone(t, s)
	scan := p.scan(b.scanned(), "scanner")
	body := decision(scan, "approve", b.state().Text("check_code"))
	body["scope"] = "openid"
	if reply := p.post(t.Context(), "/qr/decision", body); reply.Status != http.StatusOK {
		t.Fatalf("decision: %d %s", reply.Status, reply.Body)
	}
	b.load()
	if tokens := tokensOf(t, s.Redeem(t.Context(), "shop", b.press("continue"), b.verifier)); tokens.Scope != "openid" {
		t.Errorf("granted %q", tokens.Scope)
	}
	again := visit(t, s, b.browser, "shop")
	if tokens := tokensOf(t, s.Redeem(t.Context(), "shop", again.page, again.verifier)); tokens.Scope != "openid" {
		t.Errorf("granted %q by single sign-on", tokens.Scope)
	}
}

func TestHostedThirdPartyAndConsent(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b := visit(t, s, s.Browser(), "stranger")
	b.signedIn(newPhone(t, s)) // who reads the scopes on the phone is not asked again
	if again := visit(t, s, b.browser, "stranger", "prompt", "none"); again.page.Location().Query().Get("code") == "" {
		t.Errorf("prompt=none afterwards: %d %s", again.page.Status, again.page.Header.Get("Location"))
	}
	asked := visit(t, s, s.Browser(), "stranger", "prompt", "consent")
	asked.approve(newPhone(t, s))
	if reply := asked.press("continue"); reply.Hidden("request") == "" {
		t.Errorf("prompt=consent: %d %s", reply.Status, reply.Header.Get("Location"))
	}
}

// What is asked for by claim is read on the phone as the scope it belongs to, and what the
// person leaves out there stays out.
func TestHostedClaimsParameter(t *testing.T) {
	t.Parallel()
	const asked = `{"userinfo":{"name":{"essential":true}},"id_token":{"nickname":null}}`
	for name, row := range map[string]struct {
		scope         string
		info, idToken any
	}{
		"allowed":  {"openid profile", "Alice Arden", "Al"},
		"left out": {"openid", nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t, providertest.Options{})
			b, p := visit(t, s, s.Browser(), "shop", "scope", "openid", "claims", asked), newPhone(t, s)
			scan := p.scan(b.scanned(), "scanner")
			if !strings.Contains(scan.Body, `"name":"profile"`) {
				t.Errorf("the phone does not show what is asked: %s", scan.Body)
			}
			body := decision(scan, "approve", b.state().Text("check_code"))
			body["scope"] = row.scope
			if reply := p.post(t.Context(), "/qr/decision", body); reply.Status != http.StatusOK {
				t.Fatalf("decision: %d %s", reply.Status, reply.Body)
			}
			b.load()
			tokens := tokensOf(t, s.Redeem(t.Context(), "shop", b.press("continue"), b.verifier))
			info := s.Bearer(t.Context(), "/userinfo", tokens.AccessToken).JSON()
			if tokens.Scope != "openid" || info["name"] != row.info || claims(t, tokens.IDToken)["nickname"] != row.idToken {
				t.Errorf("scope %q, userinfo %v, ID token %v", tokens.Scope, info, claims(t, tokens.IDToken))
			}
		})
	}
	// And a claim that QR cannot give shows no code.
	s := newShop(t, providertest.Options{})
	known := visit(t, s, s.Browser(), "shop", "scope", "openid")
	known.signedIn(newPhone(t, s))
	if again := visit(t, s, known.browser, "shop", "scope", "openid", "claims", `{"userinfo":{"email":null}}`); !isSignIn(again.page) {
		t.Errorf("single sign-on gave what QR does not: %d %s", again.page.Status, again.page.Header.Get("Location"))
	}
	if b := visit(t, s, s.Browser(), "shop", "scope", "openid", "claims", `{"userinfo":{"email":null}}`); b.flow() != "" {
		t.Error("a QR code for a claim that QR does not give")
	}
}
