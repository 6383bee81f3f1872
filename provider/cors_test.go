package provider_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

const (
	webOrigin   = "https://web.example"
	otherOrigin = "https://spa.example"
	alienOrigin = "https://alien.example"
)

// corsServer has, beside the web client, a client of another origin and one that is disabled.
func corsServer(t *testing.T) *providertest.Server {
	t.Helper()
	return providertest.NewServer(t, providertest.Options{Path: "/id", Clients: []*storage.Client{
		{ID: "spa", Name: "Script", RedirectURIs: []string{"https://SPA.example:443/callback", "com.example.app:/callback"}, Scopes: []string{"openid"}},
		{ID: "off", Name: "Off", RedirectURIs: []string{alienOrigin + "/callback"}, Disabled: true},
	}})
}

// fromOrigin sends a request of script.
func fromOrigin(t *testing.T, s *providertest.Server, method, path, origin string, form url.Values, header map[string]string) *providertest.Reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL(path), strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", origin)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	return s.Do(s.Client(), req)
}

// A preflight passes for any registered origin, at the endpoints that live without cookies.
func TestCORSPreflight(t *testing.T) {
	t.Parallel()
	s := corsServer(t)
	ask := map[string]string{"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,dpop,prefer,content-type"}
	for path, methods := range map[string]string{
		"/token": "POST", "/par": "POST", "/userinfo": "GET, POST", "/introspect": "POST", "/revoke": "POST",
		"/device_authorization": "POST", "/qr/scan": "POST", "/qr/decision": "POST", "/qr/cancel": "POST", "/qr/events": "POST",
	} {
		for _, origin := range []string{webOrigin, otherOrigin} {
			reply := fromOrigin(t, s, http.MethodOptions, path, origin, nil, ask)
			if reply.Status != http.StatusNoContent || reply.Header.Get("Access-Control-Allow-Origin") != origin {
				t.Errorf("%s from %s: %d %v", path, origin, reply.Status, reply.Header)
			}
			if got := reply.Header.Get("Access-Control-Allow-Methods"); got != methods {
				t.Errorf("%s: methods %q, want %q", path, got, methods)
			}
			for _, name := range []string{"authorization", "dpop", "prefer", "content-type"} {
				if !strings.Contains(strings.ToLower(reply.Header.Get("Access-Control-Allow-Headers")), name) {
					t.Errorf("%s: header %s is not allowed", path, name)
				}
			}
		}
		for _, origin := range []string{alienOrigin, "null", "http://web.example", "https://web.example:444", "https://web.example.evil.example", "com.example.app:"} {
			reply := fromOrigin(t, s, http.MethodOptions, path, origin, nil, ask)
			if reply.Status != http.StatusForbidden || reply.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s from %s: %d %v", path, origin, reply.Status, reply.Header)
			}
		}
	}
}

// A preflight learns of a new client within seconds, and of one that is switched off.
func TestCORSPreflightFollowsTheClients(t *testing.T) {
	t.Parallel()
	s := corsServer(t)
	status := func() int {
		return fromOrigin(t, s, http.MethodOptions, "/token", alienOrigin, nil, map[string]string{"Access-Control-Request-Method": "POST"}).Status
	}
	for _, disabled := range []bool{true, false, true} {
		err := s.Store.PutClient(t.Context(), &storage.Client{ID: "off", RedirectURIs: []string{alienOrigin + "/callback"}, Disabled: disabled})
		if err != nil {
			t.Fatal(err)
		}
		s.Clock.Advance(10 * time.Second)
		if passes := status() == http.StatusNoContent; passes == disabled {
			t.Errorf("disabled %t: passes %t", disabled, passes)
		}
	}
}

// An answer is readable for the origins of its own client only, and never with credentials.
func TestCORSAnswer(t *testing.T) {
	t.Parallel()
	s := corsServer(t)
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid")
	expired := s.SignedIn(t.Context(), s.Browser(), "web", "openid")
	s.PostAs(t.Context(), "web", "/revoke", url.Values{"token": {expired.AccessToken}})
	secret := url.Values{"client_id": {"web"}, "client_secret": {providertest.ClientSecret}, "token": {tokens.AccessToken}}
	wrong := url.Values{"client_id": {"web"}, "client_secret": {"wrong"}, "grant_type": {"refresh_token"}, "refresh_token": {"x"}}
	for name, row := range map[string]struct {
		method, path, origin string
		form                 url.Values
		bearer               string
		readable             bool
	}{
		"userinfo for the client's origin":             {"GET", "/userinfo", webOrigin, nil, tokens.AccessToken, true},
		"userinfo for another client's origin":         {"GET", "/userinfo", otherOrigin, nil, tokens.AccessToken, false},
		"userinfo for nobody's origin":                 {"GET", "/userinfo", alienOrigin, nil, tokens.AccessToken, false},
		"userinfo with a dead token":                   {"GET", "/userinfo", webOrigin, nil, expired.AccessToken, true},
		"userinfo with an unknown token":               {"GET", "/userinfo", webOrigin, nil, "qrg_at_unknown", false},
		"introspection for the client's origin":        {"POST", "/introspect", webOrigin, secret, "", true},
		"introspection for another client's origin":    {"POST", "/introspect", otherOrigin, secret, "", false},
		"the token endpoint with a wrong secret":       {"POST", "/token", webOrigin, wrong, "", true},
		"the token endpoint for another's origin":      {"POST", "/token", otherOrigin, wrong, "", false},
		"a phone endpoint for the client's origin":     {"POST", "/qr/scan", webOrigin, nil, tokens.AccessToken, true},
		"a phone endpoint for another client's origin": {"POST", "/qr/scan", otherOrigin, nil, tokens.AccessToken, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			header := map[string]string{}
			if row.bearer != "" {
				header["Authorization"] = "Bearer " + row.bearer
			}
			reply := fromOrigin(t, s, row.method, row.path, row.origin, row.form, header)
			want := ""
			if row.readable {
				want = row.origin
			}
			if got := reply.Header.Get("Access-Control-Allow-Origin"); got != want {
				t.Errorf("%d: allowed %q, want %q", reply.Status, got, want)
			}
			if reply.Header.Get("Access-Control-Allow-Credentials") != "" || !strings.Contains(reply.Header.Get("Vary"), "Origin") {
				t.Errorf("headers %v", reply.Header)
			}
		})
	}
}

// What lives by cookies answers no script of another origin.
func TestCORSNotOnTheHostedDoor(t *testing.T) {
	t.Parallel()
	s := corsServer(t)
	for _, path := range []string{"/authorize", "/login", "/login/qr/state", "/login/qr/continue", "/consent", "/device", "/logout", "/Q"} {
		for _, method := range []string{http.MethodOptions, http.MethodGet, http.MethodPost} {
			reply := fromOrigin(t, s, method, path, webOrigin, nil, map[string]string{"Access-Control-Request-Method": "POST"})
			if reply.Header.Get("Access-Control-Allow-Origin") != "" || reply.Status == http.StatusNoContent {
				t.Errorf("%s %s: %d %v", method, path, reply.Status, reply.Header)
			}
		}
	}
}

// Metadata and keys hold nothing personal, and an app of script begins with them.
func TestCORSMetadata(t *testing.T) {
	t.Parallel()
	s := corsServer(t)
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server", "/.well-known/qr-configuration", "/jwks"} {
		reply := fromOrigin(t, s, http.MethodGet, path, alienOrigin, nil, nil)
		if got := reply.Header.Get("Access-Control-Allow-Origin"); reply.Status != http.StatusOK || got != "*" {
			t.Errorf("%s: %d, allowed %q", path, reply.Status, got)
		}
	}
}
