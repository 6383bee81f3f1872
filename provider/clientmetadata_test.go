package provider_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/internal/hostile"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// metadataSeeds are bodies that a client could describe itself with; ID stands for its id.
func metadataSeeds() []string {
	return []string{
		`{"client_id":"ID","redirect_uris":["https://rp.example/cb"]}`,
		`{"client_id":"ID","redirect_uris":["https://rp.example/cb","com.example.app:/cb"],"application_type":"native","token_endpoint_auth_method":"none"}`,
		`{"client_id":"ID","redirect_uris":["http://127.0.0.1/cb"],"response_types":["token code id_token","code"],"grant_types":["implicit","authorization_code","refresh_token"]}`,
		`{"client_id":"ID","redirect_uris":["https://rp.example/cb"],"jwks":{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]},"token_endpoint_auth_method":"private_key_jwt"}`,
		`{"client_id":"ID","redirect_uris":["https://rp.example/cb"],"client_name":"A\u202eB","scope":"openid qr:approve","default_max_age":1e99,"contacts":[null]}`,
		`{"client_id":"ID","redirect_uris":["https://rp.example/cb"],"subject_type":"pairwise","default_max_age":3600,"default_acr_values":["1"],"request_uris":["https://rp.example/r#h"],"logo_uri":"https://rp.example/l.png"}`,
		`{"redirect_uris":{"a":1},"client_name":null,"grant_types":"authorization_code"}`,
		`{"client_id":"ID","client_id":"ID"}`, `[]`, `{`, `null`, `"x"`,
	}
}

// wantHarmless fails when a client that describes itself is more than such a client may be.
func wantHarmless(t *testing.T, c *storage.Client) {
	t.Helper()
	if c.Approver || c.FirstParty || c.QR.Enabled || c.JWTAccessTokens || len(c.SharedAudiences)+len(c.Resources)+len(c.Serves) > 0 || len(c.RedirectURIs) == 0 {
		t.Errorf("%+v", c)
	}
	for _, grant := range c.GrantTypes {
		if !slices.Contains([]string{"authorization_code", "implicit", "refresh_token"}, grant) {
			t.Errorf("the grant %q", grant)
		}
	}
	for _, scope := range c.Scopes {
		if !slices.Contains([]string{"openid", "profile", "email", "address", "phone", "offline_access"}, scope) {
			t.Errorf("the scope %q", scope)
		}
	}
	for _, raw := range c.RedirectURIs {
		if err := provider.CheckRedirectURI(raw); err != nil {
			t.Errorf("%q: %v", raw, err)
		}
	}
	if strings.ContainsFunc(c.Name, func(r rune) bool { return r < ' ' || r >= 0x200b && r <= 0x202e }) {
		t.Errorf("the name %q", c.Name)
	}
}

// FuzzClientMetadata registers clients with any body. What is accepted is harmless, and what the
// answer says of the client makes the same client again.
func FuzzClientMetadata(f *testing.F) {
	const token = "an-initial-access-token"
	s := providertest.NewServer(f, providertest.Options{Change: func(c *provider.Config) {
		c.Registration.InitialTokens = [][32]byte{sha256.Sum256([]byte(token))}
		c.Registration.MaxClients = 1 << 30
		c.Implicit, c.Hybrid, c.Pairwise, c.RequestObjects, c.RequestURIs = true, true, true, true, true
	}})
	for _, seed := range metadataSeeds() {
		f.Add([]byte(seed))
	}
	register := func(t *testing.T, body []byte) (*httptest.ResponseRecorder, map[string]json.RawMessage) {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, s.Issuer+"/register", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		s.Provider.ServeHTTP(w, r)
		var answer map[string]json.RawMessage
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatalf("%d %s: %v", w.Code, w.Body, err)
		}
		return w, answer
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if bytes.Contains(body, []byte("sector_identifier_uri")) {
			t.Skip("would be read from the network")
		}
		w, answer := register(t, body)
		if w.Code != http.StatusCreated {
			if w.Code/100 != 4 || w.Code == http.StatusUnauthorized || answer["error"] == nil {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			return
		}
		var id string
		if err := json.Unmarshal(answer["client_id"], &id); err != nil {
			t.Fatal(err)
		}
		stored, err := s.Store.Client(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		wantHarmless(t, stored)

		own := []string{"client_id", "client_secret", "client_secret_expires_at", "client_id_issued_at", "registration_access_token", "registration_client_uri"}
		for _, name := range own {
			delete(answer, name)
		}
		again, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		w, second := register(t, again)
		if w.Code != http.StatusCreated {
			t.Fatalf("%s is refused: %d %s", again, w.Code, w.Body)
		}
		for _, name := range own {
			delete(second, name)
		}
		if diff := cmp.Diff(answer, second); diff != "" {
			t.Error(diff)
		}
	})
}

// FuzzMetadataDocument puts any document at the address that a client_id is.
func FuzzMetadataDocument(f *testing.F) {
	var served atomic.Value
	address := hostile.Start(f, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(served.Load().([]byte))
	}))
	s := providertest.NewServer(f, providertest.Options{Change: func(c *provider.Config) {
		c.ClientMetadata, c.Hybrid = true, true
		c.FetchNetworks, c.FetchRoots = hostile.Networks(), hostile.Roots(f)
	}})
	for _, seed := range metadataSeeds() {
		f.Add([]byte(seed))
	}
	n := 0
	f.Fuzz(func(t *testing.T, body []byte) {
		n++
		id := fmt.Sprintf("%s/%d", address, n)
		served.Store(bytes.ReplaceAll(body, []byte("ID"), []byte(id)))
		s.Clock.Advance(time.Minute) // the network has a limit
		_, challenge := providertest.Verifier()
		app := &describedApp{t: t, id: id, redirect: "https://rp.example/cb"}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, s.Issuer+"/authorize?"+app.query(challenge, nil).Encode(), nil)
		w := httptest.NewRecorder()
		s.Provider.ServeHTTP(w, r)
		switch w.Code {
		case http.StatusOK, http.StatusSeeOther, http.StatusBadRequest:
		default:
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if to := w.Header().Get("Location"); to != "" && !strings.HasPrefix(to, "https://rp.example/cb?") {
			t.Errorf("a redirect to %q", to)
		}
	})
}
