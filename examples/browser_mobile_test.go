package examples_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"image"
	"image/draw"
	"image/png"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skip2/go-qrcode"

	"github.com/qrgrant/qrgrant/examples/internal/chromium"
	"github.com/qrgrant/qrgrant/examples/mobile/phoneapp"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// pocket is a provider and the phone application of this module, at an origin of its own.
type pocket struct {
	*providertest.Server
	t *testing.T
	// app is the application's address; stop ends its server.
	app  string
	stop func()
	// unaware makes the provider one that has never heard of DPoP.
	unaware atomic.Bool
	// sent are the paths that the application's own server was asked for.
	mu   sync.Mutex
	sent []string
}

func openPocket(t *testing.T, o providertest.Options) *pocket {
	t.Helper()
	app := httptest.NewUnstartedServer(nil)
	_, port, err := net.SplitHostPort(app.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	k := &pocket{t: t, app: "http://localhost:" + port}
	o.HTTP = true
	o.Clients = append(o.Clients, &storage.Client{
		ID: "mobile", Name: "Approver", FirstParty: true, Approver: true, RequireDPoP: true,
		RedirectURIs: []string{k.app + "/"}, PostLogoutRedirectURIs: []string{k.app + "/"},
		GrantTypes: []string{"authorization_code", "refresh_token"}, Scopes: []string{"openid", "profile", "offline_access", "qr:approve"},
	})
	k.Server = providertest.NewServer(t, o)
	// The application compares ID tokens with the real time.
	k.Clock.Advance(time.Since(k.Clock.Now()))
	k.HTTP.Config.Handler = http.HandlerFunc(k.serve)
	handler, err := (&phoneapp.App{Issuer: k.Issuer, ClientID: "mobile", URL: k.app}).Handler()
	if err != nil {
		t.Fatal(err)
	}
	app.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		k.sent = append(k.sent, r.URL.Path)
		k.mu.Unlock()
		handler.ServeHTTP(w, r)
	})
	app.Start()
	k.stop = sync.OnceFunc(func() {
		app.CloseClientConnections()
		app.Close()
	})
	t.Cleanup(k.stop)
	return k
}

// serve is the provider, as one whose answers tell the time of its own clock.
func (k *pocket) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Date", k.Clock.Now().UTC().Format(http.TimeFormat))
	if k.unaware.Load() {
		r.Header.Del("DPoP")
		query := r.URL.Query()
		query.Del("dpop_jkt")
		r.URL.RawQuery = query.Encode()
	}
	k.Provider.ServeHTTP(w, r)
}

// refusesFirst declares that the provider refuses requests to a path for the want of a new nonce,
// or of another time of day, which the console takes for faults.
func (k *pocket) refusesFirst(p *chromium.Page, path string) {
	status := "401 (Unauthorized)"
	if path == "/token" {
		status = "400 (Bad Request)"
	}
	p.Expect("status of " + status + " " + k.URL(path))
}

// aPhone is the screen that the application is made for.
func aPhone() chromium.PageOptions {
	return chromium.PageOptions{Width: 390, Height: 844, Scale: 2, Mobile: true}
}

// signIn opens the application in a page and signs Alice in.
func (k *pocket) signIn(p *chromium.Page) *chromium.Page {
	k.t.Helper()
	p.Navigate(k.app + "/")
	p.Click("#sign_in")
	k.password(p)
	p.WaitVisible("#person")
	return p
}

func (k *pocket) password(p *chromium.Page) {
	k.t.Helper()
	k.refusesFirst(p, "/token")
	// The clock of the provider stands still while a slow machine works: once it is ten seconds
	// behind, the application has to learn that, wherever it then is.
	for _, path := range []string{"/qr/scan", "/qr/decision", "/sessions", "/userinfo"} {
		k.refusesFirst(p, path)
	}
	p.WaitURL(k.Issuer + "/authorize?")
	p.Type("#login", providertest.AliceLogin)
	p.Type("#password", providertest.AlicePassword)
	p.Click("#sign-in")
	p.WaitURL(k.app + "/")
}

// screen is another device at the direct door, with the QR code that it shows.
type screen struct {
	k                                     *pocket
	client, deviceCode, userCode, payload string
	image, verifier                       string
}

// open asks for a sign-in as one of the seeded clients; more are further parameters.
func (k *pocket) open(client string, more ...string) *screen {
	k.t.Helper()
	verifier, challenge := providertest.Verifier()
	form := url.Values{"client_id": {client}, "scope": {"openid profile"}}
	if client == "cli" {
		form.Set("code_challenge", challenge)
		form.Set("code_challenge_method", "S256")
		form.Set("qr_image", "png")
	}
	for i := 0; i < len(more); i += 2 {
		form.Set(more[i], more[i+1])
	}
	send := func() *providertest.Reply { return k.Post(k.t.Context(), k.Client(), "/device_authorization", form) }
	if client == "kiosk" {
		send = func() *providertest.Reply { return k.PostAs(k.t.Context(), client, "/device_authorization", form) }
	}
	reply := send()
	if reply.Status != http.StatusOK {
		k.t.Fatalf("device_authorization: %d %s", reply.Status, reply.Body)
	}
	s := &screen{k: k, client: client, verifier: verifier, deviceCode: reply.Text("device_code"), userCode: reply.Text("user_code")}
	s.frame(reply)
	return s
}

// frame takes the QR code out of an answer.
func (s *screen) frame(reply *providertest.Reply) {
	if qr, ok := reply.JSON()["qr"].(map[string]any); ok {
		s.payload, _ = qr["payload"].(string)
		s.image, _ = qr["image"].(string)
	}
}

// poll asks for the tokens, after the interval.
func (s *screen) poll() *providertest.Reply {
	s.k.t.Helper()
	s.k.Clock.Advance(6 * time.Second)
	grant := map[string]string{"cli": "urn:qrgrant:params:oauth:grant-type:qr_code"}[s.client]
	form := url.Values{"client_id": {s.client}, "device_code": {s.deviceCode}, "grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}}
	if grant != "" {
		form.Set("grant_type", grant)
		form.Set("code_verifier", s.verifier)
	}
	if s.client == "kiosk" {
		return s.k.PostAs(s.k.t.Context(), s.client, "/token", form)
	}
	return s.k.Post(s.k.t.Context(), s.k.Client(), "/token", form)
}

// code is the number that the screen shows once it is scanned.
func (s *screen) code() string {
	s.k.t.Helper()
	reply := s.poll()
	if reply.Text("check_code") == "" {
		s.k.t.Fatalf("not scanned: %d %s", reply.Status, reply.Body)
	}
	return reply.Text("check_code")
}

func (s *screen) wantTokens() {
	s.k.t.Helper()
	if reply := s.poll(); reply.Status != http.StatusOK || reply.Text("id_token") == "" {
		s.k.t.Errorf("the other device got %d %s", reply.Status, reply.Body)
	}
}

func (s *screen) wantError(want string) {
	s.k.t.Helper()
	if reply := s.poll(); reply.Text("error") != want {
		s.k.t.Errorf("the other device got %d %s, want %s", reply.Status, reply.Body, want)
	}
}

// photograph shows the QR code on a page of another browser and returns its picture.
func (s *screen) photograph() []byte {
	s.k.t.Helper()
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `<!doctype html><html lang="en"><title>PC</title><body bgcolor="#fff"><h1>Sign in</h1><img id="qr" width="320" height="320" alt="QR code" src="%s">`, html.EscapeString(s.image))
	}))
	defer site.Close()
	p := browsers.Page(s.k.t, chromium.PageOptions{Width: 640, Height: 640})
	p.Navigate(site.URL)
	if got := p.DecodeQR("#qr"); got != s.payload {
		s.k.t.Fatalf("the page shows %q", got)
	}
	return p.Screenshot("pc")
}

// typed enters a code or a text on the first screen.
func typed(p *chromium.Page, text string) {
	p.Type("#code", text)
	p.Click("#continue")
}

// try sends a request that may be refused.
func (k *pocket) try(token, path, body string) *providertest.Reply {
	k.t.Helper()
	req, err := http.NewRequestWithContext(k.t.Context(), http.MethodPost, k.URL(path), strings.NewReader(body))
	if err != nil {
		k.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	return k.Do(k.Client(), req)
}

// cut returns what surrounds an element on a screenshot of the whole page.
func cut(t *testing.T, p *chromium.Page, selector string) []byte {
	t.Helper()
	p.WaitVisible(selector)
	var box struct{ X, Y, Width, Height float64 }
	if err := json.Unmarshal([]byte(chromium.Eval[string](p, "(b => JSON.stringify({ x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height }))(document.querySelector('"+selector+"').getBoundingClientRect())")), &box); err != nil {
		t.Fatal(err)
	}
	whole, err := png.Decode(bytes.NewReader(p.Screenshot("pc")))
	if err != nil {
		t.Fatal(err)
	}
	const margin = 60
	part := image.Rect(int(box.X)-margin, int(box.Y)-margin, int(box.X+box.Width)+margin, int(box.Y+box.Height)+margin).Intersect(whole.Bounds())
	drawn := image.NewRGBA(image.Rect(0, 0, part.Dx(), part.Dy()))
	draw.Draw(drawn, drawn.Bounds(), whole, part.Min, draw.Src)
	var out bytes.Buffer
	if err := png.Encode(&out, drawn); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// approve types the number that the other screen shows.
func approve(p *chromium.Page, pc *screen) {
	p.WaitVisible("#check_code")
	p.Type("#check_code", pc.code())
	p.Click("#approve")
	p.WaitVisible("#result.approved")
}

// wrong types a number that the other screen does not show.
func wrong(p *chromium.Page, code string) {
	p.Type("#check_code", code)
	p.Click("#approve")
}

// other returns a number that is none of the right one's.
func other(code string, i int) string {
	for n := 10 + i; ; n++ {
		if wrong := fmt.Sprint(n); wrong != code {
			return wrong
		}
	}
}

// TestBrowserMobileScan looks through the camera at the screen of another browser. The tests of
// one camera run one after another.
func TestBrowserMobileScan(t *testing.T) {
	t.Parallel()
	feed := chromium.NewFeed(t)
	camera := chromium.New(t, chromium.Options{Feed: feed})

	for _, dark := range []bool{false, true} {
		t.Run(fmt.Sprintf("direct door dark=%v", dark), func(t *testing.T) {
			o := aPhone()
			o.Dark = dark
			scanDirect(t, camera.Page(t, o), feed)
		})
	}

	t.Run("report, dark, Chinese", func(t *testing.T) {
		k := openPocket(t, providertest.Options{})
		o := aPhone()
		o.Dark, o.Language = true, "zh-CN"
		p := k.signIn(camera.Page(t, o))
		look(t, p, "1-home")
		p.Click("#scan")
		pc := k.open("cli")
		feed.Show(pc.photograph())
		p.WaitVisible("#deny")
		look(t, p, "2-card")
		p.WaitText("要登录另一台设备吗？")
		if chromium.Eval[string](p, "document.documentElement.lang") != "zh-CN" {
			t.Error("the page does not say its language")
		}
		p.Click("#report")
		p.WaitVisible("#result.reported")
		look(t, p, "3-reported")
		pc.wantError("access_denied")
	})

	t.Run("rotation", func(t *testing.T) {
		k := openPocket(t, providertest.Options{})
		p := k.signIn(camera.Page(t, aPhone()))
		p.Expect("status of 409")
		feed.Clear()
		p.Click("#scan")
		pc := k.open("cli")
		old := pc.photograph()
		k.Clock.Advance(25 * time.Second)
		feed.Show(old)
		p.WaitText("has changed. Scan again.")
		look(t, p, "stale")
		pc.frame(pc.poll())
		feed.Show(pc.photograph())
		p.Click("#scan_again")
		p.WaitVisible("#deny")
		approve(p, pc)
		pc.wantTokens()
	})

	t.Run("wrong number three times", func(t *testing.T) {
		k := openPocket(t, providertest.Options{})
		p := k.signIn(camera.Page(t, aPhone()))
		p.Expect("status of 422")
		pc := k.open("cli")
		feed.Show(pc.photograph())
		p.Click("#scan")
		p.WaitVisible("#deny")
		code := pc.code()
		for i := range 2 {
			wrong(p, other(code, 20*i))
			p.WaitText(fmt.Sprintf("Tries left: %d.", 2-i))
			if i == 0 {
				look(t, p, "wrong")
			}
			if !chromium.Eval[bool](p, "document.activeElement.id === 'check_code' && document.activeElement.value === ''") {
				t.Error("the field is not ready for another try")
			}
		}
		wrong(p, other(code, 60))
		p.WaitText("wrong too often")
		look(t, p, "aborted")
		pc.wantError("access_denied")
	})
}

// scanDirect is the whole way at the direct door: sign-in, the code of somebody else, the code of
// the other device, the card, the number, the tokens.
func scanDirect(t *testing.T, p *chromium.Page, feed *chromium.Feed) {
	t.Helper()
	clients := providertest.Clients()
	for _, c := range clients {
		c.Resources = []string{"https://deploy.example/api"}
	}
	k := openPocket(t, providertest.Options{Clients: clients})
	p.Navigate(k.app + "/")
	p.WaitVisible("#sign_in")
	look(t, p, "0-welcome")
	k.signIn(p)
	look(t, p, "1-home")
	feed.Clear()
	p.Click("#scan")
	p.WaitFor("seen('video').videoWidth > 0")
	look(t, p, "2-scanner")

	// The code of somebody else is named as such, and not followed.
	foreign, err := qrcode.Encode("https://elsewhere.example/Q#1"+strings.Repeat("A", 44), qrcode.Medium, 400)
	if err != nil {
		t.Fatal(err)
	}
	feed.Show(foreign)
	p.WaitText("This is not a code of " + k.Issuer)
	look(t, p, "3-foreign")
	if p.URL() != k.app+"/" {
		t.Errorf("the page went to %s", p.URL())
	}

	pc := k.open("cli", "device_name", "Alice's laptop", "binding_message", "Order 4711", "resource", "https://deploy.example/api")
	feed.Show(pc.photograph())
	p.WaitVisible("#deny")
	look(t, p, "4-card")
	if got := chromium.Eval[string](p, "document.activeElement.tagName"); got != "H1" {
		t.Errorf("the focus is on %s, not on the question", got)
	}
	if chromium.Eval[bool](p, "[...document.querySelectorAll('button, input')].some(e => Math.max(e.getBoundingClientRect().height, (e.closest('label') ?? e).getBoundingClientRect().height) < 44)") {
		t.Error("something to tap is smaller than 44 pixels")
	}
	for _, want := range []string{"Command Line", "name not verified", "Alice’s laptop", "which nobody has checked", "Order 4711", "https://deploy.example/api", "Another device is being signed in", "See your name and profile", "Another device will be signed in to Command Line as you."} {
		p.WaitText(strings.ReplaceAll(want, "’", "'"))
	}
	if !chromium.Eval[bool](p, "document.getElementById('approve').disabled") {
		t.Error("approving is possible without the number")
	}
	if first := chromium.Eval[string](p, "document.querySelector('main button').id"); first != "deny" {
		t.Errorf("the first button is %q", first)
	}
	approve(p, pc)
	look(t, p, "5-approved")
	pc.wantTokens()

	// Too late to take it back: it says so.
	p.Expect("410")
	p.Click("#undo")
	p.WaitText("signed in already")
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, path := range k.sent {
		if path != "/" && path != "/decode" && path != "/sw.js" && path != "/devices" && !strings.HasPrefix(path, "/static/") && path != "/favicon.ico" {
			t.Errorf("the application's server was asked for %s", path)
		}
	}
}

// TestBrowserMobileHosted approves on the real sign-in page of the provider.
func TestBrowserMobileHosted(t *testing.T) {
	t.Parallel()
	feed := chromium.NewFeed(t)
	camera := chromium.New(t, chromium.Options{Feed: feed})
	k := openPocket(t, providertest.Options{Clients: []*storage.Client{{
		ID: "shop", Name: "Corner Shop", FirstParty: true, SecretHashes: providertest.Clients()[0].SecretHashes,
		RedirectURIs: []string{"http://localhost:1/callback"}, GrantTypes: []string{"authorization_code"}, Scopes: []string{"openid", "profile"},
		QR: storage.QRPolicy{Enabled: true, AllowedScopes: []string{"openid", "profile"}},
	}}})
	_, challenge := providertest.Verifier()
	query := providertest.AuthorizeQuery("shop", "openid profile", challenge)
	query.Set("redirect_uri", "http://localhost:1/callback")
	pc := browsers.Page(t, chromium.PageOptions{Width: 700, Height: 720})
	pc.Navigate(k.Issuer + "/authorize?" + query.Encode())
	pc.WaitVisible("#qr-image")
	o := aPhone()
	o.Dark = true
	p := k.signIn(camera.Page(t, o))
	p.Click("#scan")
	feed.Show(cut(t, pc, "#qr-image"))
	p.WaitVisible("#deny")
	look(t, p, "card")
	p.WaitText("Its address bar must show " + k.Issuer)
	p.WaitText("(http://localhost:1)")
	p.Click("input[value=profile]")
	p.Type("#check_code", pc.Text("#check-code"))
	p.Click("#approve")
	p.WaitVisible("#result.approved")
	// Until the other device goes on, the person may still take it back.
	pc.WaitVisible("#qr-continue")
	p.Click("#undo")
	p.WaitVisible("#result.reported")
	pc.WaitText("denied or stopped")
}

// TestBrowserMobileNoCamera is about phones that cannot scan; each leads to the typed code.
func TestBrowserMobileNoCamera(t *testing.T) {
	t.Parallel()
	k := openPocket(t, providertest.Options{})
	for name, row := range map[string]struct {
		says string
		page func(t *testing.T) *chromium.Page
	}{
		"no camera": {"has no camera", func(t *testing.T) *chromium.Page { t.Helper(); return browsers.Page(t, aPhone()) }},
		"refused": {"have not allowed the camera", func(t *testing.T) *chromium.Page {
			t.Helper()
			return chromium.New(t, chromium.Options{DenyCamera: true}).Page(t, aPhone())
		}},
		"insecure": {"works on https pages only", func(t *testing.T) *chromium.Page { t.Helper(); return browsers.Page(t, aPhone()) }},
	} {
		t.Run(name, func(t *testing.T) {
			p := k.signIn(row.page(t))
			if name == "insecure" {
				// What a page without a secure context finds.
				chromium.Eval[bool](p, "Object.defineProperty(navigator, 'mediaDevices', { value: undefined }), true")
			}
			p.Click("#scan")
			p.WaitText(row.says)
			look(t, p, "fault")
			p.Click("#type_instead")
			pc := k.open("cli")
			typed(p, strings.ToLower(strings.ReplaceAll(pc.userCode, "-", " ")))
			p.WaitText("You typed the code.")
			look(t, p, "card")
			approve(p, pc)
			pc.wantTokens()
		})
	}
}
