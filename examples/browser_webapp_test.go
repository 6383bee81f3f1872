package examples_test

import (
	"testing"

	"github.com/qrgrant/qrgrant/examples/internal/chromium"
	"github.com/qrgrant/qrgrant/provider/providertest"
)

// TestBrowserWebapp looks at the application's own pages, in the light and in the dark.
func TestBrowserWebapp(t *testing.T) {
	t.Parallel()
	for name, dark := range map[string]bool{"light": false, "dark": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openShop(t, providertest.Options{HTTP: true}, nil)
			p := browsers.Page(t, chromium.PageOptions{Dark: dark})
			p.Navigate(b.app + "/")
			p.WaitVisible(`a[href="/login"]`)
			look(t, p, "0-nobody")
			p.Click(`a[href="/login"]`)
			p.WaitURL(b.Issuer + "/authorize?")
			b.password(p, providertest.AlicePassword)
			b.signedIn(p)
			look(t, p, "1-signed-in")
			p.Expect("status of 400")
			p.Navigate(b.app + "/callback?state=x")
			p.WaitVisible(`[role="alert"]`)
			look(t, p, "2-refused")
		})
	}
}
