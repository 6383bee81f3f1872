package provider_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
)

// Whoever has a credential from the operator pushes for many people from one address: it is counted
// by itself, wherever it is, and only for what it has proved to be its own.
func TestAClientCannotHaveAnyNumberOfRequestsStored(t *testing.T) {
	t.Parallel()
	s := crowded(t, providertest.Options{}, func(c *provider.Config) { c.PushesPerMinute, c.ClientPushesPerMinute = 1, 3 })
	_, challenge := providertest.Verifier()
	push := func(client, secret, address string) *providertest.Reply {
		t.Helper()
		return from(t, s, address, "/par", providertest.AuthorizeQuery(client, "openid", challenge), "Authorization", "Basic "+basicOf(client, secret))
	}
	for range 4 {
		wantError(t, push("web", "wrong", busyNetwork), http.StatusUnauthorized, "invalid_client")
	}
	for _, address := range []string{busyNetwork, busyNetwork, otherNetwork} {
		mustAnswer(t, push("web", providertest.ClientSecret, address), http.StatusCreated)
	}
	for _, address := range []string{busyNetwork, otherNetwork, "2001:db8::1"} {
		wantLimited(t, push("web", providertest.ClientSecret, address), "temporarily_unavailable", 20*time.Second)
	}
	mustAnswer(t, push("thirdparty", providertest.ClientSecret, busyNetwork), http.StatusCreated)
	s.Clock.Advance(20 * time.Second)
	mustAnswer(t, push("web", providertest.ClientSecret, busyNetwork), http.StatusCreated)
	wantLimited(t, push("web", providertest.ClientSecret, busyNetwork), "temporarily_unavailable", 20*time.Second)
}

// A network is a /24 or a /56, whichever client without a secret pushes from it.
func TestPushesPerNetwork(t *testing.T) {
	t.Parallel()
	s := crowded(t, providertest.Options{}, func(c *provider.Config) { c.PushesPerMinute = 2 })
	_, challenge := providertest.Verifier()
	push := func(address string) *providertest.Reply {
		t.Helper()
		return from(t, s, address, "/par", providertest.AuthorizeQuery("phone", "openid", challenge))
	}
	for _, network := range [][]string{
		{"192.0.2.1", "192.0.2.255", "192.0.2.9", "192.0.3.1"},
		{"2001:db8:0:ff00::1", "2001:db8:0:ffff:1::9", "2001:db8:0:ff00::1", "2001:db8:0:fe00::1"},
	} {
		mustAnswer(t, push(network[0]), http.StatusCreated)
		mustAnswer(t, push(network[1]), http.StatusCreated)
		wantLimited(t, push(network[2]), "temporarily_unavailable", 30*time.Second)
		mustAnswer(t, push(network[3]), http.StatusCreated)
	}
}

func TestNegativeLimitsOfPushes(t *testing.T) {
	t.Parallel()
	_, err := provider.New(t.Context(), provider.Config{PushesPerMinute: -1, ClientPushesPerMinute: -1})
	if err == nil || !strings.Contains(err.Error(), "Config.PushesPerMinute is negative") || !strings.Contains(err.Error(), "Config.ClientPushesPerMinute is negative") {
		t.Error(err)
	}
}
