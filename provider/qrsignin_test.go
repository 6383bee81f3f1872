package provider_test

import (
	"testing"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

// TestWholeSignIn is the grant end to end, for every client that may use it.
func TestWholeSignIn(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"cli", "tv"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			_, tokens := signIn(t, providertest.NewServer(t, providertest.Options{}), client, nil)
			if tokens.AccessToken == "" || tokens.IDToken == "" {
				t.Errorf("tokens %+v", tokens)
			}
		})
	}
}
