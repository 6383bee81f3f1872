package player

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/qrgrant/qrgrant/provider/dpop"
)

// proving returns what sends requests with proofs of the key, and true; client and false without
// a key, or at a server whose metadata does not list the algorithm of dpop.NewKey (RFC 9449 §5.1).
func proving(client *http.Client, key *dpop.Key, provider *oidc.Provider) (*http.Client, bool, error) {
	if key == nil {
		return client, false, nil
	}
	var metadata struct {
		Algorithms []string `json:"dpop_signing_alg_values_supported"`
	}
	if err := provider.Claims(&metadata); err != nil {
		return nil, false, fmt.Errorf("read the OpenID metadata: %w", err)
	}
	if !slices.Contains(metadata.Algorithms, "ES256") {
		return client, false, nil
	}
	proved := *client
	proved.Transport = &dpop.Transport{Key: key, Base: client.Transport}
	return &proved, true, nil
}

// checkBound refuses a token that is good without the key, at a server that says it binds tokens
// (RFC 9449 §5).
func checkBound(bound bool, tokenType string) error {
	if bound && !strings.EqualFold(tokenType, dpop.Scheme) {
		return fmt.Errorf("the server answered with a token of the type %q, which is not bound to the key of this sign-in", tokenType)
	}
	return nil
}
