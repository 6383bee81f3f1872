package player_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/player"
	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/providertest"
)

// realServer is a provider whose clock shows the real time, which go-oidc goes by.
func realServer(t *testing.T) *providertest.Server {
	t.Helper()
	s := providertest.NewServer(t, providertest.Options{HTTP: true})
	s.Clock.Advance(time.Since(s.Clock.Now()))
	return s
}

func newKey(t *testing.T, s *providertest.Server) *dpop.Key {
	t.Helper()
	key, err := dpop.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key.Now = s.Clock.Now
	return key
}

func newApprover(t *testing.T, s *providertest.Server, key *dpop.Key) *player.Approver {
	t.Helper()
	phone := &player.Approver{
		Issuer: s.Issuer, ClientID: "phone", RedirectURI: providertest.AppRedirectURI,
		Login: providertest.AliceLogin, Password: providertest.AlicePassword, HTTP: &http.Client{}, Key: key,
	}
	if err := phone.SignIn(t.Context()); err != nil {
		t.Fatal(err)
	}
	return phone
}

// replay asks with a stolen access token: as a bearer token, or with the thief's own key.
func replay(t *testing.T, s *providertest.Server, method, path, token string, thief *dpop.Key) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL(path), strings.NewReader(`{"user_code": "BBBB-BBBB"}`))
	if err != nil {
		t.Fatal(err)
	}
	client, scheme := s.Client(), "Bearer "
	if thief != nil {
		client, scheme = &http.Client{Transport: &dpop.Transport{Key: thief}}, "DPoP "
	}
	req.Header.Set("Authorization", scheme+token)
	req.Header.Set("Content-Type", "application/json")
	return s.Do(client, req).Status
}

// TestTokensAreBound plays a whole sign-in with a key each; a copy of either token is worth nothing.
func TestTokensAreBound(t *testing.T) {
	t.Parallel()
	s := realServer(t)
	pcKey, phoneKey, thief := newKey(t, s), newKey(t, s), newKey(t, s)
	pc := &player.ConsumptionDevice{Issuer: s.Issuer, ClientID: "cli", Grant: player.GrantQR, Scopes: []string{"openid"}, HTTP: &http.Client{}, Key: pcKey}
	attempt, err := pc.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ref, err := player.ReadReference(s.Issuer, attempt.Payload)
	if err != nil {
		t.Fatal(err)
	}
	phone := newApprover(t, s, phoneKey)
	if phone.TokenType() != "DPoP" {
		t.Errorf("the phone's token is of the type %q", phone.TokenType())
	}
	claim, err := phone.Scan(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	tokens := await(t, attempt, func(code string) {
		if _, err := phone.Decide(t.Context(), claim, player.Verdict{Decision: "approve", CheckCode: code}); err != nil {
			t.Error(err)
		}
	})
	if !strings.EqualFold(tokens.TokenType, "DPoP") {
		t.Errorf("the PC's token is of the type %q", tokens.TokenType)
	}
	for _, row := range []struct{ what, method, path, token string }{
		{"the phone's at userinfo", http.MethodGet, "/userinfo", phone.AccessToken()},
		{"the phone's at the scan", http.MethodPost, "/qr/scan", phone.AccessToken()},
		{"the phone's list of sign-ins", http.MethodGet, "/sessions", phone.AccessToken()},
		{"the PC's at userinfo", http.MethodGet, "/userinfo", tokens.AccessToken},
	} {
		if status := replay(t, s, row.method, row.path, row.token, nil); status != http.StatusUnauthorized {
			t.Errorf("%s, as a bearer token: %d", row.what, status)
		}
		if status := replay(t, s, row.method, row.path, row.token, thief); status != http.StatusUnauthorized {
			t.Errorf("%s, with another key: %d", row.what, status)
		}
	}
	// The owner is not in doubt: the refusals above are those of the key.
	if status := replay(t, s, http.MethodGet, "/userinfo", tokens.AccessToken, pcKey); status != http.StatusOK {
		t.Errorf("the PC itself gets %d", status)
	}
}

// await waits for the tokens and tells the check code once.
func await(t *testing.T, attempt *player.Attempt, show func(code string)) *player.Tokens {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	shown := false
	tokens, err := attempt.Await(ctx, func(u player.Update) {
		if u.CheckCode != "" && !shown {
			shown = true
			show(u.CheckCode)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

// TestCancelProvesTheKey: the server takes the end of a bound sign-in from the owner of its key only.
func TestCancelProvesTheKey(t *testing.T) {
	t.Parallel()
	s := realServer(t)
	pc := &player.ConsumptionDevice{Issuer: s.Issuer, ClientID: "cli", Grant: player.GrantQR, HTTP: &http.Client{}, Key: newKey(t, s)}
	attempt, err := pc.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := attempt.Cancel(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestServersWithoutDPoP: who does not list it gets no proof, and who lists it has to bind.
func TestServersWithoutDPoP(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		lists bool
		proof bool
		fails bool
	}{
		"a server that knows no DPoP":              {false, false, false},
		"a server that lists it and binds nothing": {true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := dpop.NewKey()
			if err != nil {
				t.Fatal(err)
			}
			s := &script{polls: []func() (*http.Response, error){answer(200, tokens)}, dpop: row.lists}
			device := &player.ConsumptionDevice{Issuer: issuer, ClientID: "cli", Grant: player.GrantQR, HTTP: &http.Client{Transport: s}, Key: key}
			attempt, err := device.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := attempt.Await(t.Context(), func(player.Update) {}); (err != nil) != row.fails {
				t.Errorf("end %v", err)
			}
			if (s.proofs > 0) != row.proof {
				t.Errorf("%d proofs were sent", s.proofs)
			}
		})
	}
}
