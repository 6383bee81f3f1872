package provider_test

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// An answer that asks for a nonce asks for the same request again: the assertion in it is not used
// up. A client that only repeats what it has sent, as an http.Client does, gets through.
func TestClientAssertionOutlivesTheWishForANonce(t *testing.T) {
	t.Parallel()
	key := newAssertionKey(t, jose.ES256, "k")
	client := signingClient("signer", jwksOf(t, key))
	client.GrantTypes = []string{"authorization_code", "client_credentials", qr.GrantType}
	client.Scopes, client.RedirectURIs = []string{"openid"}, []string{providertest.RedirectURI}
	client.QR = storage.QRPolicy{Enabled: true}
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{client}})
	_, challenge := providertest.Verifier()
	for path, form := range map[string]url.Values{
		"/token": {"grant_type": {"client_credentials"}},
		"/par": {
			"response_type": {"code"}, "redirect_uri": {providertest.RedirectURI}, "scope": {"openid"},
			"code_challenge": {challenge}, "code_challenge_method": {"S256"},
		},
		"/device_authorization": {"scope": {"openid"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"}},
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			proving, err := dpop.NewKey()
			if err != nil {
				t.Fatal(err)
			}
			proving.Now = s.Clock.Now
			asked := &countingTransport{base: s.Client().Transport}
			browser := &http.Client{Transport: &dpop.Transport{Key: proving, Base: asked}}
			sent := asserting(form, key.assertion(t, s, "signer"))
			if reply := s.Post(t.Context(), browser, path, sent); reply.Status >= http.StatusBadRequest || asked.requests != 2 {
				t.Fatalf("%d requests: %d %s", asked.requests, reply.Status, reply.Body)
			}
			// With a good nonce it counted.
			refusedWith(t, s.Post(t.Context(), browser, path, sent), http.StatusUnauthorized, "invalid_client")
			refusedWith(t, s.Post(t.Context(), s.Client(), path, sent), http.StatusUnauthorized, "invalid_client")
		})
	}
}

type countingTransport struct {
	base     http.RoundTripper
	requests int
}

func (c *countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	c.requests++
	return c.base.RoundTrip(r)
}
