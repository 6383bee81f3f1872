package examples_test

import (
	"net/http"
	"testing"

	"github.com/qrgrant/qrgrant/examples/internal/chromium"
	"github.com/qrgrant/qrgrant/provider/providertest"
)

// TestBrowserAccount is a person who finds a sign-in that the phone approved, ends it, takes back
// what an application was allowed, and then loses the phone.
func TestBrowserAccount(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]chromium.PageOptions{
		"script":    {},
		"no script": {NoScript: true, Dark: true, Width: 360, Height: 640, Scale: 2, Mobile: true},
		"Chinese":   {Language: "zh-CN", Width: 390, Height: 844, Scale: 2, Mobile: true},
		"dark":      {Dark: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openShop(t, providertest.Options{HTTP: true}, nil)
			b.SignedIn(t.Context(), b.Browser(), "thirdparty", "openid email offline_access")
			phone := b.telephone()
			pc := b.visit(chromium.PageOptions{})
			phone.approve(pc)
			pc.Click("#qr-continue")
			b.signedIn(pc)

			// The PC was signed in by another device: it may not look after the account.
			pc.Navigate(b.Issuer + "/account")
			pc.WaitText("You are signed in here by another device.")
			look(t, pc, "0-another-device")

			p := browsers.Page(t, o)
			p.Navigate(b.Issuer + "/account")
			look(t, p, "1-sign-in")
			b.password(p, providertest.AlicePassword)
			p.WaitVisible("#sign-ins")
			look(t, p, "2-account")
			p.Click(`#sign-ins button[aria-label$=": Corner Shop"]`)
			done(p, "end")
			look(t, p, "3-ended")
			p.WaitFor(`!document.querySelector('#sign-ins').textContent.includes('Corner Shop')`)

			// Within the second the PC is nobody's any more, and its page says so.
			pc.Navigate(b.authorizeURL())
			pc.WaitVisible("#sign-in")

			p.Click(`#consents button[aria-label$=": Third Party"]`)
			done(p, "withdraw")
			p.WaitFor(`!document.querySelector('#consents').textContent.includes('Third Party')`)

			phone.approve(pc)
			p.Navigate(b.Issuer + "/account")
			p.Click("#phones summary")
			p.WaitVisible("#phones button.lost")
			look(t, p, "4-lost-phone")
			p.Click("#phones button.lost")
			done(p, "lost")
			p.WaitFor(`!document.querySelector('#phones')`)
			if reply := b.Bearer(t.Context(), "/userinfo", phone.token); reply.Status != http.StatusUnauthorized {
				t.Errorf("the phone: %d %s", reply.Status, reply.Body)
			}

			p.Click("#others-ask")
			p.WaitVisible("#others")
			look(t, p, "5-others")
			p.Click("#others")
			done(p, "others")
			p.WaitFor(`!document.querySelector('#others') && document.querySelectorAll('#sign-ins > li').length === 1`)
			look(t, p, "6-alone")
			p.Click("#sign-out")
			p.WaitVisible("#result")
		})
	}
}

// done waits until the account page says what was just done.
func done(p *chromium.Page, what string) {
	p.WaitFor(`document.querySelector('#done') && location.search.startsWith('?done=` + what + `&')`)
}
