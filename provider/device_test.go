package provider_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

func TestDevicePageCutsNoCharacter(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	s.SignIn(t.Context(), browser, s.Get(t.Context(), browser, "/device"))
	page := s.Get(t.Context(), browser, "/device?user_code="+strings.Repeat("B", 31)+"%C3%A9")
	if got := page.Hidden("user_code"); page.Status != http.StatusOK || strings.ContainsRune(page.Body, '\uFFFD') || !strings.Contains(page.Body, strings.Repeat("B", 31)+`"`) {
		t.Errorf("%d, code %q: %s", page.Status, got, page.Body)
	}
}

func TestDevicePageWithXOAuth2(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	ctx, op, _ := relyingParty(t, s, "web")
	config := &oauth2.Config{ClientID: "tv", Endpoint: op.Endpoint(), Scopes: []string{"openid", "profile"}}
	start, err := config.DeviceAuth(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if start.VerificationURIComplete == "" || start.Interval != 5 {
		t.Fatalf("%+v", start)
	}
	browser := s.Browser()
	page := s.Get(t.Context(), browser, start.VerificationURIComplete)
	if !isSignIn(page) {
		t.Fatalf("no sign-in first: %d %s", page.Status, page.Body)
	}
	back := s.SignIn(t.Context(), browser, page)
	form := s.Get(t.Context(), browser, s.HTTP.URL+back.Header.Get("Location"))
	if form.Hidden("csrf") == "" || !strings.Contains(form.Body, start.UserCode) {
		t.Fatalf("form: %d %s", form.Status, form.Body)
	}
	card := s.Post(t.Context(), browser, "/device", url.Values{"csrf": {form.Hidden("csrf")}, "step": {"claim"}, "user_code": {strings.ToLower(start.UserCode)}})
	for _, want := range []string{"Living Room TV", start.UserCode, "another device", `id="deny"`, `id="approve"`, `id="report"`, "See your name"} {
		if !strings.Contains(card.Body, want) {
			t.Errorf("the card lacks %q: %s", want, card.Body)
		}
	}
	if strings.Index(card.Body, `id="deny"`) > strings.Index(card.Body, `id="approve"`) {
		t.Error("approve stands before deny")
	}
	done := s.Post(t.Context(), browser, "/device", url.Values{"csrf": {card.Hidden("csrf")}, "step": {"decide"}, "card": {card.Hidden("card")}, "decision": {"approve"}, "scope.profile": {"yes"}})
	if !strings.Contains(done.Body, "Approved") {
		t.Fatalf("result: %d %s", done.Status, done.Body)
	}
	// x/oauth2 waits by the wall clock before it polls; one second is the least it can be told.
	start.Interval = 1
	start.Expiry = time.Time{}
	token, err := config.DeviceAccessToken(ctx, start)
	if err != nil {
		t.Fatal(err)
	}
	if reply := s.Bearer(t.Context(), "/userinfo", token.AccessToken); reply.Text("name") != "Alice Arden" {
		t.Errorf("userinfo: %d %s", reply.Status, reply.Body)
	}
}

// deviceCard opens a session of a client, signs the browser in and claims the session there.
func deviceCard(t *testing.T, s *providertest.Server, browser *http.Client, start *providertest.Reply) *providertest.Reply {
	t.Helper()
	page := s.Get(t.Context(), browser, "/device")
	if isSignIn(page) {
		s.SignIn(t.Context(), browser, page)
		page = s.Get(t.Context(), browser, "/device")
	}
	return s.Post(t.Context(), browser, "/device", url.Values{"csrf": {page.Hidden("csrf")}, "step": {"claim"}, "user_code": {start.Text("user_code")}})
}

func TestDevicePageAsksForTheCodes(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	decide := func(card *providertest.Reply, pairs ...string) *providertest.Reply {
		form := url.Values{"csrf": {card.Hidden("csrf")}, "step": {"decide"}, "card": {card.Hidden("card")}}
		for i := 0; i < len(pairs); i += 2 {
			form.Set(pairs[i], pairs[i+1])
		}
		return s.Post(t.Context(), browser, "/device", form)
	}

	o := open(t, s, "openid")
	card := deviceCard(t, s, browser, o.start)
	if !strings.Contains(card.Body, `name="check_code"`) {
		t.Fatalf("no field for the check code: %s", card.Body)
	}
	// A missing code is no try and shows the same card again.
	if again := decide(card, "decision", "approve"); again.Hidden("card") != card.Hidden("card") {
		t.Errorf("a missing code: %d %s", again.Status, again.Body)
	}
	s.Clock.Advance(5 * time.Second)
	code := s.Post(t.Context(), s.Client(), "/token", o.poll).Text("check_code")
	if !regexp.MustCompile(`^[1-9][0-9]$`).MatchString(code) {
		t.Fatalf("check code %q", code)
	}
	if done := decide(card, "decision", "approve", "check_code", code); !strings.Contains(done.Body, "Approved") {
		t.Errorf("approve: %d %s", done.Status, done.Body)
	}

	// Typed entry has one try.
	o = open(t, s, "openid")
	card = deviceCard(t, s, browser, o.start)
	wrong := "10"
	if code == wrong {
		wrong = "11"
	}
	s.Clock.Advance(5 * time.Second)
	if s.Post(t.Context(), s.Client(), "/token", o.poll).Text("check_code") == wrong {
		wrong = "12"
	}
	if over := decide(card, "decision", "approve", "check_code", wrong); over.Hidden("card") != "" || !strings.Contains(over.Body, "device-error") {
		t.Errorf("the one wrong try: %d %s", over.Status, over.Body)
	}
	s.Clock.Advance(10 * time.Second)
	wantError(t, s.Post(t.Context(), s.Client(), "/token", o.poll), http.StatusBadRequest, "access_denied")
}

func TestDevicePageTypesTheUserCode(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	start := s.PostAs(t.Context(), "kiosk", "/device_authorization", url.Values{"scope": {"openid"}})
	card := deviceCard(t, s, browser, start)
	// To type a code that the card shows would compare nothing.
	if strings.Contains(card.Body, start.Text("user_code")) || !strings.Contains(card.Body, `name="user_code"`) {
		t.Fatalf("card: %d %s", card.Status, card.Body)
	}
	form := url.Values{"csrf": {card.Hidden("csrf")}, "step": {"decide"}, "card": {card.Hidden("card")}, "decision": {"approve"}, "user_code": {start.Text("user_code")}}
	if done := s.Post(t.Context(), browser, "/device", form); !strings.Contains(done.Body, "Approved") {
		t.Errorf("%d %s", done.Status, done.Body)
	}
	tokensOf(t, s.PostAs(t.Context(), "kiosk", "/token", url.Values{"grant_type": {qr.DeviceGrantType}, "device_code": {start.Text("device_code")}}))
}

func TestDevicePageDenies(t *testing.T) {
	t.Parallel()
	for _, decision := range []string{"deny", "report"} {
		t.Run(decision, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			browser := s.Browser()
			o := open(t, s, "openid")
			card := deviceCard(t, s, browser, o.start)
			form := url.Values{"csrf": {card.Hidden("csrf")}, "step": {"decide"}, "card": {card.Hidden("card")}, "decision": {decision}}

			changed := url.Values{"csrf": form["csrf"], "step": form["step"], "card": {card.Hidden("card") + "AA"}, "decision": form["decision"]}
			if reply := s.Post(t.Context(), browser, "/device", changed); reply.Status != http.StatusForbidden {
				t.Errorf("a changed card: %d", reply.Status)
			}
			other := s.Browser()
			ask(t, s, other, "web")
			if reply := s.Post(t.Context(), other, "/device", form); !isSignIn(reply) {
				t.Errorf("another browser: %d", reply.Status)
			}
			if done := s.Post(t.Context(), browser, "/device", form); !strings.Contains(done.Body, "Denied") {
				t.Errorf("%d %s", done.Status, done.Body)
			}
			wantError(t, s.Post(t.Context(), s.Client(), "/token", o.poll), http.StatusBadRequest, "access_denied")
		})
	}
}

func TestDevicePageUnknownCode(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	for range 5 {
		page := deviceCard(t, s, browser, &providertest.Reply{Body: `{"user_code":"BCDF-GHJK"}`})
		if page.Status != http.StatusOK || !strings.Contains(page.Body, "device-error") {
			t.Fatalf("%d %s", page.Status, page.Body)
		}
	}
	if page := deviceCard(t, s, browser, &providertest.Reply{Body: `{"user_code":"BCDF-GHJK"}`}); page.Status != http.StatusTooManyRequests {
		t.Errorf("the sixth try: %d", page.Status)
	}
}

func TestGetDeviceChangesNothing(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	s.SignedIn(t.Context(), browser, "web", "openid")
	o := open(t, s, "openid")
	for range 3 {
		s.Get(t.Context(), browser, "/device?user_code="+o.start.Text("user_code"))
	}
	if got := s.Post(t.Context(), s.Client(), "/token", o.poll).Text("qr_status"); got != "pending" {
		t.Errorf("state after GETs: %q", got)
	}
}

// qrBorn turns the browser's sign-in into one born of a QR approval.
func qrBorn(t *testing.T, s *providertest.Server, browser *http.Client) {
	t.Helper()
	s.SignedIn(t.Context(), browser, "web", "openid")
	sessions, err := s.Store.SessionsBySubject(t.Context(), providertest.AliceSubject)
	if err != nil || len(sessions) != 1 {
		t.Fatalf("%d sessions, %v", len(sessions), err)
	}
	sessions[0].QRBorn = true
	if err := s.Store.PutSession(t.Context(), sessions[0]); err != nil {
		t.Fatal(err)
	}
}

func TestQRBornSignInNeverApproves(t *testing.T) {
	t.Parallel()
	sso := &storage.Client{
		ID: "sso", RedirectURIs: []string{providertest.RedirectURI}, Scopes: []string{"openid", "profile", "email"}, FirstParty: true,
		QR: storage.QRPolicy{Enabled: true},
	}
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{sso}})
	browser := s.Browser()
	qrBorn(t, s, browser)

	if page := s.Get(t.Context(), browser, "/device"); !isSignIn(page) || !strings.Contains(page.Body, "sign in with your password") {
		t.Errorf("/device: %d %s", page.Status, page.Body)
	}
	for name, changes := range map[string][]string{
		"an approver":                       {"client_id", "phone", "redirect_uri", providertest.AppRedirectURI},
		"qr:approve":                        {"client_id", "phone", "redirect_uri", providertest.AppRedirectURI, "scope", "openid qr:approve"},
		"a client without QR":               {"client_id", "web"},
		"a scope that QR does not allow":    {"client_id", "sso", "scope", "openid email"},
		"an approver that asks for silence": {"client_id", "phone", "redirect_uri", providertest.AppRedirectURI, "prompt", "none"},
	} {
		reply := ask(t, s, browser, "web", changes...)
		if !isSignIn(reply) && errorOf(reply) != "login_required" {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Header.Get("Location"))
		}
	}
	// What the policy allows goes through, and keeps the mark through code and refresh.
	verifier, challenge := providertest.Verifier()
	q := providertest.AuthorizeQuery("sso", "openid profile", challenge)
	redirect := s.Get(t.Context(), browser, "/authorize?"+q.Encode())
	reply := s.Post(t.Context(), s.Client(), "/token", url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"sso"}, "code": {redirect.Location().Query().Get("code")},
		"redirect_uri": {providertest.RedirectURI}, "code_verifier": {verifier},
	})
	tokens := tokensOf(t, reply)
	o := open(t, s, "openid")
	if scan := phoneCall(t, s, "/qr/scan", tokens.AccessToken, map[string]string{"payload": o.payload(), "entry": "scanner"}); scan.Status != http.StatusForbidden {
		t.Errorf("scan by a QR-born token: %d %s", scan.Status, scan.Body)
	}

	// A password makes a new sign-in without the mark; the old one is not upgraded.
	s.SignIn(t.Context(), browser, s.Get(t.Context(), browser, "/device"))
	if page := s.Get(t.Context(), browser, "/device"); isSignIn(page) {
		t.Error("the fresh sign-in is refused")
	}
	sessions, err := s.Store.SessionsBySubject(t.Context(), providertest.AliceSubject)
	if err != nil || len(sessions) != 2 {
		t.Fatalf("%d sessions, %v", len(sessions), err)
	}
}

// What the person leaves out on the card is left out of the tokens; the card of a second try
// remembers it.
func TestDevicePageNarrowsTheScopes(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	o := open(t, s, "openid profile email")
	card := deviceCard(t, s, browser, o.start)
	for _, want := range []string{`name="scope.profile" value="yes" checked`, `name="scope.email" value="yes" checked`, "<p>Know who you are</p>"} {
		if !strings.Contains(card.Body, want) {
			t.Errorf("the card lacks %s: %s", want, card.Body)
		}
	}
	again := decideOnCard(t, s, browser, "en", card, "decision", "approve", "scope.email", "yes")
	if !strings.Contains(again.Body, `name="scope.profile" value="yes">`) || !strings.Contains(again.Body, `name="scope.email" value="yes" checked`) {
		t.Errorf("the second card forgets the ticks: %s", again.Body)
	}
	s.Clock.Advance(5 * time.Second)
	code := s.Post(t.Context(), s.Client(), "/token", o.poll).Text("check_code")
	// A field for what was never asked adds nothing, and spaces around the number are forgiven.
	done := decideOnCard(t, s, browser, "en", again, "decision", "approve", "check_code", " "+code+" ", "scope.email", "yes", "scope.address", "yes")
	if !strings.Contains(done.Body, `id="result">Approved`) {
		t.Fatalf("%d %s", done.Status, done.Body)
	}
	s.Clock.Advance(5 * time.Second)
	tokens := tokensOf(t, s.Post(t.Context(), s.Client(), "/token", o.poll))
	if tokens.Scope != "email openid" && tokens.Scope != "openid email" {
		t.Errorf("scope %q", tokens.Scope)
	}
}

func TestDevicePageForgivesHowACodeIsTyped(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := newScanner(t, s)
	for name, spell := range map[string]func(string) string{
		"lower case":       strings.ToLower,
		"no dash":          func(c string) string { return strings.ReplaceAll(c, "-", "") },
		"spaces":           func(c string) string { return "  " + strings.ReplaceAll(strings.ReplaceAll(c, "-", " "), "", " ") },
		"another dash":     func(c string) string { return strings.ReplaceAll(c, "-", "\u2013") },
		"a dot at the end": func(c string) string { return c + "." },
	} {
		c := openQR(t, s, "tv", nil)
		card := deviceCard(t, s, browser, &providertest.Reply{Body: `{"user_code":"` + spell(c.userCode()) + `"}`})
		if card.Hidden("card") == "" {
			t.Errorf("%s: %d %s", name, card.Status, card.Body)
		}
	}
	if empty := deviceCard(t, s, browser, &providertest.Reply{Body: `{}`}); !strings.Contains(empty.Body, `id="device-error">Enter the code from the other screen.`) {
		t.Errorf("no code: %s", empty.Body)
	}
}
