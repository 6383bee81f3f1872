// Package providertest runs a real provider for tests: our own and those of embedders. It has
// a bolt file in the test's temporary directory, a listener on loopback, a clock that moves
// only when told, one client of every kind and one person. Nothing in it is a mock.
//
// NewServer serves over TLS with a certificate that Server.Client and Server.Browser trust. What a
// zero provider.Config leaves off, EverySwitch turns on; a client then registers itself with
// Server.Register, publishes what belongs to it at Documents, and signs with a ClientKey:
//
//	docs := providertest.NewDocuments(t)
//	s := providertest.NewServer(t, providertest.Options{Change: providertest.EverySwitch(docs)})
//	key := providertest.NewClientKey(t, jose.ES256, "first")
//	client := s.Register(t.Context(), map[string]any{
//		"redirect_uris":                   []string{providertest.RedirectURI},
//		"token_endpoint_auth_method":      "private_key_jwt",
//		"token_endpoint_auth_signing_alg": "ES256",
//		"jwks_uri":                        docs.PutJSON("/jwks", providertest.JWKS(key)),
//	})
//	reply := s.PostSigned(t.Context(), key, client.Text("client_id"), "/token", form)
package providertest
