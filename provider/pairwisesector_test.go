package provider_test

import (
	"crypto/sha256"
	"slices"
	"testing"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// A client that the operator gave no sector shares its subjects with nobody.
func TestPairwiseSubjectsWithoutASector(t *testing.T) {
	t.Parallel()
	var clients []*storage.Client
	for _, id := range []string{"one", "two"} {
		clients = append(clients, &storage.Client{
			ID: id, SecretHashes: [][32]byte{sha256.Sum256([]byte(providertest.ClientSecret))}, RedirectURIs: []string{"https://one.example/callback"},
			Scopes: []string{"openid"}, PKCEOptional: true, Pairwise: true,
		})
	}
	s := providertest.NewServer(t, providertest.Options{Clients: clients})
	browser, known := s.Browser(), []string{providertest.AliceSubject, ""}
	for _, c := range clients {
		client := &providertest.Reply{Body: `{"client_id":"` + c.ID + `","client_secret":"` + providertest.ClientSecret + `"}`}
		sub := subOf(t, signInTo(t, s, browser, client, "https://one.example/callback", "openid").Text("id_token"))
		if slices.Contains(known, sub) {
			t.Errorf("%s knows %q", c.ID, sub)
		}
		known = append(known, sub)
	}
}
