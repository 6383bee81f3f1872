package provider_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// BenchmarkPendingPoll is what a waiting device that keeps its interval costs, HTTP server left
// out. Every hundredth poll is that of a new session.
func BenchmarkPendingPoll(b *testing.B) {
	s := providertest.NewServer(b, providertest.Options{})
	var body string
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%100 == 0 {
			start := s.Post(b.Context(), s.Client(), "/device_authorization", url.Values{"client_id": {"tv"}, "scope": {"openid"}})
			body = url.Values{
				"client_id": {"tv"}, "grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {start.Text("device_code")},
			}.Encode()
		}
		r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, s.Issuer+"/token", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		s.Provider.ServeHTTP(w, r)
		if !strings.Contains(w.Body.String(), "authorization_pending") {
			b.Fatal(w.Code, w.Body)
		}
		s.Clock.Advance(5 * time.Second)
	}
}

// BenchmarkRefresh is a rotation with a new ID token: one commit and one ES256 signature.
func BenchmarkRefresh(b *testing.B) {
	s := providertest.NewServer(b, providertest.Options{})
	token := s.SignedIn(b.Context(), s.Browser(), "web", "openid offline_access").RefreshToken
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, s.Issuer+"/token", strings.NewReader(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.SetBasicAuth("web", providertest.ClientSecret)
		w := httptest.NewRecorder()
		s.Provider.ServeHTTP(w, r)
		if token = (&providertest.Reply{Body: w.Body.String()}).Text("refresh_token"); token == "" {
			b.Fatal(w.Code, w.Body)
		}
	}
}

// BenchmarkTokenPrivateKeyJWT is a token for a client that signs: an ES256 verification and an
// identifier used up, with keys by value.
func BenchmarkTokenPrivateKeyJWT(b *testing.B) {
	key := newAssertionKey(b, jose.ES256, "k")
	s := providertest.NewServer(b, providertest.Options{Clients: []*storage.Client{signingClient("signer", jwksOf(b, key))}})
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		body := asserting(clientCredentials(), key.assertion(b, s, "signer")).Encode()
		b.StartTimer()
		r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, s.Issuer+"/token", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		s.Provider.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			b.Fatal(w.Code, w.Body)
		}
	}
}

// BenchmarkTokenSecret is the same for a client with a secret.
func BenchmarkTokenSecret(b *testing.B) {
	s := providertest.NewServer(b, providertest.Options{})
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, s.Issuer+"/token", strings.NewReader(clientCredentials().Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.SetBasicAuth("svc", providertest.ClientSecret)
		w := httptest.NewRecorder()
		s.Provider.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			b.Fatal(w.Code, w.Body)
		}
	}
}
