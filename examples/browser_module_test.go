package examples_test

import (
	"fmt"
	"html/template"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/examples/internal/chromium"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// lobby is a page of a relying party that shows a QR code of its own, with the module of the
// provider and nothing else.
const lobby = `<!doctype html><html lang="en"><meta charset="utf-8"><title>Lobby</title><link rel="icon" href="data:">
<h1>Lobby</h1><p role="status" id="state"></p><img id="qr-image" width="320" height="320" alt="QR code to scan with your app" hidden>
<p id="user-code"></p><p><strong id="check-code"></strong></p>
<script type="module" nonce="page">
const { signIn } = await import({{.Issuer}} + '/static/qrgrant.js');
const at = (id) => document.getElementById(id);
window.told = [], window.ways = [];
try {
  const login = await signIn({ issuer: {{.Issuer}}, clientId: 'lobby', scope: 'openid profile', nonce: 'n-1', deviceName: 'Lobby', ways: {{.Ways}} });
  window.login = login;
  at('user-code').textContent = login.code().userCode;
  for (const type of ['qr', 'scanned', 'approved', 'tokens', 'denied', 'expired', 'cancelled', 'replaced', 'failed']) {
    login.addEventListener(type, ({ detail }) => {
      told.push({ ...detail, type });
      at('state').textContent = type;
      at('qr-image').hidden = type !== 'qr';
      if (type === 'qr') at('qr-image').src = detail.qr.image;
      at('check-code').textContent = detail.check_code || '';
    });
  }
  login.addEventListener('connection', ({ detail }) => ways.push(detail.transport + (detail.live ? '' : ' lost')));
} catch (error) {
  at('state').textContent = 'error: ' + (error.error || error.message);
}
</script>`

// lobbyPolicy is what such a page must allow: the provider's script and answers, and pictures in
// messages.
func lobbyPolicy(issuer string) string {
	socket := strings.Replace(issuer, "http", "ws", 1)
	return "default-src 'none'; script-src 'nonce-page' " + issuer + "; connect-src " + issuer + " " + socket + "; img-src data:"
}

// openLobby runs a provider behind a front, and the lobby at an origin of its own.
func openLobby(t *testing.T, issuer string, o providertest.Options) (b *shop, visit func(ways ...string) *chromium.Page) {
	t.Helper()
	page := httptest.NewUnstartedServer(nil)
	origin := "http://localhost:" + strings.TrimPrefix(page.Listener.Addr().String(), "127.0.0.1:")
	o.HTTP = true
	o.Clients = append(o.Clients, &storage.Client{
		ID: "lobby", Name: "Lobby", RedirectURIs: []string{origin + "/"},
		GrantTypes: []string{"urn:qrgrant:params:oauth:grant-type:qr_code"}, Scopes: []string{"openid", "profile"},
		QR: storage.QRPolicy{Enabled: true},
	})
	b = openShopAt(t, issuer, o, nil)
	page.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", lobbyPolicy(b.Issuer))
		_ = template.Must(template.New("").Parse(lobby)).Execute(w, map[string]any{"Issuer": b.Issuer, "Ways": r.URL.Query()["way"]})
	})
	page.Start()
	t.Cleanup(page.Close)
	return b, func(ways ...string) *chromium.Page {
		t.Helper()
		p := browsers.Page(t, chromium.PageOptions{})
		p.Navigate(origin + "/?" + url.Values{"way": ways}.Encode())
		return p
	}
}

// told is what the module told its page, without what is said again with another frame.
func told(p *chromium.Page) []string {
	return slices.Compact(chromium.Eval[[]string](p, "told.map(m => m.type)"))
}

// watchAnswers counts the streams that have begun to speak from now on.
const watchAnswers = `window.answers = 0;
const sent = fetch, Socket = WebSocket;
window.fetch = (...request) => sent(...request).then((answer) => (answers++, answer));
window.WebSocket = class extends Socket { constructor(url) { super(url); this.addEventListener('message', () => answers++); } };
true`

// TestBrowserModule signs a page of another origin in, waiting in each of the ways, and cut off
// in every state.
func TestBrowserModule(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"sse", "ws", "poll"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			f := newFront(t)
			b, visit := openLobby(t, f.url(), providertest.Options{})
			f.lead(b.HTTP.Listener.Addr().String())
			cut := func() {
				f.cut()
				b.HTTP.Client().CloseIdleConnections()
				b.Clock.Advance(6 * time.Second) // a poll that was cut counts
			}
			phone, p := b.telephone(), visit(way)
			p.Expect("ERR_") // what the browser says of a cut
			p.Expect("status of 400")
			p.Expect("WebSocket connection to")
			if way != "poll" {
				p.WaitFor("window.ways && ways.length > 0")
			}
			p.WaitVisible("#qr-image")
			cut()
			scan := phone.scan(p)
			number := p.Text("#check-code")
			chromium.Eval[bool](p, watchAnswers)
			cut()
			if way != "poll" { // whose answer is held
				p.WaitFor("answers > 0")
				chromium.Eval[int](p, "new Promise(done => setTimeout(done, 100, 0))")
			}
			phone.decide(scan, "approve", number)
			p.WaitFor("told.some(m => m.type === 'tokens')")
			want := []string{"qr", "scanned", "approved", "tokens"}
			if way == "poll" {
				want = []string{"qr", "scanned", "tokens"} // the poll itself redeems
			}
			if diff := cmp.Diff(want, told(p)); diff != "" {
				t.Error(diff)
			}
			if scanned := chromium.Eval[int](p, "told.filter(m => m.type === 'scanned').length"); scanned != 1 {
				t.Errorf("told %d times that it was scanned", scanned)
			}
			if ways := chromium.Eval[[]string](p, "ways"); slices.ContainsFunc(ways, func(w string) bool { return !strings.HasPrefix(w, way) }) {
				t.Errorf("it waited by %q", ways)
			}
			access := chromium.Eval[string](p, "told.at(-1).access_token")
			if reply := b.Bearer(t.Context(), "/userinfo", access); reply.Text("name") != "Alice Arden" {
				t.Errorf("userinfo: %d %s", reply.Status, reply.Body)
			}
		})
	}
}

// TestBrowserModuleEnds are the ends that are no sign-in, and what cannot begin.
func TestBrowserModuleEnds(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		end  func(b *shop, phone telephone, p *chromium.Page)
		want []string
	}{
		"denied": {func(_ *shop, phone telephone, p *chromium.Page) { phone.decide(phone.scan(p), "deny", "") }, []string{"qr", "scanned", "denied"}},
		"denied while away": {func(_ *shop, phone telephone, p *chromium.Page) {
			chromium.Eval[bool](p, "dispatchEvent(new PageTransitionEvent('pagehide'))")
			scan := phone.scan(p)
			phone.decide(scan, "deny", "")
			chromium.Eval[bool](p, "dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
		}, []string{"qr", "denied"}},
		"expired": {func(b *shop, _ telephone, _ *chromium.Page) { b.Clock.Advance(5 * time.Minute) }, []string{"qr", "expired"}},
		"cancelled": {func(b *shop, phone telephone, p *chromium.Page) {
			payload := p.DecodeQR("#qr-image")
			chromium.Eval[bool](p, "login.cancel().then(() => true)")
			if reply := phone.try("/qr/scan", map[string]any{"payload": payload, "entry": "scanner"}); reply.Status != http.StatusGone {
				b.t.Errorf("scanned after all: %d", reply.Status)
			}
		}, []string{"qr"}},
		"replaced": {func(b *shop, _ telephone, p *chromium.Page) {
			// The second page is one that was made from the first: only it knows the device_code.
			chromium.Eval[bool](p, `Promise.resolve(window.first).then(([url, options]) => { sent(url, { ...options, signal: undefined }); return true; })`)
			p.WaitFor("told.at(-1).type === 'replaced'")
			chromium.Eval[bool](p, "dispatchEvent(new Event('online')), dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
			chromium.Eval[int](p, "new Promise(done => setTimeout(done, 200, 0))")
			if asked := chromium.Eval[int](p, "streams"); asked != 1 {
				b.t.Errorf("asked for %d streams", asked)
			}
		}, []string{"qr", "replaced"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, visit := openLobby(t, "", providertest.Options{})
			phone, p := b.telephone(), visit("sse", "poll")
			p.WaitFor("window.ways && ways.length > 0")
			if name == "replaced" {
				chromium.Eval[bool](p, `window.sent = fetch, window.streams = 0,
					window.fetch = (url, options) => { streams++; window.first = window.first || [url, options]; return sent(url, options); },
					dispatchEvent(new Event('online'))`)
				p.WaitFor("streams === 1")
			}
			row.end(b, phone, p)
			last := row.want[len(row.want)-1]
			p.WaitFor(fmt.Sprintf("told.at(-1).type === %q", last))
			if diff := cmp.Diff(row.want, told(p)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestBrowserModuleWithheld falls back to polls at the direct door too.
func TestBrowserModuleWithheld(t *testing.T) {
	t.Parallel()
	w := newWithholding(t)
	b, visit := openLobby(t, w.URL, providertest.Options{})
	w.lead(t, b.HTTP.URL)
	phone, p := b.telephone(), visit("sse", "poll")
	p.Expect("status of 400") // a poll that finds nothing yet
	p.WaitVisible("#qr-image")
	scan := phone.scan(p)
	phone.decide(scan, "approve", p.Text("#check-code"))
	p.WaitFor("told.some(m => m.type === 'tokens')")
	if streams := w.count("/qr/events"); streams != 1 {
		t.Errorf("%d streams", streams)
	}
}

// TestBrowserModuleForeign is a page whose origin is none of the client's: it learns nothing.
func TestBrowserModuleForeign(t *testing.T) {
	t.Parallel()
	b, _ := openLobby(t, "", providertest.Options{})
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = template.Must(template.New("").Parse(lobby)).Execute(w, map[string]any{"Issuer": b.Issuer, "Ways": []string{"sse"}})
	}))
	t.Cleanup(page.Close)
	p := browsers.Page(t, chromium.PageOptions{})
	p.Expect("blocked by CORS policy")
	p.Expect("ERR_FAILED")
	p.Navigate(page.URL)
	p.WaitText("error: Failed to fetch")
}
