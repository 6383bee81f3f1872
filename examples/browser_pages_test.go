package examples_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/qrgrant/qrgrant/examples/internal/chromium"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// TestBrowserPassword signs in with the password at a third party, which the person refuses and
// then allows.
func TestBrowserPassword(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]chromium.PageOptions{
		"script":    {},
		"no script": {NoScript: true, Dark: true},
		"Chinese":   {Language: "zh", Width: 390, Height: 844, Scale: 2, Mobile: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openShop(t, providertest.Options{HTTP: true}, func(c *storage.Client) {
				c.FirstParty = false
				c.QR = storage.QRPolicy{}
			})
			p := b.visit(o)
			look(t, p, "1-sign-in")
			b.password(p, "wrong")
			p.WaitVisible("#sign-in-error")
			look(t, p, "2-wrong")
			b.password(p, providertest.AlicePassword)
			p.WaitVisible("#allow")
			look(t, p, "3-consent")
			p.Expect("400") // the application's answer to a refusal
			p.Click("#cancel")
			p.WaitURL(b.app + "/callback?")
			p.WaitText("The sign-in failed")
			if at := p.URL(); !strings.Contains(at, "error=access_denied") {
				t.Errorf("the application was told %s", at)
			}

			p.Navigate(b.app + "/login")
			p.Click("#allow")
			b.signedIn(p)
		})
	}
}

// TestBrowserFormPost gets the answer as a form (OAuth 2.0 Form Post Response Mode).
func TestBrowserFormPost(t *testing.T) {
	t.Parallel()
	for _, noScript := range []bool{false, true} {
		b := openShop(t, providertest.Options{HTTP: true}, nil)
		p := browsers.Page(t, chromium.PageOptions{NoScript: noScript, Dark: true})
		p.Navigate(b.authorizeURL("response_mode", "form_post", "redirect_uri", b.form))
		b.password(p, providertest.AlicePassword)
		if noScript {
			p.WaitText("You are going back to Corner Shop")
			look(t, p, "form-post")
			p.Click("#continue")
		}
		p.WaitURL(b.form)
		if state, code := p.Text("#state"), p.Text("#code"); state != "state-of-a-test" || code == "" {
			t.Errorf("posted state %q, code %q", state, code)
		}
	}
}

// TestBrowserSignOut signs out from the application and at the provider.
func TestBrowserSignOut(t *testing.T) {
	t.Parallel()
	for _, noScript := range []bool{false, true} {
		b := openShop(t, providertest.Options{HTTP: true}, nil)
		p := b.visit(chromium.PageOptions{NoScript: noScript})
		b.password(p, providertest.AlicePassword)
		b.signedIn(p)
		p.Click("button")
		if noScript {
			p.WaitURL(b.Issuer + "/logout?")
			p.WaitText("Corner Shop asks to sign you out.")
			look(t, p, "asked-by-application")
			p.Click("#sign-out")
		}
		p.WaitURL(b.app + "/")
		p.WaitVisible(`a[href="/login"]`)

		p.Click(`a[href="/login"]`)
		b.password(p, providertest.AlicePassword)
		b.signedIn(p)
		p.Navigate(b.Issuer + "/logout")
		look(t, p, "asked")
		p.Click("#stay")
		p.WaitVisible("#result")
		look(t, p, "stayed")
		p.Navigate(b.Issuer + "/logout")
		p.Click("#sign-out")
		p.WaitVisible("#result")
		look(t, p, "signed-out")
	}
}

// TestBrowserDevice connects the television on a phone without the app.
func TestBrowserDevice(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]chromium.PageOptions{
		"script":    {Width: 390, Height: 844, Scale: 2, Mobile: true},
		"no script": {Width: 360, Height: 640, Scale: 2, Mobile: true, NoScript: true, Dark: true},
		"Chinese":   {Width: 390, Height: 844, Scale: 2, Mobile: true, Language: "zh-CN"},
		"desktop":   {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openShop(t, providertest.Options{HTTP: true}, nil)
			userCode, poll := b.opened()
			p := browsers.Page(t, o)
			p.Navigate(b.Issuer + "/Q")
			look(t, p, "0-q")
			p.Type("#user_code", strings.ToLower(userCode))
			p.Click("#continue")
			p.WaitURL(b.Issuer + "/device?user_code=")
			look(t, p, "1-sign-in")
			b.password(p, providertest.AlicePassword)
			p.WaitVisible("#user_code")
			look(t, p, "2-code")
			p.Type("#user_code", "BBBB-BBBB")
			p.Click("#continue")
			p.WaitVisible("#device-error")
			look(t, p, "3-unknown-code")
			p.Type("#user_code", userCode)
			p.Click("#continue")
			p.WaitVisible("#approve")
			look(t, p, "4-card")
			if got := p.Text("#code-shown"); got != userCode {
				t.Errorf("the card shows %q, the television %q", got, userCode)
			}
			p.Click("#approve")
			p.WaitVisible("#result")
			look(t, p, "5-result")
			if reply := poll(); reply.Status != http.StatusOK || reply.Text("id_token") == "" {
				t.Errorf("the television got %d %s", reply.Status, reply.Body)
			}
			if wide := chromium.Eval[int](p, "document.documentElement.scrollWidth - document.documentElement.clientWidth"); wide > 0 {
				t.Errorf("the page is %d pixels too wide", wide)
			}
		})
	}
}

// TestBrowserErrorPage is shown where no client may be trusted with the error.
func TestBrowserErrorPage(t *testing.T) {
	t.Parallel()
	b := openShop(t, providertest.Options{HTTP: true}, nil)
	for name, o := range map[string]chromium.PageOptions{"script": {}, "Chinese": {Language: "zh", Dark: true}} {
		p := browsers.Page(t, o)
		p.Expect("400")
		p.Navigate(b.authorizeURL("redirect_uri", "https://elsewhere.example/"))
		p.WaitVisible("#error-id")
		look(t, p, name)
		if !strings.HasPrefix(p.URL(), b.Issuer) {
			t.Errorf("the browser was led to %s", p.URL())
		}
	}
}
