package providertest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"

	"github.com/qrgrant/qrgrant/provider"
)

// InitialAccessToken is what a client registers with at a provider of EverySwitch (RFC 7591 §3).
const InitialAccessToken = "an-initial-access-token-of-tests-with-enough-bits"

// EverySwitch turns on what a zero Config leaves off, with documents read from d: registration for
// who has InitialAccessToken, metadata documents, the implicit and the hybrid flow, request objects
// by value and by reference, pairwise subjects. It makes an Options.Change.
func EverySwitch(d *Documents) func(*provider.Config) {
	return func(c *provider.Config) {
		d.Reachable(c)
		c.Registration.InitialTokens = append(c.Registration.InitialTokens, sha256.Sum256([]byte(InitialAccessToken)))
		c.ClientMetadata = true
		c.Implicit, c.Hybrid = true, true
		c.RequestObjects, c.RequestURIs = true, true
		c.Pairwise = true
	}
}

// SendJSON sends a request with a bearer token and a body in JSON. An empty token leaves the
// header out, a nil body the body.
func (s *Server) SendJSON(ctx context.Context, method, path, token string, body any) *Reply {
	s.tb.Helper()
	var encoded []byte
	if body != nil {
		var err error
		encoded, err = json.Marshal(body)
		must(s.tb, err)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.URL(path), bytes.NewReader(encoded))
	must(s.tb, err)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return s.Do(s.Client(), req)
}

// Register registers a client with InitialAccessToken. A good answer is 201 and tells, among the
// metadata as they were understood, client_id, registration_client_uri and
// registration_access_token.
func (s *Server) Register(ctx context.Context, metadata map[string]any) *Reply {
	s.tb.Helper()
	return s.SendJSON(ctx, http.MethodPost, "/register", InitialAccessToken, metadata)
}
