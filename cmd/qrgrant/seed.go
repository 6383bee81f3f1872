package main

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

const (
	// minSecret keeps guessable client secrets out: their hash is a fast one.
	minSecret   = 32
	minLifetime = storage.MinLifetime
	// maxLifetime is what the ten bits of a frame's number can count, 10 s each.
	maxLifetime = 10_220 * time.Second
)

// grantTypes are the names a configuration uses, and what they are on the wire.
func grantTypes() map[string]string {
	return map[string]string{
		"authorization_code": "authorization_code",
		"implicit":           "implicit",
		"refresh_token":      "refresh_token",
		"client_credentials": "client_credentials",
		"qr_code":            qr.GrantType,
		"device_code":        qr.DeviceGrantType,
		qr.GrantType:         qr.GrantType,
		qr.DeviceGrantType:   qr.DeviceGrantType,
	}
}

func (c *clientConfig) grants(name string) bool {
	return slices.ContainsFunc(c.GrantTypes, func(g string) bool { return grantTypes()[g] == grantTypes()[name] })
}

func (c *clientConfig) record(getenv func(string) string) *storage.Client {
	record := &storage.Client{
		ID: c.ID, Name: c.Name, RedirectURIs: c.RedirectURIs, Scopes: c.Scopes,
		PKCEOptional: c.PKCE == "optional", IDTokenAlg: c.IDTokenAlg, FirstParty: c.FirstParty,
		Approver: c.Approver, SharedAudiences: c.SharedAudiences, Disabled: c.Disabled,
		PostLogoutRedirectURIs: c.PostLogoutRedirectURIs, BackchannelLogoutURI: c.BackchannelLogoutURI,
		BackchannelLogoutSessionRequired: c.BackchannelLogoutSessionRequired,
		LogoURI:                          c.LogoURI, ClientURI: c.ClientURI, PolicyURI: c.PolicyURI, TermsURI: c.TermsURI,
		QR: storage.QRPolicy{
			Enabled: c.QR.Enabled, AllowedScopes: c.QR.AllowedScopes, Lifetime: c.QR.Lifetime,
			TypeUserCode: c.QR.UserCode == "type", OfflineAccess: c.QR.OfflineAccess,
		},
	}
	c.describe(record)
	for _, grant := range c.GrantTypes {
		record.GrantTypes = append(record.GrantTypes, grantTypes()[grant])
	}
	if c.SecretEnv != "" {
		record.SecretHashes = append(record.SecretHashes, sha256.Sum256([]byte(getenv(c.SecretEnv))))
	}
	for _, sum := range c.SecretSHA256 {
		// readConfig has refused a file in which one is something else.
		if hash, err := readSHA256(sum); err == nil {
			record.SecretHashes = append(record.SecretHashes, hash)
		}
	}
	return record
}

// seedClients are the clients of dev and demo.
func seedClients(webSecret string) *configFile {
	qrScopes := []string{"openid", "profile"}
	sum := sha256.Sum256([]byte(webSecret))
	return &configFile{Clients: []clientConfig{
		{
			ID: "web", Name: "Example web app", SecretSHA256: []string{hex.EncodeToString(sum[:])},
			RedirectURIs: []string{"http://127.0.0.1/callback", "http://localhost/callback"},
			GrantTypes:   []string{"authorization_code", "refresh_token"},
			Scopes:       []string{"openid", "profile", "email", "offline_access"},
		},
		{
			ID: "tv", Name: "Living-room TV", GrantTypes: []string{"device_code"},
			Scopes: qrScopes, QR: qrConfig{Enabled: true, AllowedScopes: qrScopes},
		},
		{
			ID: "cli", Name: "Command line", GrantTypes: []string{"qr_code"},
			Scopes: qrScopes, QR: qrConfig{Enabled: true, AllowedScopes: qrScopes, Lifetime: 4 * time.Minute},
		},
		{
			ID: "phone", Name: "Phone app", FirstParty: true, Approver: true,
			RedirectURIs: []string{phoneRedirect}, GrantTypes: []string{"authorization_code", "refresh_token"},
			Scopes: []string{"openid", "profile", "offline_access", qr.ApproveScope},
		},
	}}
}

// seedWebapp is the client of the example web application that dev runs.
func seedWebapp(address, secret string) clientConfig {
	sum := sha256.Sum256([]byte(secret))
	scopes := []string{"openid", "profile"}
	return clientConfig{
		ID: "webapp", Name: "Example web app", SecretSHA256: []string{hex.EncodeToString(sum[:])}, FirstParty: true,
		RedirectURIs: []string{address + "/callback"}, Scopes: scopes,
		PostLogoutRedirectURIs: []string{address + "/"}, BackchannelLogoutURI: address + "/backchannel-logout",
		QR: qrConfig{Enabled: true, AllowedScopes: scopes},
	}
}

// seedUser is the person of dev and demo.
func seedUser(passwordVariable string) userConfig {
	return userConfig{
		Login: "alice", Subject: "alice", PasswordEnv: passwordVariable,
		Claims: map[string]any{
			"name": "Alice Example", "given_name": "Alice", "family_name": "Example",
			"preferred_username": "alice", "email": "alice@example.org", "email_verified": true,
		},
	}
}
