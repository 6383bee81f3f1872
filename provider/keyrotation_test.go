package provider_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

const day = 24 * time.Hour

// kids lists the published ES256 keys, newest first.
func kids(t *testing.T, s *providertest.Server) []string {
	t.Helper()
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(s.Get(t.Context(), s.Client(), "/jwks").Body), &set); err != nil {
		t.Fatal(err)
	}
	var ids []string
	seen := map[string]bool{}
	for _, k := range set.Keys {
		if !k.IsPublic() || seen[k.KeyID] {
			t.Errorf("key %q: public %t, twice %t", k.KeyID, k.IsPublic(), seen[k.KeyID])
		}
		seen[k.KeyID] = true
		if k.Algorithm == "ES256" {
			ids = append(ids, k.KeyID)
		}
	}
	return ids
}

// signedBy returns an ID token of Alice and the kid in its header.
func signedBy(t *testing.T, s *providertest.Server) (idToken, kid string) {
	t.Helper()
	idToken = s.SignedIn(t.Context(), s.Browser(), "web", "openid").IDToken
	jws, err := jose.ParseSignedCompact(idToken, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	return idToken, jws.Signatures[0].Header.KeyID
}

func sweep(t *testing.T, s *providertest.Server) {
	t.Helper()
	if _, err := s.Provider.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// hinted reports whether an ID token still says who may approve: a session that is hinted to
// nobody cannot be claimed.
func hinted(t *testing.T, s *providertest.Server, idToken string) bool {
	t.Helper()
	c := openQR(t, s, "tv", url.Values{"id_token_hint": {idToken}})
	reply := newPhone(t, s).post(t.Context(), "/qr/scan", map[string]string{"user_code": c.userCode(), "entry": "typed"})
	return reply.Status == http.StatusOK
}

// A key is published a day before it signs, signs for ninety days, and verifies hints for
// thirty days after its last ID token.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	sweep(t, s)
	hint, first := signedBy(t, s)
	if diff := cmp.Diff([]string{first}, kids(t, s)); diff != "" {
		t.Fatalf("at the start: %s", diff)
	}
	s.Clock.Advance(89*day - time.Second)
	sweep(t, s)
	if n := len(kids(t, s)); n != 1 {
		t.Fatalf("too early: %d keys", n)
	}
	s.Clock.Advance(time.Second)
	sweep(t, s)
	sweep(t, s)
	published := kids(t, s)
	if len(published) != 2 || published[1] != first {
		t.Fatalf("published %v, first %q", published, first)
	}
	next := published[0]
	s.Clock.Advance(day - time.Second)
	if _, kid := signedBy(t, s); kid != first {
		t.Errorf("the next key signs before its day")
	}
	s.Clock.Advance(time.Second)
	if _, kid := signedBy(t, s); kid != next {
		t.Errorf("the next key does not sign on its day")
	}
	s.Clock.Advance(30*day + 10*time.Minute - time.Second)
	sweep(t, s)
	if !slices.Contains(kids(t, s), first) || !hinted(t, s, hint) {
		t.Error("the retired key does not verify a hint")
	}
	s.Clock.Advance(time.Second)
	if slices.Contains(kids(t, s), first) || hinted(t, s, hint) {
		t.Error("the retired key is used beyond its time")
	}
	sweep(t, s)
	keys, err := s.Store.Keys(t.Context())
	if err != nil || slices.ContainsFunc(keys, func(k *storage.Key) bool { return k.ID == first }) {
		t.Errorf("the retired key is still stored: %v", err)
	}
}

// Without a sweep an ID token sets the rotation off, and does not wait for it.
func TestKeyRotationOnUse(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) {
		c.KeyRotation, c.KeyPublishAhead = 10*day, day
	}})
	_, first := signedBy(t, s)
	s.Clock.Advance(30 * day)
	if _, kid := signedBy(t, s); kid != first {
		t.Error("an unpublished key signed")
	}
	// Close waits for what runs beside the requests.
	if err := s.Provider.Close(); err != nil {
		t.Fatal(err)
	}
	published := kids(t, s)
	if len(published) != 2 {
		t.Fatalf("%d keys", len(published))
	}
	s.Clock.Advance(day)
	if _, kid := signedBy(t, s); kid != published[0] {
		t.Error("the new key does not sign")
	}
}

// Two replicas on one store learn of each other's keys, and make one next key between them.
func TestKeyRotationReplicas(t *testing.T) {
	t.Parallel()
	a := providertest.NewServer(t, providertest.Options{})
	b := providertest.NewServer(t, providertest.Options{Store: a.Store})
	b.Clock.Advance(89 * day)
	a.Clock.Advance(89 * day)
	sweep(t, a)
	sweep(t, b)
	if diff := cmp.Diff(kids(t, a), kids(t, b)); diff != "" || len(kids(t, a)) != 2 {
		t.Errorf("%v: %s", kids(t, a), diff)
	}
}

// Faults of the schedule are reported at the start.
func TestKeyConfigFaults(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*provider.Config){
		"KeySeals[1] is not 32 bytes":           func(c *provider.Config) { c.KeySeals = [][]byte{make([]byte, 32), make([]byte, 16)} },
		"KeySeals[0] is not 32 bytes":           func(c *provider.Config) { c.KeySeals = [][]byte{{}} },
		"KeyPublishAhead is not shorter":        func(c *provider.Config) { c.KeyRotation = time.Hour },
		"provider: Config.KeyRetention is nega": func(c *provider.Config) { c.KeyRetention = -1 },
	} {
		c := provider.Config{Issuer: "https://id.example"}
		change(&c)
		if _, err := provider.New(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
