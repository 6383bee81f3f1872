package provider_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
)

// TestWholeSignIn is the grant end to end, for every client that may use it, and the result of
// protocol §7.
func TestWholeSignIn(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		client    string
		asked     string
		scope     string
		audience  string
		refreshed bool
	}{
		{"cli", "openid email offline_access", "openid email offline_access", "cli", true},
		{"cli", "openid", "openid", "cli", false},
		{"tv", "openid profile offline_access", "openid profile offline_access", "tv", true},
		// Its policy names nothing: openid and profile, and nothing offline.
		{"kiosk", "openid profile", "openid profile", "kiosk", false},
	} {
		t.Run(row.client+" "+row.asked, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			signedIn := personTokens(t, s, providertest.AliceLogin, "phone", "openid "+qr.ApproveScope)
			approver := claims(t, signedIn.IDToken)
			// What is the phone's must not be mistaken for the time of the approval.
			s.Clock.Advance(3 * time.Minute)
			c := openQR(t, s, row.client, url.Values{"scope": {row.asked}, "nonce": {"the-nonce"}})
			_, decided := c.approve(&phone{t: t, s: s, token: signedIn.AccessToken})
			s.Clock.Advance(10 * time.Second)
			reply := c.poll(t.Context())
			tokens := tokensOf(t, reply)

			got := claims(t, tokens.IDToken)
			now := float64(s.Clock.Now().Unix())
			want := map[string]any{
				"iss": s.Issuer, "sub": providertest.AliceSubject, "aud": row.audience, "nonce": "the-nonce",
				"sid": decided.Text("sid"), "auth_time": approver["auth_time"], "acr": approver["acr"], "amr": []any{"pwd", "mca"},
				"iat": now, "exp": now + 600, "at_hash": got["at_hash"], "jti": got["jti"],
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("ID token: %s", diff)
			}
			if got["sid"] == "" || got["sid"] == approver["sid"] || approver["auth_time"] == now || approver["acr"] == nil {
				t.Errorf("sid %v, the phone's %v; auth_time %v; acr %v", got["sid"], approver["sid"], approver["auth_time"], approver["acr"])
			}
			if tokens.ExpiresIn != 600 || !strings.EqualFold(tokens.TokenType, "Bearer") || tokens.Scope != row.scope || (tokens.RefreshToken != "") != row.refreshed {
				t.Errorf("answer %s", reply.Body)
			}
			info := s.Bearer(t.Context(), "/userinfo", tokens.AccessToken)
			_, email := info.JSON()["email"]
			if info.Status != http.StatusOK || info.Text("sub") != providertest.AliceSubject || email != strings.Contains(row.scope, "email") {
				t.Errorf("userinfo: %d %s", info.Status, info.Body)
			}
			s.Clock.Advance(10 * time.Minute)
			if active(t, s, tokens.AccessToken) {
				t.Error("the access token lives longer than it says")
			}
		})
	}
}
