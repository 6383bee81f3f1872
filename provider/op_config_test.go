package provider_test

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

// knownMetadata are the members that Discovery §3, RFC 8414 §2, RFC 8628 §4, RFC 9207 §3, RP-Initiated
// Logout §2.1, Back-Channel Logout §2.1, RFC 9449 §5.1, RFC 9126 §5, Initiating User Registration §5 and OAuth
// Client ID Metadata Document §5 register.
func knownMetadata() []string {
	return strings.Fields(`issuer authorization_endpoint token_endpoint userinfo_endpoint jwks_uri registration_endpoint
		scopes_supported response_types_supported response_modes_supported grant_types_supported acr_values_supported
		subject_types_supported id_token_signing_alg_values_supported id_token_encryption_alg_values_supported
		id_token_encryption_enc_values_supported userinfo_signing_alg_values_supported userinfo_encryption_alg_values_supported
		userinfo_encryption_enc_values_supported request_object_signing_alg_values_supported
		request_object_encryption_alg_values_supported request_object_encryption_enc_values_supported
		token_endpoint_auth_methods_supported token_endpoint_auth_signing_alg_values_supported display_values_supported
		claim_types_supported claims_supported service_documentation claims_locales_supported ui_locales_supported
		claims_parameter_supported request_parameter_supported request_uri_parameter_supported require_request_uri_registration
		op_policy_uri op_tos_uri revocation_endpoint revocation_endpoint_auth_methods_supported introspection_endpoint
		revocation_endpoint_auth_signing_alg_values_supported introspection_endpoint_auth_signing_alg_values_supported
		introspection_endpoint_auth_methods_supported code_challenge_methods_supported device_authorization_endpoint
		authorization_response_iss_parameter_supported end_session_endpoint backchannel_logout_supported
		backchannel_logout_session_supported prompt_values_supported dpop_signing_alg_values_supported
		pushed_authorization_request_endpoint require_pushed_authorization_requests client_id_metadata_document_supported`)
}

// Neither document has a member that no specification knows, an empty one or a null.
func TestOPConfigUnknownMetadataIsAbsent(t *testing.T) {
	t.Parallel()
	o := newOP(t, "query", opClients(), nil)
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"} {
		document := o.Get(t.Context(), o.Client(), path).JSON()
		if len(document) < 10 {
			t.Errorf("%s: %v", path, document)
		}
		for name, value := range document {
			list, isList := value.([]any)
			if !slices.Contains(knownMetadata(), name) || value == nil || value == "" || isList && len(list) == 0 {
				t.Errorf("%s: %s is %v", path, name, value)
			}
		}
	}
}

// The issuer is https, without query and fragment, and the address of the document begins with it,
// under a path too.
func TestOPConfigIssuer(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"", "/id/login"} {
		s := providertest.NewServer(t, providertest.Options{Path: path})
		issuer := s.Get(t.Context(), s.Client(), s.Issuer+"/.well-known/openid-configuration").Text("issuer")
		parsed, err := url.Parse(issuer)
		if err != nil || issuer != s.Issuer || parsed.Scheme != "https" || parsed.Host == "" || parsed.Path != path || strings.ContainsAny(issuer, "?#") {
			t.Errorf("issuer %q, %v", issuer, err)
		}
	}
}

// The key set stands where the document says; every key in it is valid, public, named once and for
// signatures, and every algorithm that is offered has one, RS256 among them.
func TestOPConfigKeySet(t *testing.T) {
	t.Parallel()
	o := newOP(t, "query", opClients(), nil)
	tokens, _ := o.tokens()
	document := o.Get(t.Context(), o.Client(), "/.well-known/openid-configuration")
	reply := o.Get(t.Context(), o.Client(), document.Text("jwks_uri"))
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(reply.Body), &set); err != nil || reply.Status != 200 || !strings.HasPrefix(reply.Header.Get("Content-Type"), "application/") {
		t.Fatalf("%d %v %s", reply.Status, err, reply.Body)
	}
	named := map[string]int{}
	var algs []any
	for _, k := range set.Keys {
		named[k.KeyID]++
		algs = append(algs, k.Algorithm)
		if !k.Valid() || !k.IsPublic() || k.Use != "sig" || k.KeyID == "" || named[k.KeyID] > 1 {
			t.Errorf("key %q: valid %t, public %t, use %q, %d times", k.KeyID, k.Valid(), k.IsPublic(), k.Use, named[k.KeyID])
		}
	}
	offered, _ := document.JSON()["id_token_signing_alg_values_supported"].([]any)
	if !slices.Contains(offered, any("RS256")) || slices.Contains(offered, any("none")) {
		t.Errorf("offered %v", offered)
	}
	for _, alg := range offered {
		if !slices.Contains(algs, alg) {
			t.Errorf("no key for %v among %v", alg, algs)
		}
	}
	var header struct{ Kid string }
	decodeSegment(t, tokens.IDToken, 0, &header)
	if named[header.Kid] != 1 {
		t.Errorf("the ID token's kid %q is not published", header.Kid)
	}
}
