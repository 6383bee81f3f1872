package examples_test

import (
	"net/url"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"github.com/qrgrant/qrgrant/examples/internal/chromium"
	"github.com/qrgrant/qrgrant/provider/providertest"
)

// TestBrowserQ scans with the phone's own camera, which opens the address in the browser: the
// frame leaves the address bar at once, and waits until its person has signed in.
func TestBrowserQ(t *testing.T) {
	t.Parallel()
	b := openShop(t, providertest.Options{HTTP: true}, nil)
	started := b.Post(t.Context(), b.Client(), "/device_authorization", url.Values{
		"client_id": {"cli"}, "scope": {"openid profile"}, "code_challenge_method": {"S256"},
		"code_challenge": {oauth2.S256ChallengeFromVerifier(oauth2.GenerateVerifier())},
	})
	shown, _ := started.JSON()["qr"].(map[string]any)
	frame, _ := shown["payload"].(string)
	p := browsers.Page(t, chromium.PageOptions{Width: 390, Height: 844, Scale: 2, Mobile: true})
	p.Navigate(frame)
	p.WaitVisible("#password")
	if _, secret, _ := strings.Cut(frame, "#"); strings.Contains(p.URL(), secret) || strings.Contains(p.URL(), "#") {
		t.Errorf("the frame stands in %s", p.URL())
	}
	b.password(p, providertest.AlicePassword)
	p.WaitURL(b.Issuer + "/Q/claim")
	p.WaitVisible("#continue")
	look(t, p, "0-hold")
	p.Click("#continue")
	p.WaitVisible("#approve")
	look(t, p, "1-card")

	p.Expect("status of 404")
	p.Navigate(b.Issuer + "/Q#1AAAA")
	p.WaitVisible("#q-error")
	look(t, p, "2-refused")
}
