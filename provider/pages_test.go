package provider_test

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// speaking is a browser whose person prefers a language.
type speaking struct {
	http.RoundTripper
	language string
}

func (s speaking) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Accept-Language", s.language)
	r.Header.Set("Accept", browserAccept)
	return s.RoundTripper.RoundTrip(r)
}

// gallery keeps every page of a provider in one language as a golden file.
type gallery struct {
	*providertest.Server
	t        *testing.T
	language string
	names    []string
}

func (g *gallery) browser() *http.Client {
	browser := g.Browser()
	browser.Transport = speaking{browser.Transport, g.language}
	return browser
}

func (g *gallery) get(browser *http.Client, path string) *providertest.Reply {
	g.t.Helper()
	return g.Get(g.t.Context(), browser, path)
}

// submit sends the form of a page; fields are pairs beside the form's hidden ones.
func (g *gallery) submit(browser *http.Client, page *providertest.Reply, path string, fields ...string) *providertest.Reply {
	g.t.Helper()
	form := url.Values{}
	for _, name := range []string{"csrf", "next", "request", "card", "flow"} {
		if value := page.Hidden(name); value != "" {
			form.Set(name, value)
		}
	}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	return g.Post(g.t.Context(), browser, path, form)
}

// keep compares a page with its golden file; what is random in it is replaced.
func (g *gallery) keep(name string, status int, page *providertest.Reply) {
	g.t.Helper()
	if page.Status != status || !strings.HasPrefix(page.Header.Get("Content-Type"), "text/html") {
		g.t.Errorf("%s: %d %s: %s", name, page.Status, page.Header.Get("Content-Type"), page.Body)
		return
	}
	text := page.Body
	for _, replace := range [][2]string{
		{regexp.QuoteMeta(strings.TrimPrefix(g.Issuer, "https://")), "op.example"},
		{regexp.QuoteMeta(url.QueryEscape(strings.TrimPrefix(g.Issuer, "https://"))), "op.example"},
		{`(name="(?:csrf|card|flow|code|target)" value=")[^"]+`, "${1}RANDOM"},
		{`(code_challenge(?:=|%3D|%3d))[\w-]+`, "${1}RANDOM"},
		{`(\bflow(?:=|%3D|%3d))[\w-]+`, "${1}RANDOM"},
		{`\b[BCDFGHJ-NP-TV-XZ]{4}-[BCDFGHJ-NP-TV-XZ]{4}\b`, "WDJB-MJHT"},
		{`(class="check-code">)\d\d<`, "${1}42<"},
		{`(id="error-id">)\w+`, "${1}RANDOM"},
	} {
		text = regexp.MustCompile(replace[0]).ReplaceAllString(text, replace[1])
	}
	// A placeholder is no code.
	text = strings.ReplaceAll(text, `placeholder="WDJB-MJHT"`, `placeholder="XXXX-XXXX"`)
	file := filepath.Join("testdata", "pages", g.language, name+".html")
	g.names = append(g.names, filepath.Base(file))
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
			g.t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			g.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		g.t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		g.t.Errorf("%s: %s", name, diff)
	}
}

// TestPages compares every page of the provider with the one that somebody has looked at.
func TestPages(t *testing.T) {
	t.Parallel()
	for _, language := range []string{"en", "zh"} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			device := jwtDevice()
			device.Resources = []string{jwtAPI, otherAPI}
			g := &gallery{Server: newShop(t, providertest.Options{Clients: []*storage.Client{device}}), t: t, language: language}
			g.account() // while there is one sign-in
			g.signIn()
			g.consent()
			g.device()
			g.hold()
			g.card()
			g.rest()
			files, err := os.ReadDir(filepath.Join("testdata", "pages", language))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				if !slices.Contains(g.names, file.Name()) {
					t.Errorf("there is no page %s", file.Name())
				}
			}
		})
	}
}

func (g *gallery) account() {
	g.t.Helper()
	browser := g.browser()
	g.keep("signin-account", http.StatusOK, g.get(browser, "/account"))
	g.SignIn(g.t.Context(), browser, g.get(browser, "/account"))
	g.keep("account", http.StatusOK, g.get(browser, "/account"))
}

func (g *gallery) signIn() {
	g.t.Helper()
	g.keep("signin-password-only", http.StatusOK, visit(g.t, g.Server, g.browser(), "web").page)
	b := visit(g.t, g.Server, g.browser(), "shop")
	g.keep("signin-pending", http.StatusOK, b.page)
	g.keep("frame-pending", http.StatusOK, g.get(b.browser, frameOf(b)))
	g.keep("signin-wrong", http.StatusOK, g.submit(b.browser, b.page, "/login", "login", "mallory", "password", "wrong"))
	phone := newPhone(g.t, g.Server)
	scan := phone.scan(b.scanned(), "scanner")
	b.load()
	g.keep("signin-scanned", http.StatusOK, b.page)
	g.keep("frame-scanned", http.StatusOK, g.get(b.browser, frameOf(b)))
	if decided := phone.decide(scan, "approve", b.state().Text("check_code")); decided.Status != http.StatusOK {
		g.t.Fatalf("%d %s", decided.Status, decided.Body)
	}
	b.load()
	g.keep("signin-approved", http.StatusOK, b.page)
	g.keep("frame-approved", http.StatusOK, g.get(b.browser, frameOf(b)))

	b = visit(g.t, g.Server, g.browser(), "shop")
	phone.decide(phone.scan(b.scanned(), "scanner"), "deny", "")
	b.load()
	g.keep("signin-denied", http.StatusOK, b.page)
	b.press("new")
	b.load()
	g.Clock.Advance(5 * time.Minute)
	b.load()
	g.keep("signin-expired", http.StatusOK, b.page)
}

func (g *gallery) consent() {
	g.t.Helper()
	browser := g.browser()
	b := visit(g.t, g.Server, browser, "thirdparty", "scope", "openid profile email")
	page := g.SignIn(g.t.Context(), browser, b.page)
	g.keep("consent", http.StatusOK, page)
	done := g.get(browser, "/authorize?"+b.query.Encode()+"&response_mode=form_post")
	g.keep("form-post", http.StatusOK, g.submit(browser, done, "/consent", "decision", "allow"))
}

func (g *gallery) device() {
	g.t.Helper()
	browser := g.browser()
	page := g.get(browser, "/device")
	g.keep("signin-device", http.StatusOK, page)
	g.SignIn(g.t.Context(), browser, page)
	page = g.get(browser, "/device")
	g.keep("device", http.StatusOK, page)
	g.keep("device-unknown", http.StatusOK, g.submit(browser, page, "/device", "step", "claim", "user_code", "QQQQ-QQQQ"))
	g.keep("q", http.StatusOK, g.get(g.browser(), "/Q"))
}

// hold follows a QR code that was scanned outside the app.
func (g *gallery) hold() {
	g.t.Helper()
	browser := g.browser()
	g.keep("q-too-late", http.StatusGone, g.get(browser, "/Q/claim"))
	_, frame, _ := strings.Cut(visit(g.t, g.Server, g.browser(), "shop").scanned(), "#")
	page := g.get(browser, "/Q")
	g.keep("q-foreign", http.StatusNotFound, g.submit(browser, page, "/Q/hold", "frame", frame[:len(frame)-4]+"AAAA"))
	g.submit(browser, page, "/Q/hold", "frame", frame)
	page = g.get(browser, "/Q/claim")
	g.keep("signin-hold", http.StatusOK, page)
	g.SignIn(g.t.Context(), browser, page)
	page = g.get(browser, "/Q/claim")
	g.keep("hold", http.StatusOK, page)
	g.keep("card-link", http.StatusOK, g.submit(browser, page, "/Q/claim"))
}

// card shows the cards of a television, of a program, and of our own page, and how each ends.
func (g *gallery) card() {
	g.t.Helper()
	browser := g.browser()
	g.SignIn(g.t.Context(), browser, g.get(browser, "/device"))
	claim := func(code string) *providertest.Reply {
		return g.submit(browser, g.get(browser, "/device"), "/device", "step", "claim", "user_code", code)
	}
	open := func(form url.Values) string {
		reply := g.Post(g.t.Context(), g.Client(), "/device_authorization", form)
		if reply.Status != http.StatusOK {
			g.t.Fatalf("%d %s", reply.Status, reply.Body)
		}
		return reply.Text("user_code")
	}
	card := claim(open(url.Values{"client_id": {"tv"}, "scope": {"openid profile email"}, "device_name": {"Kitchen"}, "binding_message": {"Order 4711"}}))
	g.keep("card-television", http.StatusOK, card)
	g.keep("result-approved", http.StatusOK, g.submit(browser, card, "/device", "step", "decide", "decision", "approve"))

	_, challenge := providertest.Verifier()
	program := url.Values{"client_id": {"cli"}, "scope": {"openid"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"}}
	card = claim(open(program))
	g.keep("card-program", http.StatusOK, card)
	g.keep("card-no-number", http.StatusOK, g.submit(browser, card, "/device", "step", "decide", "decision", "approve"))
	g.keep("result-denied", http.StatusOK, g.submit(browser, card, "/device", "step", "decide", "decision", "deny"))
	card = claim(open(program))
	g.keep("result-reported", http.StatusOK, g.submit(browser, card, "/device", "step", "decide", "decision", "report"))

	b := visit(g.t, g.Server, g.browser(), "stranger")
	code := regexp.MustCompile(`id="user-code" class="code">([^<]+)<`).FindStringSubmatch(b.page.Body)
	card = claim(code[1])
	g.keep("card-hosted", http.StatusOK, card)
	g.keep("card-resources", http.StatusOK, claim(open(url.Values{"client_id": {"jwt-tv"}, "scope": {"openid"}, "resource": {jwtAPI, otherAPI}, "code_challenge": {challenge}, "code_challenge_method": {"S256"}})))
	b.load()
	g.keep("result-approved-hosted", http.StatusOK, g.submit(browser, card, "/device", "step", "decide", "decision", "approve", "check_code", b.state().Text("check_code")))
}

func (g *gallery) rest() {
	g.t.Helper()
	browser := g.browser()
	g.keep("home", http.StatusOK, g.get(browser, "/"))
	g.keep("not-found", http.StatusNotFound, g.get(browser, "/nothing"))
	g.keep("not-by-address", http.StatusMethodNotAllowed, g.get(browser, "/login"))
	g.keep("error", http.StatusBadRequest, g.get(browser, "/authorize?client_id=nobody"))
	g.SignIn(g.t.Context(), browser, g.get(browser, "/device"))
	page := g.get(browser, "/logout")
	g.keep("sign-out", http.StatusOK, page)
	g.keep("sign-out-for-client", http.StatusOK, g.get(browser, "/logout?client_id=web&post_logout_redirect_uri=https%3A%2F%2Felsewhere.example%2F"))
	g.keep("stayed", http.StatusOK, g.submit(browser, page, "/logout", "decision", "stay"))
	g.keep("signed-out", http.StatusOK, g.submit(browser, page, "/logout", "decision", "leave"))
}
