package provider_test

import (
	"testing"
	"time"
)

func TestOPHybrid(t *testing.T) {
	t.Parallel()
	for _, types := range []string{"code id_token", "code token", "code id_token token"} {
		everyModule(t, types, "fragment")
	}
}

// Both endpoints are about one person and one sign-in, also long after the first one has answered.
func TestOPHybridSameSubjectFromBothEndpoints(t *testing.T) {
	t.Parallel()
	for _, subject := range []string{"public", "pairwise"} {
		p := newParty(t, "code id_token token", "fragment", map[string]any{"subject_type": subject})
		answer := p.answered(p.Code(t.Context(), p.browser, p.request()), p.request())
		front := p.claimsOf(answer.Get("id_token"), "a-nonce", answer.Get("access_token"), answer.Get("code"))
		p.Clock.Advance(50 * time.Second)
		tokens := tokensOf(t, p.redeemed(answer))
		back := p.claimsOf(tokens.IDToken, "a-nonce", tokens.AccessToken, "")
		for _, name := range []string{"iss", "sub", "aud", "sid", "auth_time", "acr"} {
			if front[name] != back[name] || front[name] == nil {
				t.Errorf("%s: %s is %v in front and %v behind", subject, name, front[name], back[name])
			}
		}
		if back["iat"].(float64) != front["iat"].(float64)+50 {
			t.Errorf("iat %v and %v", front["iat"], back["iat"])
		}
	}
}
