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
		"", good, good + "&prompt=none", good + "&max_age=-1", good + "&redirect_uri=https://evil.example", good + "&state=%00",
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
