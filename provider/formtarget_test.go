package provider_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// An address of IPv6 is no source of a content security policy (CSP Level 3 §2.3.1), and browsers
// apply form-action to the redirect that follows a form.
func TestFormsMayLeadToLoopbackOfIPv6(t *testing.T) {
	t.Parallel()
	native := &storage.Client{ID: "native", Name: "Native", RedirectURIs: []string{"http://[::1]/callback", "http://127.0.0.1/callback"}, Scopes: []string{"openid"}}
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{native}})
	for redirect, want := range map[string]string{
		"http://[::1]:4711/callback":     "form-action 'self' http:",
		"http://127.0.0.1:4711/callback": "form-action 'self' http://127.0.0.1:4711",
	} {
		browser := s.Browser()
		page := ask(t, s, browser, "native", "redirect_uri", redirect)
		consent := s.SignIn(t.Context(), browser, page)
		for name, reply := range map[string]*providertest.Reply{"sign-in": page, "consent": consent} {
			if csp := reply.Header.Get("Content-Security-Policy"); reply.Status != http.StatusOK || !strings.HasSuffix(csp, want) {
				t.Errorf("%s for %s: %d %q", name, redirect, reply.Status, csp)
			}
		}
		origin := strings.TrimSuffix(redirect, "/callback")
		if !strings.Contains(consent.Body, origin) {
			t.Errorf("the consent page does not name %s", origin)
		}
		post := ask(t, s, browser, "native", "redirect_uri", redirect, "response_mode", "form_post", "prompt", "none")
		if csp := post.Header.Get("Content-Security-Policy"); !strings.HasSuffix(csp, strings.Replace(want, "'self' ", "", 1)) {
			t.Errorf("form_post to %s: %q", redirect, csp)
		}
	}
}
