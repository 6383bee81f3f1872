package provider_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestOPImplicit(t *testing.T) {
	t.Parallel()
	for _, types := range []string{"id_token", "id_token token"} {
		everyModule(t, types, "fragment")
	}
}

func TestOPImplicitEnsureRequestWithoutNonceFails(t *testing.T) {
	t.Parallel()
	for _, types := range []string{"id_token", "id_token token", "code id_token", "code id_token token"} {
		for _, mode := range []string{"fragment", "form_post"} {
			t.Run(types+" by "+mode, func(t *testing.T) {
				t.Parallel()
				p := newParty(t, types, mode, nil)
				p.wantRefusal("invalid_request", "nonce", "")
				// The refusal is of the request: a person who is signed in changes nothing.
				p.signIn()
				p.wantRefusal("invalid_request", "nonce", "", "prompt", "none")
			})
		}
	}
}

// What the client did not register it does not get, and a query never holds a token.
func TestOPImplicitStaysWithinTheRegistration(t *testing.T) {
	t.Parallel()
	p := newParty(t, "id_token", "fragment", nil)
	p.signIn()
	for _, types := range []string{"id_token token", "code id_token", "code token"} {
		p.wantRefusal("unauthorized_client", "response_type", types)
	}
	for _, unknown := range []string{"token", "none", "id_token id_token", "code token none"} {
		if reply := p.ask("response_type", unknown); reply.Location().Query().Get("error") != "unsupported_response_type" {
			t.Errorf("%s: %d %s", unknown, reply.Status, reply.Header.Get("Location"))
		}
	}
	reply := p.ask("response_mode", "query")
	if to := reply.Header.Get("Location"); reply.Status != http.StatusSeeOther || strings.Contains(to, "id_token=") || !strings.Contains(to, "error=invalid_request") {
		t.Errorf("%d %s", reply.Status, to)
	}
	// There is no code for a client of this response type, so it can redeem none.
	wantError(t, p.redeemed(url.Values{"code": {"a-code"}}), http.StatusBadRequest, "unauthorized_client")
}
