package provider_test

import (
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
)

// The same faults always read the same, so that two starts can be compared.
func TestConfigFaultsComeInOneOrder(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	first := ""
	for range 20 {
		_, err := provider.New(t.Context(), provider.Config{
			Issuer: s.Issuer, Store: s.Store, AccessTokenLifetime: -time.Second, IDTokenLifetime: -time.Second,
			RefreshTokenLifetime: -time.Second, SessionLifetime: -time.Second, SessionIdle: -time.Second,
		})
		if err == nil {
			t.Fatal("taken")
		}
		if first == "" {
			first = err.Error()
		}
		if err.Error() != first {
			t.Fatalf("%v\nand then\n%s", err, first)
		}
	}
}
