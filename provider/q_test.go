package provider_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// holdFrame does what the script of /Q does with the frame in the fragment.
func holdFrame(t *testing.T, s *providertest.Server, browser *http.Client, frame string) *providertest.Reply {
	t.Helper()
	page := s.Get(t.Context(), browser, "/Q")
	return s.Post(t.Context(), browser, "/Q/hold", url.Values{"csrf": {page.Hidden("csrf")}, "frame": {frame}})
}

func fragment(payload string) string {
	_, frame, _ := strings.Cut(payload, "#")
	return frame
}

// heldCard brings a signed-in browser from the frame to the card.
func heldCard(t *testing.T, s *providertest.Server, browser *http.Client) *providertest.Reply {
	t.Helper()
	page := s.Get(t.Context(), browser, "/Q/claim")
	return s.Post(t.Context(), browser, "/Q/claim", url.Values{"csrf": {page.Hidden("csrf")}})
}

// newScanner is a browser whose person is signed in.
func newScanner(t *testing.T, s *providertest.Server) *http.Client {
	t.Helper()
	browser := s.Browser()
	s.SignIn(t.Context(), browser, s.Get(t.Context(), browser, "/device"))
	return browser
}

func TestQPageHandsOverTheFragmentOnly(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Path: "/tenant"})
	page := s.Get(t.Context(), s.Browser(), "/Q")
	policy := page.Header.Get("Content-Security-Policy")
	if page.Status != http.StatusOK || !strings.Contains(page.Body, `<script src="/tenant/static/q.js" defer>`) || !strings.Contains(page.Body, `action="/tenant/Q/hold" hidden`) ||
		!strings.Contains(policy, "script-src 'self';") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "connect-src") {
		t.Errorf("%d %s %s", page.Status, policy, page.Body)
	}
	if !strings.Contains(page.Body, `name="user_code"`) {
		t.Error("without script there is no way on")
	}
	script := s.Get(t.Context(), s.Client(), "/static/q.js")
	if !strings.Contains(script.Header.Get("Content-Type"), "text/javascript") || !strings.Contains(script.Body, "replaceState") {
		t.Errorf("script: %v %s", script.Header, script.Body)
	}
}

// Frames change every 10 s; signing in takes longer.
func TestQHoldOutlivesTheFrame(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	for name, start := range map[string]func() (frame string, number func() string){
		"direct door": func() (string, func() string) {
			o := open(t, s, "openid profile")
			return o.payload(), func() string {
				s.Clock.Advance(5 * time.Second)
				return s.Post(t.Context(), s.Client(), "/token", o.poll).Text("check_code")
			}
		},
		"hosted door": func() (string, func() string) {
			b := visit(t, s, s.Browser(), "shop")
			return b.scanned(), func() string { return b.state().Text("check_code") }
		},
	} {
		frame, number := start()
		browser := s.Browser()
		held := holdFrame(t, s, browser, fragment(frame))
		if held.Status != http.StatusSeeOther || held.Header.Get("Location") != "/Q/claim" {
			t.Fatalf("%s: %d %v %s", name, held.Status, held.Header, held.Body)
		}
		cookie := strings.Join(held.Header.Values("Set-Cookie"), "\n")
		for _, want := range []string{"__Host-qrgrant-hold=", "Max-Age=120", "HttpOnly", "Secure", "SameSite=Lax"} {
			if !strings.Contains(cookie, want) {
				t.Errorf("%s: the cookie lacks %s: %s", name, want, cookie)
			}
		}
		s.Clock.Advance(time.Minute)
		signIn := s.Get(t.Context(), browser, "/Q/claim")
		if !isSignIn(signIn) {
			t.Fatalf("%s: no sign-in: %d %s", name, signIn.Status, signIn.Body)
		}
		if back := s.SignIn(t.Context(), browser, signIn); back.Header.Get("Location") != "/Q/claim" {
			t.Fatalf("%s: the sign-in leads to %d %v", name, back.Status, back.Header)
		}
		s.Clock.Advance(50 * time.Second)
		card := heldCard(t, s, browser)
		if !strings.Contains(card.Body, "This code came by a link.") || !strings.Contains(card.Body, `name="check_code"`) {
			t.Fatalf("%s: card: %d %s", name, card.Status, card.Body)
		}
		done := decideOnCard(t, s, browser, "en", card, "decision", "approve", "check_code", number(), "scope.profile", "yes")
		if !strings.Contains(done.Body, `id="result">Approved`) {
			t.Errorf("%s: %d %s", name, done.Status, done.Body)
		}
	}
}

func TestQHoldIsGoodForOneClaim(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := newScanner(t, s)
	c := openQR(t, s, "cli", nil)
	holdFrame(t, s, browser, fragment(payload(c.opened)))
	// Looking at the page claims nothing.
	for range 3 {
		s.Get(t.Context(), browser, "/Q/claim")
	}
	if state := c.record().State; state != storage.QRPending {
		t.Fatalf("GET moved the session to %v", state)
	}
	if bad := s.Post(t.Context(), browser, "/Q/claim", url.Values{"csrf": {"1.x"}}); bad.Status != http.StatusForbidden || c.record().State != storage.QRPending {
		t.Errorf("a form that is not ours: %d, %v", bad.Status, c.record().State)
	}
	page := s.Get(t.Context(), browser, "/Q/claim")
	card := heldCard(t, s, browser)
	if card.Hidden("card") == "" {
		t.Fatalf("no card: %d %s", card.Status, card.Body)
	}
	again := s.Post(t.Context(), browser, "/Q/claim", url.Values{"csrf": {page.Hidden("csrf")}})
	if again.Status != http.StatusGone || again.Hidden("card") != "" || !strings.Contains(again.Body, "Scan the QR code again.") {
		t.Errorf("a second claim: %d %s", again.Status, again.Body)
	}
	// One try at the number, as for every link.
	number := c.poll(t.Context()).Text("check_code")
	over := decideOnCard(t, s, browser, "en", card, "decision", "approve", "check_code", wrongCode(number))
	if over.Hidden("card") != "" || c.record().State != storage.QRAborted {
		t.Errorf("after the one wrong number: %d, %v", over.Status, c.record().State)
	}
}

func TestQHoldIsBoundToItsBrowserAndItsTime(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	site, err := url.Parse(s.HTTP.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := openQR(t, s, "cli", nil)
	browser, other := newScanner(t, s), newScanner(t, s)
	holdFrame(t, s, browser, fragment(payload(c.opened)))
	var hold *http.Cookie
	for _, cookie := range browser.Jar.Cookies(site) {
		if cookie.Name == "__Host-qrgrant-hold" {
			hold = cookie
		}
	}
	plant := func(value string) {
		other.Jar.SetCookies(site, []*http.Cookie{{Name: hold.Name, Value: value, Path: "/", Secure: true}})
	}
	for name, value := range map[string]string{
		"another browser's": hold.Value, "changed": "1" + hold.Value, "without a seal": fragment(payload(c.opened)), "nothing": "",
	} {
		plant(value)
		if page := s.Get(t.Context(), other, "/Q/claim"); page.Status != http.StatusGone {
			t.Errorf("%s: %d %s", name, page.Status, page.Body)
		}
	}
	s.Clock.Advance(qr.HoldLifetime - 2*time.Second)
	if page := s.Get(t.Context(), browser, "/Q/claim"); page.Status != http.StatusOK {
		t.Fatalf("within its time: %d %s", page.Status, page.Body)
	}
	s.Clock.Advance(2 * time.Second)
	if page := heldCard(t, s, browser); page.Status != http.StatusGone || c.record().State != storage.QRPending {
		t.Errorf("after its time: %d %s, %v", page.Status, page.Body, c.record().State)
	}
}

func TestQHoldRefusesQRBornSignIns(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	qrBorn(t, s, browser)
	c := openQR(t, s, "cli", nil)
	if held := holdFrame(t, s, browser, fragment(payload(c.opened))); held.Status != http.StatusSeeOther {
		t.Fatalf("%d %s", held.Status, held.Body)
	}
	page := s.Get(t.Context(), browser, "/Q/claim")
	if !isSignIn(page) || !strings.Contains(page.Body, "sign in with your password") {
		t.Errorf("%d %s", page.Status, page.Body)
	}
	s.Post(t.Context(), browser, "/Q/claim", url.Values{"csrf": {page.Hidden("csrf")}})
	if state := c.record().State; state != storage.QRPending {
		t.Errorf("a QR-born sign-in claimed: %v", state)
	}
}

func TestQHoldRefusals(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	old, ended, live := openQR(t, s, "cli", nil), openQR(t, s, "cli", nil), openQR(t, s, "cli", nil)
	ended.cancel(t.Context())
	good := fragment(payload(live.opened))
	endedFrame := fragment(payload(ended.opened))
	oldFrame := fragment(payload(old.opened))
	for name, row := range map[string]struct {
		frame  string
		status int
		says   string
	}{
		"empty":            {"", http.StatusNotFound, "This is no QR code of this server."},
		"another text":     {"hello", http.StatusNotFound, "This is no QR code of this server."},
		"a changed tag":    {good[:len(good)-1] + otherDigit(good[len(good)-1]), http.StatusNotFound, "This is no QR code of this server."},
		"lower case":       {strings.ToLower(good), http.StatusNotFound, "This is no QR code of this server."},
		"longer than ever": {strings.Repeat(good, 20), http.StatusNotFound, "This is no QR code of this server."},
		"over":             {endedFrame, http.StatusGone, "This sign-in is over."},
	} {
		page := holdFrame(t, s, s.Browser(), row.frame)
		if page.Status != row.status || !strings.Contains(page.Body, row.says) || !strings.Contains(strings.Join(page.Header.Values("Set-Cookie"), ""), "hold=;") {
			t.Errorf("%s: %d %v %s", name, page.Status, page.Header, page.Body)
		}
	}
	s.Clock.Advance(2 * qr.FrameLifetime)
	if page := holdFrame(t, s, s.Browser(), oldFrame); page.Status != http.StatusConflict || !strings.Contains(page.Body, "has changed since. Scan it again.") {
		t.Errorf("stale: %d %s", page.Status, page.Body)
	}
}

// otherDigit is a base32 digit that d is not.
func otherDigit(d byte) string {
	if d == 'A' {
		return "B"
	}
	return "A"
}

func TestQHoldTakesNothingFromOtherSites(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	c := openQR(t, s, "cli", nil)
	form := url.Values{"csrf": {s.Get(t.Context(), browser, "/Q").Hidden("csrf")}, "frame": {fragment(payload(c.opened))}}
	for name, change := range map[string]func(r *http.Request){
		"Origin":                     func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
		"Sec-Fetch-Site":             func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"a sibling":                  func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
		"another browser's own form": func(r *http.Request) { r.Header.Set("Cookie", "__Host-qrgrant-form="+strings.Repeat("x", 43)) },
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL("/Q/hold"), strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		change(req)
		client := browser
		if req.Header.Get("Cookie") != "" {
			client = s.Client()
		}
		if reply := s.Do(client, req); reply.Status != http.StatusForbidden {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Body)
		}
	}
	if reply := s.Post(t.Context(), browser, "/Q/hold", form); reply.Status != http.StatusSeeOther {
		t.Errorf("its own form: %d %s", reply.Status, reply.Body)
	}
}

func TestQHoldIsLimitedPerNetwork(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) { c.QRLimits.UserCodeTriesPerPrefix = 3 }})
	c := openQR(t, s, "cli", nil)
	frame := fragment(payload(c.opened))
	for range 5 { // what is genuine costs nothing
		if held := holdFrame(t, s, s.Browser(), frame); held.Status != http.StatusSeeOther {
			t.Fatalf("%d %s", held.Status, held.Body)
		}
	}
	for range 3 {
		if page := holdFrame(t, s, s.Browser(), "1A"); page.Status != http.StatusNotFound {
			t.Fatalf("%d %s", page.Status, page.Body)
		}
	}
	limited := holdFrame(t, s, s.Browser(), frame)
	if limited.Status != http.StatusTooManyRequests || limited.Header.Get("Retry-After") == "" {
		t.Errorf("over the limit: %d %v", limited.Status, limited.Header)
	}
	s.Clock.Advance(10 * time.Minute)
	if page := holdFrame(t, s, s.Browser(), "1A"); page.Status != http.StatusNotFound {
		t.Errorf("after the window: %d", page.Status)
	}
}

// A page that was shown for one frame says nothing about another, which a stranger's link may have
// brought since.
func TestQClaimIsForTheFrameThatWasShown(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := newScanner(t, s)
	own, strange := openQR(t, s, "cli", nil), openQR(t, s, "cli", nil)
	holdFrame(t, s, browser, fragment(payload(own.opened)))
	page := s.Get(t.Context(), browser, "/Q/claim")
	holdFrame(t, s, browser, fragment(payload(strange.opened)))
	card := s.Post(t.Context(), browser, "/Q/claim", url.Values{"csrf": {page.Hidden("csrf")}})
	if card.Status != http.StatusForbidden || own.record().State != storage.QRPending || strange.record().State != storage.QRPending {
		t.Errorf("%d, own %v, strange %v", card.Status, own.record().State, strange.record().State)
	}
}

// What was opened last counts, also when it is refused.
func TestQRefusalForgetsTheOlderHold(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := newScanner(t, s)
	own := openQR(t, s, "cli", nil)
	s.Clock.Advance(30 * time.Second)
	strange := openQR(t, s, "cli", nil)
	holdFrame(t, s, browser, fragment(payload(strange.opened)))
	if refused := holdFrame(t, s, browser, fragment(payload(own.opened))); refused.Status != http.StatusConflict {
		t.Fatalf("an old frame: %d %s", refused.Status, refused.Body)
	}
	if page := s.Get(t.Context(), browser, "/Q/claim"); page.Status != http.StatusGone || strange.record().State != storage.QRPending {
		t.Errorf("%d, %v", page.Status, strange.record().State)
	}
}
