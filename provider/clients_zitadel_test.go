package provider_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/zitadel/oidc/v3/pkg/client/rp"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"golang.org/x/oauth2"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

// zitadelRelyingParty discovers the provider as a seeded client. The algorithms come from
// discovery, as an application that takes both has to say.
func zitadelRelyingParty(b *bubble, clientID string, style oauth2.AuthStyle) rp.RelyingParty {
	b.t.Helper()
	secret := ""
	if strings.HasSuffix(clientID, "-confidential") {
		secret = providertest.ClientSecret
	}
	party, err := rp.NewRelyingPartyOIDC(b.t.Context(), b.issuer, clientID, secret, "", []string{"openid", "profile"},
		rp.WithHTTPClient(b.http), rp.WithAuthStyle(style), rp.WithSigningAlgsFromDiscovery())
	if err != nil {
		b.t.Fatal(err)
	}
	return party
}

// The library waits the interval after each answer, so a slow or a fast clock in the client
// shows as an interval that is longer or shorter than it was told.
func TestZitadelDeviceFlow(t *testing.T) {
	t.Parallel()
	rows := map[string]struct {
		client   string
		style    oauth2.AuthStyle
		interval time.Duration
	}{
		"public":                   {"tv", oauth2.AuthStyleAutoDetect, 5 * time.Second},
		"public in the header":     {"tv", oauth2.AuthStyleInHeader, 5 * time.Second},
		"public in the form":       {"tv", oauth2.AuthStyleInParams, 5 * time.Second},
		"confidential":             {"tv-confidential", oauth2.AuthStyleAutoDetect, 5 * time.Second},
		"confidential in header":   {"tv-confidential", oauth2.AuthStyleInHeader, 5 * time.Second},
		"confidential in the form": {"tv-confidential", oauth2.AuthStyleInParams, 5 * time.Second},
		"RS256":                    {"tv-rs256", oauth2.AuthStyleAutoDetect, 5 * time.Second},
		"a tenth too slow":         {"tv", oauth2.AuthStyleAutoDetect, 5500 * time.Millisecond},
		"a tenth too fast":         {"tv", oauth2.AuthStyleAutoDetect, 4500 * time.Millisecond},
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				phone := b.phone()
				party := zitadelRelyingParty(b, row.client, row.style)
				device, err := rp.DeviceAuthorization(b.t.Context(), []string{"openid", "profile"}, party, nil)
				if err != nil {
					b.t.Fatal(err)
				}
				if device.Interval != 5 || device.ExpiresIn != 600 {
					b.t.Errorf("interval %d, expires in %d", device.Interval, device.ExpiresIn)
				}
				phone.answer(100*time.Second, 122*time.Second, device.VerificationURIComplete, "", "approve")
				answer, err := rp.DeviceAccessToken(b.t.Context(), device.DeviceCode, row.interval, party)
				if err != nil {
					b.t.Fatal(err)
				}
				auth := "form"
				if row.style == oauth2.AuthStyleInHeader {
					auth = "header"
				}
				var want []poll
				at := row.interval
				for ; at < 122*time.Second; at += row.interval {
					want = append(want, poll{at, auth, pendingAnswer})
				}
				want = append(want, poll{at, auth, "tokens"})
				if diff := cmp.Diff(want, b.polled()); diff != "" {
					b.t.Error(diff)
				}
				verifyWithZitadel(b, party, answer)
			})
		})
	}
}

func verifyWithZitadel(b *bubble, party rp.RelyingParty, answer *oidc.AccessTokenResponse) {
	b.t.Helper()
	ctx := b.t.Context()
	claims, err := rp.VerifyTokens[*oidc.IDTokenClaims](ctx, answer.AccessToken, answer.IDToken, party.IDTokenVerifier())
	if err != nil {
		b.t.Fatal(err)
	}
	if claims.AccessTokenHash == "" {
		b.t.Error("the ID token has no at_hash, which the library lets pass")
	}
	info, err := rp.Userinfo[*oidc.UserInfo](ctx, answer.AccessToken, answer.TokenType, claims.Subject, party)
	if err != nil {
		b.t.Fatal(err)
	}
	if diff := cmp.Diff([]string{providertest.AliceSubject, "Alice Arden"}, []string{info.Subject, info.Name}); diff != "" {
		b.t.Error(diff)
	}
	if answer.ExpiresIn != 600 || answer.TokenType != oidc.BearerToken {
		b.t.Errorf("expires in %d, type %q", answer.ExpiresIn, answer.TokenType)
	}
}

// It takes the interval as given and adds five seconds for each slow_down.
func TestZitadelDeviceFlowTooFast(t *testing.T) {
	inBubble(t, func(b *bubble) {
		phone := b.phone()
		party := zitadelRelyingParty(b, "tv", oauth2.AuthStyleAutoDetect)
		device, err := rp.DeviceAuthorization(b.t.Context(), []string{"openid"}, party, nil)
		if err != nil {
			b.t.Fatal(err)
		}
		phone.answer(20*time.Second, 61*time.Second, device.VerificationURIComplete, "", "approve")
		if _, err := rp.DeviceAccessToken(b.t.Context(), device.DeviceCode, 4*time.Second, party); err != nil {
			b.t.Fatal(err)
		}
		want := []poll{
			{4 * time.Second, "form", pendingAnswer},
			{8 * time.Second, "form", "slow_down"},
			{17 * time.Second, "form", pendingAnswer},
			{26 * time.Second, "form", pendingAnswer},
			{35 * time.Second, "form", pendingAnswer},
			{44 * time.Second, "form", pendingAnswer},
			{53 * time.Second, "form", pendingAnswer},
			{62 * time.Second, "form", "tokens"},
		}
		if diff := cmp.Diff(want, b.polled()); diff != "" {
			b.t.Error(diff)
		}
	})
}

func TestZitadelDeviceFlowThatFails(t *testing.T) {
	t.Parallel()
	t.Run("a denial is access_denied", func(t *testing.T) {
		inBubble(t, func(b *bubble) { zitadelFails(b, b.phone(), "access_denied", 25*time.Second) })
	})
	t.Run("a code nobody scanned is expired_token", func(t *testing.T) {
		inBubble(t, func(b *bubble) { zitadelFails(b, nil, "expired_token", 540*time.Second) })
	})
}

func zitadelFails(b *bubble, denying *alicesPhone, code string, at time.Duration) {
	b.t.Helper()
	party := zitadelRelyingParty(b, "tv", oauth2.AuthStyleAutoDetect)
	device, err := rp.DeviceAuthorization(b.t.Context(), []string{"openid"}, party, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	if denying != nil {
		denying.answer(12*time.Second, 22*time.Second, device.VerificationURIComplete, "", "deny")
	}
	_, err = rp.DeviceAccessToken(b.t.Context(), device.DeviceCode, 5*time.Second, party)
	var refusal *oidc.Error
	if !errors.As(err, &refusal) || string(refusal.ErrorType) != code {
		b.t.Errorf("the library returned %v, want %s", err, code)
	}
	polls := b.polled()
	if diff := cmp.Diff(poll{at, "form", code}, polls[len(polls)-1]); diff != "" {
		b.t.Error(diff)
	}
}
