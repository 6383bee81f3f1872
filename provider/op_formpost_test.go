package provider_test

import "testing"

// The plans formpost-basic, -implicit and -hybrid: every module with response_mode=form_post, by
// a client that registered itself. Codes, tokens and errors go to the client's server in a form,
// and nothing of them stands in an address.

func TestOPFormPostBasic(t *testing.T) {
	t.Parallel()
	everyModule(t, "code", "form_post")
}

func TestOPFormPostImplicit(t *testing.T) {
	t.Parallel()
	for _, types := range []string{"id_token", "id_token token"} {
		everyModule(t, types, "form_post")
	}
}

func TestOPFormPostHybrid(t *testing.T) {
	t.Parallel()
	for _, types := range []string{"code id_token", "code token", "code id_token token"} {
		everyModule(t, types, "form_post")
	}
}
