package provider_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

// FuzzTokenForm sends any body to the token endpoint: the answer is always JSON, never a
// failure of the server, and repeats nothing of what was sent.
func FuzzTokenForm(f *testing.F) {
	for _, body := range []string{
		"", "grant_type=client_credentials", "grant_type=authorization_code&code=x&code=y", "grant_type=refresh_token&refresh_token=qrg_rt_x&scope=%ff",
		"grant_type=%00", "grant_type=urn%3Aqrgrant%3Aparams%3Aoauth%3Agrant-type%3Aqr_code&device_code=x", "a;b", "%zz",
		"grant_type=authorization_code&code=qrg_ac_x&code_verifier=" + strings.Repeat("a", 43) + "&redirect_uri=x",
		"client_id=web&client_secret=" + providertest.ClientSecret + "&grant_type=authorization_code&code=x",
	} {
		f.Add(body, true)
		f.Add(body, false)
	}
	s := providertest.NewServer(f, providertest.Options{})
	f.Fuzz(func(t *testing.T, body string, authenticated bool) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, s.Issuer+"/token", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if authenticated {
			r.SetBasicAuth("web", providertest.ClientSecret)
		}
		w := httptest.NewRecorder()
		s.Provider.ServeHTTP(w, r)
		var members map[string]any
		if w.Code >= 500 || w.Code < 400 || json.Unmarshal(w.Body.Bytes(), &members) != nil || members["error"] == nil {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if w.Code == http.StatusUnauthorized && w.Header().Get("WWW-Authenticate") == "" {
			t.Fatal("401 without a challenge")
		}
	})
}

// FuzzAuthorize sends any query to the authorization endpoint: it never redirects to an
// address that is not registered, never answers without a page, and never fails.
func FuzzAuthorize(f *testing.F) {
	good := providertest.AuthorizeQuery("web", "openid", strings.Repeat("a", 43)).Encode()
	for _, q := range []string{
		"", good, good + "&prompt=none", good + "&prompt=none&response_mode=form_post", good + "&max_age=-1", good + "&redirect_uri=https://evil.example", good + "&state=%00",
		strings.Replace(good, "web.example", "evil.example", 1), "client_id=phone&redirect_uri=http://127.0.0.1:80@evil.example/callback",
		"client_id=phone&response_type=code&prompt=none&redirect_uri=http://127.0.0.1:99999/callback", good + "&id_token_hint=a.b.c", "%", ";",
	} {
		f.Add(q)
	}
	s := providertest.NewServer(f, providertest.Options{})
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, s.Issuer+"/authorize", nil)
		r.URL.RawQuery = query
		w := httptest.NewRecorder()
		s.Provider.ServeHTTP(w, r)
		switch w.Code {
		case http.StatusOK, http.StatusBadRequest:
			if !bytes.Contains(w.Body.Bytes(), []byte("</html>")) {
				t.Fatalf("%d without a page: %s", w.Code, w.Body)
			}
			for _, form := range strings.Split(w.Body.String(), ` action="`)[1:] {
				if !strings.HasPrefix(form, "/") && !strings.HasPrefix(form, providertest.RedirectURI) && !strings.HasPrefix(form, "http://127.0.0.1") {
					t.Fatalf("a form that leads to %.60q", form)
				}
			}
		case http.StatusSeeOther:
			u, err := url.Parse(w.Header().Get("Location"))
			if err != nil {
				t.Fatal(err)
			}
			web := u.Scheme == "https" && u.Host == "web.example" && u.Path == "/callback"
			app := u.Scheme == "http" && u.Hostname() == "127.0.0.1" && u.Path == "/callback"
			if !web && !app || u.User != nil {
				t.Fatalf("redirected to %s", u)
			}
		default:
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
	})
}

// FuzzLogout sends any query to the logout endpoint, as a stranger and as somebody who is
// signed in: it asks or says that it is over, and never redirects, signs out or fails.
func FuzzLogout(f *testing.F) {
	s := providertest.NewServer(f, providertest.Options{Clients: opClients()})
	jar := s.Browser()
	hint := s.SignedIn(f.Context(), jar, "web", "openid").IDToken
	for _, q := range []string{
		"", "state=x", "client_id=rp&post_logout_redirect_uri=" + url.QueryEscape(opBye), "post_logout_redirect_uri=https://evil.example/",
		"id_token_hint=" + hint, "id_token_hint=" + hint + "&client_id=rp", "id_token_hint=a.b.c&post_logout_redirect_uri=javascript:alert(1)",
		"client_id=rp&post_logout_redirect_uri=https://web.example/bye&state=%0d%0aX:y", "client_id=rp&client_id=rp2", "%", ";", "logout_hint=%00",
		"client_id=rp&post_logout_redirect_uri=https://web.example/bye%3Fx=1", "client_id=" + strings.Repeat("x", 300),
	} {
		f.Add(q, false)
		f.Add(q, true)
	}
	issuer, err := url.Parse(s.Issuer)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, query string, signedIn bool) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, s.Issuer+"/logout", nil)
		r.URL.RawQuery = query
		if signedIn {
			for _, c := range jar.Jar.Cookies(issuer) {
				r.AddCookie(c)
			}
		}
		w := httptest.NewRecorder()
		s.Provider.ServeHTTP(w, r)
		switch w.Code {
		case http.StatusOK, http.StatusBadRequest:
			if !bytes.Contains(w.Body.Bytes(), []byte("</html>")) {
				t.Fatalf("%d without a page: %s", w.Code, w.Body)
			}
			if csp := w.Header().Get("Content-Security-Policy"); strings.Contains(csp, "evil") || strings.Contains(csp, "javascript") {
				t.Fatalf("CSP %q", csp)
			}
		case http.StatusSeeOther:
			// Only a hint leads back without a question, and no seed client of the hint has an address.
			t.Fatalf("redirected to %s", w.Header().Get("Location"))
		default:
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
	})
}

// FuzzClaims sends any claims parameter: it is refused or taken, and never ends in a failure.
func FuzzClaims(f *testing.F) {
	for _, c := range []string{
		"{}", "null", "[]", `{"userinfo":{"name":{"essential":true}}}`, `{"id_token":{"sub":{"value":1}}}`, `{"id_token":null,"userinfo":{"sub":null}}`,
		`{"id_token":{"acr":{"essential":true,"values":[null,1,"x",[]]}}}`, `{"id_token":{"acr":{"essential":1}}}`, `{"userinfo":{"name":[]}}`, strings.Repeat("[", 9000),
	} {
		f.Add(c)
	}
	s := providertest.NewServer(f, providertest.Options{})
	f.Fuzz(func(t *testing.T, raw string) {
		q := providertest.AuthorizeQuery("web", "openid", strings.Repeat("a", 43))
		q.Set("claims", raw)
		q.Set("prompt", "none")
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, s.Issuer+"/authorize?"+q.Encode(), nil)
		w := httptest.NewRecorder()
		s.Provider.ServeHTTP(w, r)
		location, err := url.Parse(w.Header().Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		switch got := location.Query().Get("error"); {
		case w.Code == http.StatusBadRequest && bytes.Contains(w.Body.Bytes(), []byte("</html>")):
		case w.Code == http.StatusSeeOther && (got == "login_required" || got == "invalid_request"):
		default:
			t.Fatalf("%d %s", w.Code, location)
		}
	})
}
