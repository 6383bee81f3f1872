package examples_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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
}
