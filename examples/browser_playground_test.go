package examples_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/examples/internal/chromium"
)

// ground is a running `qrgrant dev` and its page in a browser.
type ground struct {
	t *testing.T
	// address is the page's with the key; issuer and phone are the origins beside it.
	address, issuer, web, phone, password string
	page, app                             *chromium.Page
}

// openGround starts qrgrant dev and opens its page.
func openGround(t *testing.T, o chromium.PageOptions, args ...string) *ground {
	t.Helper()
	if _, err := exec.LookPath("chromium"); err != nil {
		browsers.Page(t, o) // it says what is missing
	}
	dev := start(t, filepath.Join(build(t, "../cmd/qrgrant"), "qrgrant"), append([]string{"dev", "--addr", "127.0.0.1:0"}, args...)...)
	g := &ground{t: t}
	g.address = dev.await(t, `^Open (https?://\S+/#[A-Z2-7]{26})$`)
	g.issuer = dev.await(t, `serves (\S+) until`)
	g.web = dev.await(t, `web app +(\S+),`)
	g.phone = dev.await(t, `phone app +(\S+),`)
	g.password = dev.await(t, `alice, password (\S+)`)
	rest := make(chan error, 1)
	go func() { rest <- dev.drain() }()
	g.page = browsers.Page(t, o)
	t.Cleanup(func() {
		// The end of the test has asked it to end.
		if err := <-rest; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("dev: %v", err)
		}
	})
	g.page.Navigate(g.address)
	g.app = g.page.Frame(g.phone)
	// The phone's first proof has no nonce yet, which the console takes for a fault.
	for _, p := range []*chromium.Page{g.page, g.app} {
		p.Expect(g.issuer + "/token")
	}
	return g
}

// scan signs the phone in, begins on the left and hands the code over.
func (g *ground) scan() {
	g.t.Helper()
	g.app.Click("#sign_in")
	g.app.WaitVisible("#person")
	g.page.Click("#begin")
	g.page.WaitVisible("#qr")
	g.page.Click("#scan:not([disabled])")
	g.app.WaitVisible("#check_code")
}

// done lists the steps that are lit.
func (g *ground) done() string {
	g.t.Helper()
	return chromium.Eval[string](g.page, `[...document.querySelectorAll('#steps .done')].map(s => s.id.slice(5)).join(' ')`)
}

// TestPlayground signs the PC on the left in with the phone on the right, by clicks only.
func TestPlayground(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"sse", "ws", "poll"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			g := openGround(t, chromium.PageOptions{Width: 1440, Height: 900, Dark: way == "ws"})
			chromium.Eval[bool](g.page, fmt.Sprintf(`(() => { const s = document.querySelector('#way'); s.value = %q; s.dispatchEvent(new Event('change')); return true })()`, way))
			if way == "poll" {
				g.page.Expect("/token") // a pending answer is a 400, which the console takes for a fault
			}
			g.page.Screenshot("start")
			chromium.Axe(t, g.page)
			g.scan()
			code := g.page.Text("#check-code")
			if got := g.done(); got != "1 2 3 4 5 6 7 8 9 10" {
				g.page.WaitFor(`document.querySelectorAll('#steps .done').length === 10`)
			}
			g.app.Type("#check_code", code)
			g.page.Screenshot("scanned")
			chromium.Axe(t, g.page)
			g.app.Click("#approve")
			if name := g.page.Text("#person"); name != "Alice Example" {
				t.Errorf("signed in as %s", name)
			}
			g.page.WaitFor(`document.querySelectorAll('#steps .done').length === 14`)
			if got := g.done(); got != "1 2 3 4 5 6 7 8 9 10 11 12 13 14" {
				t.Errorf("steps %s", got)
			}
			g.page.Click(`#entries [data-path="/qr/scan"] summary`)
			g.page.Screenshot("signed-in")
			chromium.Axe(t, g.page)
			g.page.Click("#again")
			g.page.WaitVisible("#begin")
			g.page.WaitFor(`document.querySelector('#entries [data-path="/revoke"] .good') !== null`)
		})
	}
}

// TestPlaygroundDeny: the phone says no, and the page neither shows nor keeps a secret.
func TestPlaygroundDeny(t *testing.T) {
	t.Parallel()
	g := openGround(t, chromium.PageOptions{Width: 1280, Height: 800})
	g.scan()
	g.app.Click("#deny")
	g.page.WaitFor(`document.querySelector('#pc').dataset.state === 'denied'`)
	g.page.Click("#minor")
	all := chromium.Eval[string](g.page, `document.documentElement.outerHTML`)
	if strings.Contains(all, g.password) || !strings.Contains(all, "password=••••") {
		t.Error("the password is on the page, or its masked form is not")
	}
	g.page.Click("#pc #begin")
	g.page.WaitVisible("#qr")
	if got := g.done(); strings.Contains(got, "6") {
		t.Errorf("the steps of the sign-in before are lit: %s", got)
	}
	g.page.Click("#cancel")
	g.page.WaitVisible("#way")
}

// TestPlaygroundKey: without the key the page shows nothing.
func TestPlaygroundKey(t *testing.T) {
	t.Parallel()
	g := openGround(t, chromium.PageOptions{})
	origin, _, _ := strings.Cut(g.address, "#")
	for _, key := range []string{"", "#WRONG"} {
		other := browsers.Page(t, chromium.PageOptions{})
		other.Expect("401")
		other.Navigate(origin + key)
		other.WaitVisible("#trouble")
		if rows := chromium.Eval[int](other, `document.querySelectorAll('#entries > li').length`); rows != 0 {
			t.Errorf("key %q: %d exchanges", key, rows)
		}
	}
}

// TestPlaygroundLAN is the same over https with the certificate of the run.
func TestPlaygroundLAN(t *testing.T) {
	t.Parallel()
	g := openGround(t, chromium.PageOptions{Width: 1680, Height: 1000}, "--lan=127.0.0.1")
	for _, address := range []string{g.address, g.issuer, g.web, g.phone} {
		if !strings.HasPrefix(address, "https://127.0.0.1:") {
			t.Errorf("%s", address)
		}
	}
	g.page.Expect("ServiceWorker")
	g.scan()
	g.app.Type("#check_code", g.page.Text("#check-code"))
	g.app.Click("#approve")
	g.page.WaitFor(`document.querySelectorAll('#steps .done').length === 14`)
	g.page.Screenshot("wide")
	chromium.Axe(t, g.page)

	// The web application reaches the server over the same certificate.
	tab := browsers.Page(t, chromium.PageOptions{})
	tab.Navigate(g.web + "/login")
	tab.WaitURL(g.issuer + "/")
	tab.Type("#login", "alice")
	tab.Type("#password", g.password)
	tab.Click("#sign-in")
	tab.WaitURL(g.web + "/")
	tab.WaitText("Alice Example")

	// So does the server the application, which it tells of a sign-out.
	tab.Navigate(g.issuer + "/logout")
	tab.Click("#sign-out")
	tab.WaitFor(`document.readyState === 'complete' && document.querySelector('#sign-out') === null`)
	for over := time.After(20 * time.Second); ; {
		tab.Navigate(g.web + "/")
		if chromium.Eval[bool](tab, `document.querySelector('a[href="/login"]') !== null`) {
			break
		}
		select {
		case <-over:
			t.Fatal("the application was not told of the sign-out")
		default:
		}
	}
}

// TestPlaygroundWebapp: the PC is the example web application in another tab, and the code is typed.
func TestPlaygroundWebapp(t *testing.T) {
	t.Parallel()
	g := openGround(t, chromium.PageOptions{Width: 1280, Height: 800})
	g.app.Click("#sign_in")
	g.app.WaitVisible("#person")
	tab := browsers.Page(t, chromium.PageOptions{})
	tab.Navigate(g.web + "/login")
	tab.WaitVisible("#qr-image")
	g.app.Type("#code", tab.Text("#user-code"))
	g.app.Click("#continue")
	g.app.Type("#check_code", tab.Text("#check-code"))
	g.app.Click("#approve")
	tab.Click("#qr-continue")
	tab.WaitURL(g.web + "/")
	tab.WaitText("Alice Example")
	g.page.WaitFor(`document.querySelectorAll('#steps .done').length === 14`)
	g.page.WaitVisible("#entries .actor.app")
}

// TestPlaygroundMessages: neither side listens to anybody but the other.
func TestPlaygroundMessages(t *testing.T) {
	t.Parallel()
	g := openGround(t, chromium.PageOptions{Width: 1280, Height: 800})
	g.app.Click("#sign_in")
	g.app.WaitVisible("#person")
	g.page.Click("#begin")
	g.page.WaitVisible("#scan:not([disabled])")
	// Listeners run in turn: when this one hears its message, the page's own has.
	const send = `new Promise(heard => { addEventListener('message', () => heard(true), { once: true }); postMessage(%s, '*'); })`
	chromium.Eval[bool](g.page, fmt.Sprintf(send, `{ type: 'state', signedIn: false }`))
	if !chromium.Eval[bool](g.page, `!document.querySelector('#scan').disabled`) {
		t.Error("the page listens to itself as if it were the phone")
	}
	chromium.Eval[bool](g.app, `window.marked = true`)
	chromium.Eval[bool](g.app, fmt.Sprintf(send, fmt.Sprintf(`{ type: 'returned', address: '%s/?other' }`, g.phone)))

	// The page itself is heard, but what is not of this server is neither followed nor sent.
	chromium.Eval[bool](g.page, fmt.Sprintf(`(document.querySelector('#phone').contentWindow.postMessage({ type: 'returned', address: 'https://elsewhere.example/' }, %q), true)`, g.phone))
	chromium.Eval[bool](g.page, fmt.Sprintf(`(document.querySelector('#phone').contentWindow.postMessage({ type: 'scan', text: 'https://elsewhere.example/Q#1' }, %q), true)`, g.phone))
	g.app.WaitVisible("#fault")
	if sent := chromium.Eval[int](g.page, `document.querySelectorAll('#entries [data-path="/qr/scan"]').length`); sent != 0 {
		t.Error("a code of somebody else was sent")
	}
	g.page.Click("#scan")
	g.app.WaitVisible("#check_code")
	if !chromium.Eval[bool](g.app, `window.marked === true`) {
		t.Error("the phone listens to itself as if it were the page, or went where it was sent")
	}
}
