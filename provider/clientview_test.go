package provider_test

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// shownClient is a client that says everything about itself, with a QR code on its sign-in page.
func shownClient(id, host string) *storage.Client {
	scopes := []string{"openid", "profile"}
	return &storage.Client{
		ID: id, Name: `Shown <b>"Client"</b>`, SecretHashes: [][32]byte{sha256.Sum256([]byte(providertest.ClientSecret))},
		RedirectURIs: []string{providertest.RedirectURI}, Scopes: scopes, QR: storage.QRPolicy{Enabled: true, AllowedScopes: scopes},
		LogoURI: host + "/logo.png?a=1&b=2", ClientURI: host + "/", PolicyURI: host + "/privacy", TermsURI: host + "/terms?x='y'",
	}
}

func imageSources(reply *providertest.Reply) string {
	m := regexp.MustCompile(`img-src ([^;]*)`).FindStringSubmatch(reply.Header.Get("Content-Security-Policy"))
	if m == nil {
		return ""
	}
	return m[1]
}

// wantShown checks a page that names the client: its logo decorates, its links lead out of the
// way, and the policy lets the logo's origin in and nothing else.
func wantShown(t *testing.T, page *providertest.Reply, host string, logo bool) {
	t.Helper()
	sources := "'self' data:"
	if logo {
		sources += " " + host
	}
	if got := imageSources(page); got != sources {
		t.Errorf("img-src %q, want %q", got, sources)
	}
	img := `<img class="logo" src="` + host + `/logo.png?a=1&amp;b=2" width="64" height="64" alt="" referrerpolicy="no-referrer"`
	if strings.Contains(page.Body, img) != logo || strings.Contains(page.Body, "logo.png") != logo {
		t.Errorf("the logo: %s", page.Body)
	}
	for id, path := range map[string]string{"client-site": "/", "client-policy": "/privacy", "client-terms": "/terms?x=%27y%27"} {
		link := fmt.Sprintf(`<a id=%q href="%s" target="_blank" rel="noopener noreferrer">`, id, host+path)
		if !strings.Contains(page.Body, link) {
			t.Errorf("no %s in %s", link, page.Body)
		}
	}
	if strings.Contains(page.Body, "<b>") || strings.Count(page.Body, "(opens in a new tab)") != 3 {
		t.Errorf("page: %s", page.Body)
	}
}

func TestPagesShowWhatTheClientSaysOfItself(t *testing.T) {
	t.Parallel()
	const host = "https://cdn.shown.example:8443"
	s := newShop(t, providertest.Options{Clients: []*storage.Client{shownClient("shown", host)}})
	b := visit(t, s, s.Browser(), "shown")
	if b.code().Body == "" {
		t.Fatalf("no QR code: %s", b.page.Body)
	}
	wantShown(t, b.page, host, true)
	if policy := b.page.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "script-src 'self'; connect-src 'self'; frame-src 'self'; form-action 'self' https://") {
		t.Errorf("CSP %q", policy)
	}
	// Whoever types it wrong sees the same page.
	wrong := s.Post(t.Context(), b.browser, "/login", url.Values{"csrf": {b.page.Hidden("csrf")}, "next": {b.page.Hidden("next")}, "login": {"alice"}, "password": {"wrong"}})
	wantShown(t, wrong, host, true)

	// The redirect vouches for the client of the hosted door.
	_, code, _ := strings.Cut(b.page.Body, `id="user-code"`)
	m := regexp.MustCompile(`[A-Z]{4}-[A-Z]{4}`).FindString(code)
	phone := s.Browser()
	signIn := s.Get(t.Context(), phone, "/device")
	s.SignIn(t.Context(), phone, signIn)
	form := s.Get(t.Context(), phone, "/device")
	card := s.Post(t.Context(), phone, "/device", url.Values{"csrf": {form.Hidden("csrf")}, "step": {"claim"}, "user_code": {m}})
	if !strings.Contains(card.Body, "address verified") {
		t.Fatalf("card: %s", card.Body)
	}
	wantShown(t, card, host, true)

	consent := s.SignIn(t.Context(), b.browser, b.page)
	if !strings.Contains(consent.Body, `id="allow"`) {
		t.Fatalf("consent: %s", consent.Body)
	}
	wantShown(t, consent, host, true)
}

// Any program can ask in the name of a public client: the card shows where to read more, and not
// the picture that would make it look real.
func TestCardShowsNoLogoOfAnUnverifiedClient(t *testing.T) {
	t.Parallel()
	const host = "https://tv.example"
	client := shownClient("shown-tv", host)
	client.SecretHashes, client.RedirectURIs = nil, nil
	client.GrantTypes = []string{"urn:ietf:params:oauth:grant-type:device_code"}
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{client}})
	start := s.Post(t.Context(), s.Client(), "/device_authorization", url.Values{"client_id": {client.ID}, "scope": {"openid"}})
	card := deviceCard(t, s, s.Browser(), start)
	if !strings.Contains(card.Body, "name not verified") {
		t.Fatalf("card: %s", card.Body)
	}
	wantShown(t, card, host, false)
}

// What nobody registered is not there, and what must not be shown is not either, whoever put it
// into the store.
func TestPagesWithoutAnythingToShow(t *testing.T) {
	t.Parallel()
	clients := []*storage.Client{shownClient("plain", "")}
	clients[0].LogoURI, clients[0].ClientURI, clients[0].PolicyURI, clients[0].TermsURI = "", "", "", ""
	for i, raw := range hostileURIs() {
		c := shownClient(fmt.Sprint("hostile-", i), "")
		c.LogoURI, c.ClientURI, c.PolicyURI, c.TermsURI = raw, raw, raw, raw
		clients = append(clients, c)
	}
	s := newShop(t, providertest.Options{Clients: clients})
	for _, c := range clients {
		b := visit(t, s, s.Browser(), c.ID)
		consent := s.SignIn(t.Context(), b.browser, b.page)
		for name, page := range map[string]*providertest.Reply{"sign-in": b.page, "consent": consent} {
			if got := imageSources(page); page.Status != http.StatusOK || got != "'self' data:" {
				t.Errorf("%s, %s: %d, img-src %q", c.LogoURI, name, page.Status, got)
			}
			if strings.Contains(page.Body, "logo") || strings.Contains(page.Body, "client-") || strings.Contains(page.Body, "ZgotmplZ") {
				t.Errorf("%s, %s: %s", c.LogoURI, name, page.Body)
			}
		}
	}
}

func hostileURIs() []string {
	return []string{
		"http://app.example/logo.png", "javascript:alert(1)", "data:image/png;base64,AAAA", "//app.example/logo.png", "/logo.png", "logo.png",
		"https:logo.png", "https:///logo.png", "https://:443/logo.png", "https://app.example:/logo.png", "https://user@app.example/logo.png",
		"https://user:secret@app.example/", "https://app.example/#fragment", "https://app.example/#", "https://*.example/", "https://*/",
		"https://app.example;script-src/", "https://app.example,evil.example/", "https://app.example'/", "https://a%3Bb.example/",
		"https://b\u00fccher.example/", "https://app.example/b\u00fc", "https://[::1]/logo.png", "https://app.example/a b", "https://app.example/\tb",
		"https://app.example/\n", "https://app.example/\"><script>", "https://app.example\\@evil.example/", "https://app.example/\x00",
		"https://app.example:port/", "ftp://127.0.0.1/", "http://localhost.example/", "https://app.example/" + strings.Repeat("x", 2048),
	}
}

func TestCheckShownURI(t *testing.T) {
	t.Parallel()
	for _, good := range []string{
		"https://app.example", "https://app.example/", "HTTPS://App.Example:8443/a/b.svg?c=%20d&e='f'", "http://localhost/x", "http://127.0.0.1:8080/x",
		"https://xn--bcher-kva.example/", "https://192.0.2.1/x", "https://app.example/" + strings.Repeat("x", 2048-len("https://app.example/")),
	} {
		if err := provider.CheckShownURI(good); err != nil {
			t.Errorf("%.60s: %v", good, err)
		}
	}
	for _, hostile := range append(hostileURIs(), "") {
		if provider.CheckShownURI(hostile) == nil {
			t.Errorf("%.60q passes", hostile)
		}
	}
}
