package provider_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// What the dynamic, implicit and hybrid plans ask for contradicts OAuth 2.1 in part and costs reach
// in all: with every switch off nothing of it is told of, answered or fetched, whatever stands in
// the record of a client.
func TestOPSwitchesOff(t *testing.T) {
	t.Parallel()
	docs, key := providertest.NewDocuments(t), providertest.NewClientKey(t, jose.ES256, "a-key")
	object, document := docs.URL+"/request.jwt", docs.URL+"/client.json"
	client := &storage.Client{
		ID: "rp", Name: "Everything", AuthMethod: storage.AuthPrivateKeyJWT, JWKS: jsonOf(t, providertest.JWKS(key)), PKCEOptional: true,
		RedirectURIs: []string{providertest.RedirectURI}, GrantTypes: []string{"authorization_code", "implicit", "refresh_token"}, Scopes: []string{"openid"},
		ResponseTypes: []string{"code", "id_token", "id_token token", "code id_token", "code token", "code id_token token"}, RequestURIs: []string{object},
	}
	// The addresses can be reached: what is not asked for is not asked for because it is off.
	p := &party{op: newOP(t, "query", []*storage.Client{client}, docs.Reachable), docs: docs, key: key}
	docs.Put("/request.jwt", "application/oauth-authz-req+jwt", p.object(key))
	docs.PutJSON("/client.json", map[string]any{"client_id": document, "redirect_uris": []string{providertest.RedirectURI}, "token_endpoint_auth_method": "none"})

	for _, response := range client.ResponseTypes[1:] {
		p.wantRefusal("unsupported_response_type", "response_type", response)
		pushed := p.PostSigned(t.Context(), key, "rp", "/par", p.request("response_type", response))
		wantError(t, pushed, http.StatusBadRequest, "unsupported_response_type")
	}
	p.wantRefusal("invalid_request", "response_mode", "fragment")
	p.wantRefusal("request_not_supported", "request", p.object(key))
	p.wantRefusal("request_uri_not_supported", "request_uri", object)
	wantError(t, p.PostSigned(t.Context(), key, "rp", "/par", url.Values{"request": {p.object(key)}}), http.StatusBadRequest, "request_not_supported")
	p.wantErrorPage(p.ask("client_id", document))
	wantError(t, p.Post(t.Context(), p.Client(), "/par", p.request("client_id", document)), http.StatusUnauthorized, "invalid_client")
	if n := docs.Reads("/request.jwt") + docs.Reads("/client.json"); n != 0 {
		t.Errorf("%d documents were read", n)
	}
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		for _, path := range []string{"/register", "/register/rp"} {
			if reply := p.SendJSON(t.Context(), method, path, providertest.InitialAccessToken, nil); reply.Status != http.StatusNotFound {
				t.Errorf("%s %s: %d %s", method, path, reply.Status, reply.Body)
			}
		}
	}
	p.wantSwitchesUntold()
	// What is left is the code flow.
	answer := p.answerOf(p.Code(t.Context(), p.browser, p.request()))
	tokensOf(t, p.redeemed(answer))
}

// wantSwitchesUntold checks both documents of the metadata.
func (p *party) wantSwitchesUntold() {
	p.t.Helper()
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"} {
		document := p.Get(p.t.Context(), p.Client(), path).JSON()
		for name, want := range map[string]any{
			"registration_endpoint": nil, "response_types_supported": []any{"code"}, "response_modes_supported": []any{"query", "form_post"},
		} {
			if diff := cmp.Diff(want, document[name]); diff != "" {
				p.t.Errorf("%s: %s: %s", path, name, diff)
			}
		}
		for _, name := range []string{"client_id_metadata_document_supported", "request_parameter_supported", "request_uri_parameter_supported"} {
			if told, there := document[name]; there && told != false {
				p.t.Errorf("%s: %s is %v", path, name, told)
			}
		}
		grants, _ := document["grant_types_supported"].([]any)
		if slices.Contains(grants, any("implicit")) || len(grants) == 0 {
			p.t.Errorf("%s: grants %v", path, grants)
		}
	}
	openid := p.metadataDocument()
	// Its default is true.
	if openid["request_uri_parameter_supported"] != false || strings.Join(p.offers("subject_types_supported"), " ") != "public" {
		p.t.Errorf("metadata %v", openid)
	}
}
