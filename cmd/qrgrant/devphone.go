package main

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/url"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/player"
	"github.com/qrgrant/qrgrant/provider/qr"
)

// seedMobile is the client of the example phone application that dev runs.
func seedMobile(address string) clientConfig {
	return clientConfig{
		ID: mobileClient, Name: "Phone app", FirstParty: true, Approver: true, RequireDPoP: true,
		RedirectURIs: []string{address + "/"}, PostLogoutRedirectURIs: []string{address + "/"},
		GrantTypes: []string{"authorization_code", "refresh_token"},
		Scopes:     []string{"openid", "profile", "offline_access", qr.ApproveScope},
	}
}

// seedPlayground is the client of the PC on the page. The redirect URI says of which origin its
// script may be.
func seedPlayground(address string) clientConfig {
	scopes := []string{"openid", "profile"}
	return clientConfig{
		ID: playgroundClient, Name: "Playground PC", GrantTypes: []string{"qr_code"}, RedirectURIs: []string{address + "/"},
		Scopes: scopes, QR: qrConfig{Enabled: true, AllowedScopes: scopes},
	}
}

// signIn returns what signs alice in at the server's pages, for the phone in the frame.
func (p *place) signIn(issuer, password string) func(context.Context, string) (*url.URL, error) {
	phone := p.client()
	phone.Transport = &named{agent: devAgent, next: phone.Transport}
	return func(ctx context.Context, address string) (*url.URL, error) {
		alice := &player.Approver{
			Issuer: issuer, ClientID: mobileClient, RedirectURI: p.phone.url + "/", Login: "alice", Password: password, HTTP: phone,
		}
		return alice.Browse(ctx, address)
	}
}

// client is an HTTP client that knows the certificate of this run.
func (p *place) client() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if c := p.host.certificate; c != nil {
		transport.TLSClientConfig = &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Timeout: requestTimeout, Transport: transport}
}

// named puts a User-Agent on requests, so that the log says whose they are.
type named struct {
	agent string
	next  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (n *named) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", n.agent)
	return n.next.RoundTrip(req)
}
