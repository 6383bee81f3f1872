package provider_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

// relyingParty is what an application would write with go-oidc and x/oauth2.
func relyingParty(t *testing.T, s *providertest.Server, clientID string) (context.Context, *oidc.Provider, *oauth2.Config) {
	t.Helper()
	ctx := oidc.ClientContext(t.Context(), s.HTTP.Client())
	op, err := oidc.NewProvider(ctx, s.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	config := &oauth2.Config{
		ClientID: clientID, ClientSecret: providertest.ClientSecret, Endpoint: op.Endpoint(),
		RedirectURL: providertest.RedirectURI, Scopes: []string{"openid", "profile", "email", "offline_access"},
	}
	return ctx, op, config
}

func TestCodeFlowWithGoOIDC(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"", "/tenant/a"} {
		for _, client := range []string{"web", "thirdparty"} {
			t.Run(client+path, func(t *testing.T) {
				t.Parallel()
				s := providertest.NewServer(t, providertest.Options{Path: path})
				ctx, op, config := relyingParty(t, s, client)
				verifier := oauth2.GenerateVerifier()
				start := config.AuthCodeURL("a-state", oauth2.S256ChallengeOption(verifier), oidc.Nonce("a-nonce"))

				browser := s.Browser()
				page := s.Get(ctx, browser, start)
				if page.Status != http.StatusOK || page.Hidden("next") == "" {
					t.Fatalf("sign-in page: %d %s", page.Status, page.Body)
				}
				reply := s.SignIn(ctx, browser, page)
				if client == "thirdparty" {
					reply = s.Post(ctx, browser, "/consent", map[string][]string{
						"csrf": {reply.Hidden("csrf")}, "request": {reply.Hidden("request")}, "decision": {"allow"},
					})
				}
				answer := reply.Location().Query()
				if answer.Get("state") != "a-state" || answer.Get("iss") != s.Issuer {
					t.Fatalf("redirect %q: %s", reply.Header.Get("Location"), reply.Body)
				}

				token, err := config.Exchange(ctx, answer.Get("code"), oauth2.VerifierOption(verifier))
				if err != nil {
					t.Fatal(err)
				}
				raw, _ := token.Extra("id_token").(string)
				idToken, err := op.Verifier(&oidc.Config{ClientID: client, Now: s.Clock.Now}).Verify(ctx, raw)
				if err != nil {
					t.Fatal(err)
				}
				if err := idToken.VerifyAccessToken(token.AccessToken); err != nil {
					t.Error(err)
				}
				if idToken.Nonce != "a-nonce" || idToken.Subject != providertest.AliceSubject {
					t.Errorf("ID token %+v", idToken)
				}
				info, err := op.UserInfo(ctx, oauth2.StaticTokenSource(token))
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff([]string{providertest.AliceSubject, "alice@example.org"}, []string{info.Subject, info.Email}); diff != "" {
					t.Error(diff)
				}
				if token.RefreshToken == "" {
					t.Error("no refresh token in spite of offline_access")
				}
			})
		}
	}
}
