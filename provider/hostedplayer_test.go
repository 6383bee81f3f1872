package provider_test

import (
	"bytes"
	"html"
	"image/png"
	"net/http"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// shopClients are relying parties whose people may sign in with the phone.
func shopClients() []*storage.Client {
	secrets := providertest.Clients()[0].SecretHashes
	scopes := []string{"openid", "profile", "email", "offline_access"}
	policy := storage.QRPolicy{Enabled: true, AllowedScopes: []string{"openid", "profile", "offline_access"}, OfflineAccess: true}
	grants := []string{"authorization_code", "refresh_token"}
	return []*storage.Client{
		{ID: "shop", Name: "Shop", SecretHashes: secrets, RedirectURIs: []string{providertest.RedirectURI}, FirstParty: true, GrantTypes: grants, Scopes: scopes, QR: policy},
		{ID: "stranger", Name: "Stranger", SecretHashes: secrets, RedirectURIs: []string{providertest.RedirectURI}, GrantTypes: grants, Scopes: scopes, QR: policy},
	}
}

func newShop(t *testing.T, o providertest.Options) *providertest.Server {
	t.Helper()
	o.Clients = append(o.Clients, shopClients()...)
	return providertest.NewServer(t, o)
}

// tab is a browser at a relying party's sign-in page.
type tab struct {
	t        *testing.T
	s        *providertest.Server
	browser  *http.Client
	clientID string
	query    url.Values
	verifier string
	page     *providertest.Reply
}

// visit asks for a code as a client; changes are pairs of parameters.
func visit(t *testing.T, s *providertest.Server, browser *http.Client, clientID string, changes ...string) *tab {
	t.Helper()
	verifier, challenge := providertest.Verifier()
	b := &tab{t: t, s: s, browser: browser, clientID: clientID, verifier: verifier}
	b.query = providertest.AuthorizeQuery(clientID, "openid profile", challenge)
	for i := 0; i < len(changes); i += 2 {
		b.query.Set(changes[i], changes[i+1])
	}
	b.load()
	return b
}

// load asks for the page again, as a reload does.
func (b *tab) load() {
	b.t.Helper()
	b.page = b.s.Get(b.t.Context(), b.browser, "/authorize?"+b.query.Encode())
}

// code is the part of the page with the QR code; empty when there is none.
func (b *tab) code() *providertest.Reply {
	_, part, _ := strings.Cut(b.page.Body, `<section id="qr"`)
	return &providertest.Reply{Status: b.page.Status, Header: b.page.Header, Body: part}
}

// attribute reads an attribute of the page's QR code.
func (b *tab) attribute(name string) string {
	m := regexp.MustCompile(name + `="([^"]*)"`).FindStringSubmatch(b.code().Body)
	if m == nil {
		return ""
	}
	return html.UnescapeString(m[1])
}

func (b *tab) status() string { return b.attribute("data-status") }

// flow is the id of the page's flow.
func (b *tab) flow() string { return b.code().Hidden("flow") }

// record is the session behind the page.
func (b *tab) record() *storage.QRSession {
	b.t.Helper()
	id, err := storage.ParseQRID(b.flow())
	if err != nil {
		b.t.Fatalf("no flow on the page: %d %s", b.page.Status, b.page.Body)
	}
	q, err := b.s.Store.QRSession(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	return q
}

// scanned reads the picture on the page as a camera does.
func (b *tab) scanned() string {
	b.t.Helper()
	return readPNG(b.t, b.s.Get(b.t.Context(), b.browser, b.attribute("src")))
}

func readPNG(t *testing.T, picture *providertest.Reply) string {
	t.Helper()
	if picture.Status != http.StatusOK || picture.Header.Get("Content-Type") != "image/png" {
		t.Fatalf("picture: %d %s", picture.Status, picture.Header.Get("Content-Type"))
	}
	drawing, err := png.Decode(bytes.NewReader([]byte(picture.Body)))
	if err != nil {
		t.Fatal(err)
	}
	bitmap, err := gozxing.NewBinaryBitmapFromImage(drawing)
	if err != nil {
		t.Fatal(err)
	}
	read, err := qrcode.NewQRCodeReader().Decode(bitmap, map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_PURE_BARCODE: true})
	if err != nil {
		t.Fatal(err)
	}
	return read.GetText()
}

// state asks for the state as JSON.
func (b *tab) state() *providertest.Reply {
	b.t.Helper()
	return b.s.Get(b.t.Context(), b.browser, b.attribute("data-state"))
}

// hold asks for the state and waits; it returns once the server holds the request, or has
// answered it.
func (b *tab) hold(seq string) <-chan *providertest.Reply {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.s.URL(b.attribute("data-state"))+"&qr_seq="+seq, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Prefer", "wait=25")
	before, answer := b.s.Clock.Timers(), make(chan *providertest.Reply, 1)
	go func() { answer <- b.s.Do(b.browser, req) }()
	for b.s.Clock.Timers() <= before && len(answer) == 0 {
		runtime.Gosched()
	}
	return answer
}

// press sends the form of the QR code: continue, not-me or new.
func (b *tab) press(button string) *providertest.Reply {
	b.t.Helper()
	return b.pressIn(b.browser, button)
}

func (b *tab) pressIn(browser *http.Client, button string) *providertest.Reply {
	b.t.Helper()
	code := b.code()
	return b.s.Post(b.t.Context(), browser, "/login/qr/"+button, url.Values{
		"csrf": {code.Hidden("csrf")}, "flow": {code.Hidden("flow")}, "next": {code.Hidden("next")},
	})
}

// approve scans the page with the phone, types the number on the screen and says yes.
func (b *tab) approve(p *phone) *providertest.Reply {
	b.t.Helper()
	scan := p.scan(b.scanned(), "scanner")
	if scan.Status != http.StatusOK {
		b.t.Fatalf("scan: %d %s", scan.Status, scan.Body)
	}
	decided := p.decide(scan, "approve", b.state().Text("check_code"))
	if decided.Status != http.StatusOK {
		b.t.Fatalf("decision: %d %s", decided.Status, decided.Body)
	}
	b.load()
	return decided
}

// signedIn runs the whole sign-in with the phone and returns the tokens.
func (b *tab) signedIn(p *phone) providertest.Tokens {
	b.t.Helper()
	b.approve(p)
	return tokensOf(b.t, b.s.Redeem(b.t.Context(), b.clientID, b.press("continue"), b.verifier))
}

// cookies are those of the browser by name.
func (b *tab) cookies() map[string]string {
	u, err := url.Parse(b.s.Issuer)
	if err != nil {
		b.t.Fatal(err)
	}
	all := make(map[string]string)
	for _, c := range b.browser.Jar.Cookies(u) {
		all[c.Name] = c.Value
	}
	return all
}

func (b *tab) flowCookies() []string {
	var names []string
	for name := range b.cookies() {
		if strings.HasPrefix(name, "__Host-qr-") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func seqOf(state *providertest.Reply) string {
	seq, _ := state.JSON()["qr_seq"].(float64)
	return strconv.Itoa(int(seq))
}

// unixOf is a moment as ID tokens have it.
func unixOf(at time.Time) float64 { return float64(at.Unix()) }
