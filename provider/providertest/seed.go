package providertest

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// What is seeded. Every confidential client has the same secret.
const (
	// ClientSecret is the secret of the confidential clients.
	ClientSecret = "a-secret-of-tests-with-enough-bits-in-it"
	// RedirectURI is the redirect URI of the web client.
	RedirectURI = "https://web.example/callback"
	// AppRedirectURI is the redirect URI of the phone app.
	AppRedirectURI = "http://127.0.0.1/callback"

	// AliceSubject, AliceLogin and AlicePassword are the one person.
	AliceSubject  = "alice-7f3a"
	AliceLogin    = "alice"
	AlicePassword = "correct horse battery staple"

	// alicePasswordHash is AlicePassword under parameters that no real server would use, so
	// that a sign-in costs a test nothing.
	alicePasswordHash = "$argon2id$v=19$m=64,t=1,p=1$c2FsdC1mb3ItdGVzdHMhIQ$HNmyfB7GDjBuvKbAk5c8a9SuLhVGbO8HqJoYHUti7+8"
)

// testKey is an RSA key for tests only: making one takes a second.
//
//go:embed testkey.der
var testKey []byte

// Clients returns the seeded clients: one of every kind.
func Clients() []*storage.Client {
	secret := [][32]byte{sha256.Sum256([]byte(ClientSecret))}
	profile := []string{"openid", "profile", "email", "address", "phone", "offline_access"}
	return []*storage.Client{
		{
			ID: "web", Name: "Web Shop", SecretHashes: secret, RedirectURIs: []string{RedirectURI},
			GrantTypes: []string{"authorization_code", "refresh_token"}, Scopes: profile, FirstParty: true,
		},
		{
			ID: "thirdparty", Name: "Third Party", SecretHashes: secret, RedirectURIs: []string{RedirectURI},
			GrantTypes: []string{"authorization_code", "refresh_token"}, Scopes: profile, PKCEOptional: true, IDTokenAlg: "RS256",
		},
		{
			ID: "tv", Name: "Living Room TV", GrantTypes: []string{qr.DeviceGrantType, "refresh_token"}, Scopes: profile,
			QR: storage.QRPolicy{Enabled: true, AllowedScopes: profile, OfflineAccess: true},
		},
		{
			ID: "cli", Name: "Command Line", GrantTypes: []string{qr.GrantType, "refresh_token"}, Scopes: profile,
			QR: storage.QRPolicy{Enabled: true, AllowedScopes: profile, OfflineAccess: true},
		},
		{
			ID: "kiosk", Name: "Kiosk", SecretHashes: secret, GrantTypes: []string{qr.DeviceGrantType}, Scopes: []string{"openid", "profile"},
			QR: storage.QRPolicy{Enabled: true, TypeUserCode: true},
		},
		{
			ID: "phone", Name: "Phone App", RedirectURIs: []string{AppRedirectURI}, FirstParty: true, Approver: true,
			GrantTypes: []string{"authorization_code", "refresh_token"},
			Scopes:     []string{"openid", "profile", "offline_access", qr.ApproveScope},
		},
		{
			ID: "svc", Name: "Service", SecretHashes: secret, GrantTypes: []string{"client_credentials"}, Scopes: []string{"reports:read", "reports:write"},
		},
	}
}

// Alice returns the seeded person, with every standard claim.
func Alice() *storage.User {
	return &storage.User{
		Subject: AliceSubject, Login: AliceLogin, PasswordHash: alicePasswordHash,
		Claims: map[string]any{
			"name": "Alice Arden", "given_name": "Alice", "family_name": "Arden", "middle_name": "M.", "nickname": "Al",
			"preferred_username": "alice", "profile": "https://alice.example/", "picture": "https://alice.example/me.png",
			"website": "https://alice.example/", "gender": "female", "birthdate": "1990-04-01", "zoneinfo": "Europe/Berlin",
			"locale": "en", "updated_at": 1700000000,
			"email": "alice@example.org", "email_verified": true,
			"address":      map[string]any{"formatted": "1 Main Street, Arden", "locality": "Arden"},
			"phone_number": "+49 30 1234567", "phone_number_verified": false,
		},
	}
}

func seed(ctx context.Context, tb testing.TB, store storage.Store, extra []*storage.Client, now time.Time) {
	tb.Helper()
	for _, c := range append(Clients(), extra...) {
		must(tb, store.PutClient(ctx, c))
	}
	must(tb, store.PutUser(ctx, Alice()))
	err := store.PutKey(ctx, &storage.Key{ID: "test-rs256", Use: storage.KeySigning, Algorithm: "RS256", Secret: testKey, CreatedAt: now})
	if !errors.Is(err, storage.ErrConflict) {
		must(tb, err)
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(fmt.Errorf("providertest: %w", err))
	}
}
