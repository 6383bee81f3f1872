package provider_test

import (
	"encoding/json"
	"testing"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// keyClient is a client of our own that signs with keys it registered by value.
func keyClient(tb testing.TB, id string, keys ...*providertest.ClientKey) *storage.Client {
	tb.Helper()
	set, err := json.Marshal(providertest.JWKS(keys...))
	if err != nil {
		tb.Fatal(err)
	}
	return &storage.Client{
		ID: id, Name: "Signing Party", AuthMethod: storage.AuthPrivateKeyJWT, JWKS: set, RedirectURIs: []string{providertest.RedirectURI},
		GrantTypes: []string{"authorization_code", "refresh_token"}, Scopes: []string{"openid", "profile", "email", "offline_access"}, FirstParty: true,
	}
}
