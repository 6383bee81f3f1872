package provider_test

import (
	"net/http"
	"testing"
)

func TestOP3rdPartyInitLogin(t *testing.T) {
	const address = "https://web.example/login?tenant=a"
	p := dynamic(t, map[string]any{"initiate_login_uri": address})
	if got := p.registered.Text("initiate_login_uri"); got != address {
		t.Errorf("registered %q", got)
	}
	// Whoever manages the client reads it back (RFC 7592 §2.1).
	reply := p.SendJSON(t.Context(), http.MethodGet, p.registered.Text("registration_client_uri"), p.registered.Text("registration_access_token"), nil)
	if reply.Status != http.StatusOK || reply.Text("initiate_login_uri") != address || reply.Text("client_id") != p.client {
		t.Errorf("read back: %d %s", reply.Status, reply.Body)
	}
	p.signIn()
}

func TestOP3rdPartyInitLoginNoHTTPS(t *testing.T) {
	p := dynamic(t, nil)
	for _, address := range []string{"http://web.example/login", "http://127.0.0.1/login", "com.example.app:/login", "https://web.example/login#fragment", "/login"} {
		reply := p.Register(t.Context(), p.metadata(p.key, map[string]any{"initiate_login_uri": address}))
		if reply.Status != http.StatusBadRequest || reply.Text("error") != "invalid_client_metadata" {
			t.Errorf("%s: %d %s", address, reply.Status, reply.Body)
		}
	}
}
