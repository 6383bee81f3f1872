package examples_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/qrgrant/qrgrant/examples/internal/chromium"
	"github.com/qrgrant/qrgrant/examples/webapp/relyingparty"
	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// browsers is the one browser process of the tests in this package.
var browsers = chromium.Shared{Options: chromium.Options{IgnoreCertificateErrors: true}}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := browsers.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// shop is a provider and the web application of this module as its relying party, on a site of
// its own.
type shop struct {
	*providertest.Server
	t *testing.T
	// app is the application's address; form that of a page which shows what is posted to it.
	app, form string
	asked     *record
	clients   []*storage.Client
}

// record notes the paths that the relying party's own server asks for.
type record struct {
	http.RoundTripper
	mu    sync.Mutex
	paths []string
}

func (r *record) RoundTrip(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	r.paths = append(r.paths, req.URL.Path)
	r.mu.Unlock()
	return r.RoundTripper.RoundTrip(req)
}

func (r *record) has(path string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.paths, path)
}

// openShop runs both. change may make another client of the relying party than the first-party
// one whose people may sign in with the phone.
func openShop(t *testing.T, o providertest.Options, change func(*storage.Client)) *shop {
	t.Helper()
	return openShopAt(t, "", o, change)
}

// openShopAt is openShop for a provider behind something that has the address issuer; empty is
// its own address.
func openShopAt(t *testing.T, issuer string, o providertest.Options, change func(*storage.Client)) *shop {
	t.Helper()
	if configure := o.Change; issuer != "" {
		o.Change = func(c *provider.Config) {
			c.Issuer = issuer
			if configure != nil {
				configure(c)
			}
		}
	}
	app := httptest.NewUnstartedServer(nil)
	_, port, err := net.SplitHostPort(app.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	// Another site than the provider, which is at 127.0.0.1: cookies are apart as in life.
	b := &shop{t: t, app: "http://localhost:" + port, form: "http://localhost:" + port + "/form"}
	client := &storage.Client{
		ID: "shop", Name: "Corner Shop", SecretHashes: providertest.Clients()[0].SecretHashes, FirstParty: true,
		RedirectURIs: []string{b.app + "/callback", b.form}, PostLogoutRedirectURIs: []string{b.app + "/"},
		GrantTypes: []string{"authorization_code"}, Scopes: []string{"openid", "profile"},
		QR: storage.QRPolicy{Enabled: true, AllowedScopes: []string{"openid", "profile"}},
	}
	if change != nil {
		change(client)
	}
	o.Clients = append(o.Clients, client)
	b.Server, b.clients = providertest.NewServer(t, o), o.Clients
	b.Issuer = cmp.Or(issuer, b.Issuer)
	// The relying party judges tokens by the real time.
	b.Clock.Advance(time.Since(b.Clock.Now()))

	trusting := b.HTTP.Client()
	b.asked = &record{RoundTripper: trusting.Transport}
	trusting = &http.Client{Transport: b.asked}
	rp := &relyingparty.App{Issuer: b.Issuer, ClientID: client.ID, ClientSecret: providertest.ClientSecret, URL: b.app}
	pages := http.NewServeMux()
	handler := rp.Handler()
	pages.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r.WithContext(oidc.ClientContext(r.Context(), trusting)))
	})
	pages.HandleFunc("POST /form", showForm)
	app.Config.Handler = pages
	app.Start()
	t.Cleanup(func() {
		app.CloseClientConnections()
		app.Close()
	})
	return b
}

// showForm shows what an answer by form_post says.
func showForm(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	_ = template.Must(template.New("").Parse(`<!doctype html><html lang="en"><title>Posted</title><h1>Posted</h1>
<dl>{{range $name, $values := .}}<dt>{{$name}}</dt><dd id="{{$name}}">{{index $values 0}}</dd>{{end}}</dl>`)).Execute(w, r.PostForm)
}

// visit opens a page and goes from the application to the provider.
func (b *shop) visit(o chromium.PageOptions) *chromium.Page {
	b.t.Helper()
	p := browsers.Page(b.t, o)
	p.Navigate(b.app + "/")
	p.Click(`a[href="/login"]`)
	p.WaitURL(b.Issuer + "/authorize?")
	return p
}

// password signs in as Alice on the sign-in page.
func (b *shop) password(p *chromium.Page, password string) {
	b.t.Helper()
	p.Type("#login", providertest.AliceLogin)
	p.Type("#password", password)
	p.Click("#sign-in")
}

// signedIn waits until the application knows who is there, from an ID token that it verified
// with the provider's keys.
func (b *shop) signedIn(p *chromium.Page) {
	b.t.Helper()
	p.WaitURL(b.app + "/")
	p.WaitText("You are signed in as")
	if got := p.Text("strong"); got != "Alice Arden" {
		b.t.Errorf("signed in as %q", got)
	}
	if !b.asked.has("/token") || !b.asked.has("/jwks") {
		b.t.Errorf("the application asked only for %q", b.asked.paths)
	}
}

// telephone is the app of Alice: it has an access token by code and PKCE, and the phone API.
type telephone struct {
	*shop
	token string
}

func (b *shop) telephone() telephone { return telephone{b, b.ApproverToken(b.t.Context())} }

func (p telephone) post(path string, body map[string]any) *providertest.Reply {
	p.t.Helper()
	reply := p.try(path, body)
	if reply.Status != http.StatusOK {
		p.t.Fatalf("%s: %d %s", path, reply.Status, reply.Body)
	}
	return reply
}

// try sends a request that may be refused.
func (p telephone) try(path string, body map[string]any) *providertest.Reply {
	p.t.Helper()
	encoded, err := json.Marshal(body)
	if err != nil {
		p.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, p.URL(path), bytes.NewReader(encoded))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+p.token)
	return p.Do(p.Client(), req)
}

// scan reads the code off the screen and claims it.
func (p telephone) scan(page *chromium.Page) *providertest.Reply {
	p.t.Helper()
	// On a slow machine the page asks for the next frame just as the phone takes this one off it.
	page.Expect(p.Issuer + "/login/qr.")
	payload := page.DecodeQR("#qr-image")
	if !strings.HasPrefix(payload, p.Issuer+"/Q#1") {
		p.t.Fatalf("the code says %q", payload)
	}
	return p.post("/qr/scan", map[string]any{"payload": payload, "entry": "scanner"})
}

func (p telephone) decide(scan *providertest.Reply, decision, checkCode string) {
	p.t.Helper()
	body := map[string]any{"confirm_handle": scan.Text("confirm_handle"), "decision": decision, "context_digest": scan.Text("context_digest")}
	if checkCode != "" {
		body["check_code"] = checkCode
	}
	want := map[string]string{"approve": "approved", "deny": "denied"}[decision]
	if got := p.post("/qr/decision", body).Text("state"); got != want {
		p.t.Errorf("decided: %q", got)
	}
}

// approve scans the page and approves with the number that it then shows.
func (p telephone) approve(page *chromium.Page) {
	p.t.Helper()
	scan := p.scan(page)
	p.decide(scan, "approve", page.Text("#check-code"))
	page.WaitVisible("#qr-continue")
}

// frameSoon moves the clock so that a page without script, which looks again for the next frame
// of the code, does so within two seconds.
func (b *shop) frameSoon(p *chromium.Page) {
	b.t.Helper()
	b.Clock.Advance(9 * time.Second)
	p.Reload()
}

// look leaves a picture of the page and checks its accessibility, but for the rules in except.
func look(t *testing.T, p *chromium.Page, name string, except ...string) {
	t.Helper()
	p.Screenshot(name)
	chromium.Axe(t, p, except...)
}

// authorizeURL is an authorization request of the shop that the application did not make.
func (b *shop) authorizeURL(changes ...string) string {
	_, challenge := providertest.Verifier()
	query := providertest.AuthorizeQuery("shop", "openid profile", challenge)
	query.Set("redirect_uri", b.app+"/callback")
	for i := 0; i < len(changes); i += 2 {
		query.Set(changes[i], changes[i+1])
	}
	return b.Issuer + "/authorize?" + query.Encode()
}

// opened opens a session as the television and returns its user code and its polling.
func (b *shop) opened() (userCode string, poll func() *providertest.Reply) {
	b.t.Helper()
	reply := b.Post(b.t.Context(), b.Client(), "/device_authorization", url.Values{"client_id": {"tv"}, "scope": {"openid profile"}})
	if reply.Status != http.StatusOK {
		b.t.Fatalf("device_authorization: %d %s", reply.Status, reply.Body)
	}
	return reply.Text("user_code"), func() *providertest.Reply {
		b.t.Helper()
		return b.Post(b.t.Context(), b.Client(), "/token", url.Values{
			"client_id": {"tv"}, "grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {reply.Text("device_code")},
		})
	}
}
