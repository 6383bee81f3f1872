package provider_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"
)

func TestGoOIDCDiscovery(t *testing.T) {
	inBubble(t, func(b *bubble) {
		want := oauth2.Endpoint{
			AuthURL: b.issuer + "/authorize", TokenURL: b.issuer + "/token", DeviceAuthURL: b.issuer + "/device_authorization",
		}
		op := b.discover()
		if diff := cmp.Diff(want, op.Endpoint()); diff != "" {
			b.t.Error(diff)
		}
		if op.UserInfoEndpoint() != b.issuer+"/userinfo" {
			b.t.Errorf("userinfo endpoint %q", op.UserInfoEndpoint())
		}
	})
}

// Every way to an ID token, under each algorithm, passes go-oidc's checks; and the checks are
// not empty: a foreign audience, another algorithm and the hour are noticed.
func TestGoOIDCVerifiesEveryIDToken(t *testing.T) {
	t.Parallel()
	nonce := oauth2.SetAuthURLParam("nonce", "a-nonce")
	doors := map[string]func(b *bubble, client string) *oauth2.Token{
		"code": func(b *bubble, client string) *oauth2.Token {
			return b.signIn(b.config(client, oauth2.AuthStyleInHeader), nonce)
		},
		"device_code": func(b *bubble, client string) *oauth2.Token {
			phone, config := b.phone(), b.config(client, oauth2.AuthStyleInParams)
			device := openDevice(b, config)
			phone.answer(time.Second, 2*time.Second, device.VerificationURIComplete, "", "approve")
			token, err := config.DeviceAccessToken(b.context(), device)
			if err != nil {
				b.t.Fatal(err)
			}
			return token
		},
		"qr_code": func(b *bubble, client string) *oauth2.Token {
			return scannedByAlice(b, b.config(client, oauth2.AuthStyleInParams))
		},
	}
	for _, row := range []struct{ door, client, alg string }{
		{"code", "web", "ES256"},
		{"code", "thirdparty", "RS256"},
		{"device_code", "tv", "ES256"},
		{"device_code", "tv-rs256", "RS256"},
		{"qr_code", "cli", "ES256"},
		{"qr_code", "cli-rs256", "RS256"},
		{"code", "web-eddsa", "EdDSA"},
		{"device_code", "tv-eddsa", "EdDSA"},
		{"qr_code", "cli-eddsa", "EdDSA"},
	} {
		t.Run(row.door+" "+row.alg, func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				token := doors[row.door](b, row.client)
				idToken := b.verified(token, row.client, row.alg, "a-nonce")
				var claims struct {
					SessionID string   `json:"sid"`
					AMR       []string `json:"amr"`
				}
				if err := idToken.Claims(&claims); err != nil {
					b.t.Fatal(err)
				}
				methods := []string{"pwd", "mca"}
				if row.door == "code" {
					methods = methods[:1]
				}
				if diff := cmp.Diff(methods, claims.AMR); diff != "" {
					b.t.Error(diff)
				}
				if claims.SessionID == "" || idToken.Expiry.Sub(idToken.IssuedAt) != 10*time.Minute {
					b.t.Errorf("sid %q, from %v to %v", claims.SessionID, idToken.IssuedAt, idToken.Expiry)
				}
				refusedByGoOIDC(b, token, row.client, row.alg)
			})
		})
	}
}

func refusedByGoOIDC(b *bubble, token *oauth2.Token, client, alg string) {
	b.t.Helper()
	raw, _ := token.Extra("id_token").(string)
	verify := func(config oidc.Config, raw string) error {
		config.Now = time.Now
		_, err := b.discover().Verifier(&config).Verify(b.context(), raw)
		return err
	}
	if verify(oidc.Config{ClientID: "svc"}, raw) == nil {
		b.t.Error("another client may use the ID token")
	}
	other := map[string]string{"ES256": "RS256", "RS256": "ES256", "EdDSA": "ES256"}[alg]
	if verify(oidc.Config{ClientID: client, SupportedSigningAlgs: []string{other}}, raw) == nil {
		b.t.Errorf("the ID token passes as %s", other)
	}
	forged := []byte(raw)
	// The first character of the signature; the last one has bits that mean nothing.
	if first := &forged[strings.LastIndexByte(raw, '.')+1]; *first == 'A' {
		*first = 'B'
	} else {
		*first = 'A'
	}
	if verify(oidc.Config{ClientID: client}, string(forged)) == nil {
		b.t.Error("the signature is not looked at")
	}
	time.Sleep(10*time.Minute + time.Second)
	var expired *oidc.TokenExpiredError
	if err := verify(oidc.Config{ClientID: client}, raw); !errors.As(err, &expired) {
		b.t.Errorf("after its time the ID token is %v", err)
	}
}
