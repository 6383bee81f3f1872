// Command tv signs a television in with the device grant (RFC 8628), using nothing but
// golang.org/x/oauth2 and coreos/go-oidc. Try it beside `qrgrant dev`:
//
//	go run ./examples/tv --issuer http://127.0.0.1:8080 --client-id tv
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/skip2/go-qrcode"
	"golang.org/x/oauth2"
)

func main() {
	issuer := flag.String("issuer", cmp.Or(os.Getenv("ISSUER"), "http://127.0.0.1:8080"), "`URL` of the server, or $ISSUER")
	clientID := flag.String("client-id", cmp.Or(os.Getenv("CLIENT_ID"), "tv"), "`ID` of the client, or $CLIENT_ID")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := signIn(ctx, os.Stdout, *issuer, *clientID); err != nil {
		fmt.Fprintln(os.Stderr, "tv:", err)
		os.Exit(1)
	}
}

// signIn shows a code, waits until somebody has approved it elsewhere, and prints who it is.
func signIn(ctx context.Context, out io.Writer, issuer, clientID string) error {
	provider, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		return fmt.Errorf("find the server: %w", err)
	}
	config := oauth2.Config{ClientID: clientID, Endpoint: provider.Endpoint(), Scopes: []string{oidc.ScopeOpenID, "profile"}}
	// PKCE ties the tokens to this process: a stolen device_code alone fetches nothing.
	verifier, nonce := oauth2.GenerateVerifier(), oauth2.GenerateVerifier()
	device, err := config.DeviceAuth(ctx, oauth2.S256ChallengeOption(verifier), oidc.Nonce(nonce))
	if err != nil {
		return fmt.Errorf("ask for a code: %w", err)
	}
	if err := show(out, device); err != nil {
		return err
	}
	token, err := config.DeviceAccessToken(ctx, device, oauth2.VerifierOption(verifier))
	if err != nil {
		return fmt.Errorf("wait for the approval: %w", err)
	}
	raw, _ := token.Extra("id_token").(string)
	idToken, err := provider.VerifierContext(ctx, &oidc.Config{ClientID: clientID}).Verify(ctx, raw)
	if err != nil {
		return fmt.Errorf("verify the ID token: %w", err)
	}
	if idToken.Nonce != nonce {
		return errors.New("verify the ID token: it answers another request than ours")
	}
	var claims json.RawMessage
	if err := idToken.Claims(&claims); err != nil {
		return fmt.Errorf("read the claims: %w", err)
	}
	fmt.Fprintf(out, "Signed in as %s: %s\n", idToken.Subject, claims)
	return nil
}

// show prints the two ways to approve: scan the picture, or open the page and type the code.
func show(out io.Writer, device *oauth2.DeviceAuthResponse) error {
	if device.VerificationURIComplete != "" {
		code, err := qrcode.New(device.VerificationURIComplete, qrcode.Medium)
		if err != nil {
			return fmt.Errorf("draw the code: %w", err)
		}
		// Light modules are the drawn ones: right for the usual light-on-dark terminal.
		fmt.Fprintln(out, code.ToSmallString(false))
	}
	_, err := fmt.Fprintf(out, "Scan this, or open %s and type %s\nCompare: the phone must show the same code.\n", device.VerificationURI, device.UserCode)
	return err
}
