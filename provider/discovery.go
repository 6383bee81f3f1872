package provider

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/internal/jws"
	"github.com/qrgrant/qrgrant/provider/internal/reply"
	"github.com/qrgrant/qrgrant/storage"
)

// metadata is the provider's description of itself (OpenID Connect Discovery §3, RFC 8414 §2).
// The members are those the specifications know: an unknown one is a certification warning,
// which is why package qr has a document of its own.
type metadata struct {
	Issuer                string   `json:"issuer"`
	Authorization         string   `json:"authorization_endpoint"`
	PushedAuthorization   string   `json:"pushed_authorization_request_endpoint"`
	RequirePushed         bool     `json:"require_pushed_authorization_requests"`
	Token                 string   `json:"token_endpoint"`
	DeviceAuthorization   string   `json:"device_authorization_endpoint"`
	Userinfo              string   `json:"userinfo_endpoint,omitempty"`
	JWKS                  string   `json:"jwks_uri"`
	Introspection         string   `json:"introspection_endpoint"`
	Revocation            string   `json:"revocation_endpoint"`
	Registration          string   `json:"registration_endpoint,omitempty"`
	Scopes                []string `json:"scopes_supported"`
	ResponseTypes         []string `json:"response_types_supported"`
	ResponseModes         []string `json:"response_modes_supported"`
	GrantTypes            []string `json:"grant_types_supported"`
	ACRValues             []string `json:"acr_values_supported,omitempty"`
	SubjectTypes          []string `json:"subject_types_supported,omitempty"`
	IDTokenAlgs           []string `json:"id_token_signing_alg_values_supported,omitempty"`
	UserinfoAlgs          []string `json:"userinfo_signing_alg_values_supported,omitempty"`
	RequestObjectAlgs     []string `json:"request_object_signing_alg_values_supported,omitempty"`
	TokenAuthMethods      []string `json:"token_endpoint_auth_methods_supported"`
	TokenAuthAlgs         []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	IntrospectAuthMethods []string `json:"introspection_endpoint_auth_methods_supported"`
	IntrospectAuthAlgs    []string `json:"introspection_endpoint_auth_signing_alg_values_supported"`
	RevokeAuthMethods     []string `json:"revocation_endpoint_auth_methods_supported"`
	RevokeAuthAlgs        []string `json:"revocation_endpoint_auth_signing_alg_values_supported"`
	ChallengeMethods      []string `json:"code_challenge_methods_supported"`
	Prompts               []string `json:"prompt_values_supported,omitempty"`
	Claims                []string `json:"claims_supported,omitempty"`
	ClaimTypes            []string `json:"claim_types_supported,omitempty"`
	UILocales             []string `json:"ui_locales_supported,omitempty"`
	ClaimsParameter       *bool    `json:"claims_parameter_supported,omitempty"`
	RequestParameter      *bool    `json:"request_parameter_supported,omitempty"`
	RequestURIParameter   *bool    `json:"request_uri_parameter_supported,omitempty"`
	RegisterRequestURIs   bool     `json:"require_request_uri_registration,omitempty"`
	EndSession            string   `json:"end_session_endpoint,omitempty"`
	BackchannelLogout     bool     `json:"backchannel_logout_supported,omitempty"`
	BackchannelSession    bool     `json:"backchannel_logout_session_supported,omitempty"`
	DPoPAlgs              []string `json:"dpop_signing_alg_values_supported"`
	IssParameter          bool     `json:"authorization_response_iss_parameter_supported"`
	ClientMetadata        bool     `json:"client_id_metadata_document_supported,omitempty"`
}

// metadataDocuments are the two documents, encoded once.
type metadataDocuments struct {
	openid, oauth []byte
}

// describe builds both documents from the route table.
func (p *Provider) describe() error {
	confidential := []string{authBasic, authPost, storage.AuthPrivateKeyJWT}
	methods := append(slices.Clone(confidential), authNone)
	m := metadata{
		Issuer:                p.config.Issuer,
		Authorization:         p.urlOf(routeAuthorize),
		PushedAuthorization:   p.urlOf(routePAR),
		Token:                 p.urlOf(routeToken),
		DeviceAuthorization:   p.urlOf(routeDeviceStart),
		JWKS:                  p.urlOf(routeJWKS),
		Introspection:         p.urlOf(routeIntrospect),
		Revocation:            p.urlOf(routeRevoke),
		Scopes:                []string{"openid", "profile", "email", "address", "phone", "offline_access"},
		ResponseTypes:         p.config.responseTypes(),
		ResponseModes:         p.config.responseModes(),
		GrantTypes:            p.config.grantTypes(),
		TokenAuthMethods:      methods,
		TokenAuthAlgs:         assertionAlgorithms(),
		IntrospectAuthMethods: confidential,
		IntrospectAuthAlgs:    assertionAlgorithms(),
		RevokeAuthMethods:     methods,
		RevokeAuthAlgs:        assertionAlgorithms(),
		ChallengeMethods:      []string{"S256"},
		DPoPAlgs:              dpop.Algorithms(),
		IssParameter:          true,
		ClientMetadata:        p.config.ClientMetadata,
	}
	if p.config.Registration.Enabled() {
		m.Registration = p.urlOf(routeRegister)
	}
	var err error
	if p.metadata.oauth, err = json.Marshal(m); err != nil {
		return fmt.Errorf("provider: metadata: %w", err)
	}
	p.describeOpenID(&m)
	if p.metadata.openid, err = json.Marshal(m); err != nil {
		return fmt.Errorf("provider: metadata: %w", err)
	}
	return nil
}

// describeOpenID adds what only OpenID Connect knows.
func (p *Provider) describeOpenID(m *metadata) {
	yes := true
	m.Userinfo = p.urlOf(routeUserinfo)
	m.EndSession = p.urlOf(routeLogout)
	m.BackchannelLogout, m.BackchannelSession = true, true
	m.ACRValues = []string{acrOneFactor}
	m.SubjectTypes = p.config.subjectTypes()
	m.IDTokenAlgs = algorithmNames(signingAlgorithms())
	m.UserinfoAlgs = m.IDTokenAlgs
	// Without "none" here a relying party that could sign its request does not try to send an
	// unsigned one; whether signed ones are taken, request_parameter_supported says.
	m.RequestObjectAlgs = acceptedNames(requestObjectAlgs())
	m.Prompts = []string{"none", "login", "consent", "select_account"}
	m.Claims = supportedClaims()
	m.ClaimTypes = []string{"normal"}
	m.UILocales = languages()
	m.ClaimsParameter, m.RequestParameter, m.RequestURIParameter = &yes, &p.config.RequestObjects, &p.config.RequestURIs
	m.RegisterRequestURIs = p.config.RequestURIs
}

func algorithmNames(algs []jose.SignatureAlgorithm) []string {
	names := make([]string, len(algs))
	for i, alg := range algs {
		names[i] = string(alg)
	}
	return names
}

// acceptedNames are the algorithms that others may sign with, EdDSA by both its names. We sign
// under the older one, which every library knows.
func acceptedNames(algs []jose.SignatureAlgorithm) []string {
	names := algorithmNames(algs)
	if slices.Contains(algs, jose.EdDSA) {
		names = append(names, string(jws.Ed25519))
	}
	return names
}

// openidConfiguration is GET /.well-known/openid-configuration.
func (p *Provider) openidConfiguration(w http.ResponseWriter, _ *http.Request) {
	writeEncoded(w, p.metadata.openid)
}

// oauthConfiguration is GET /.well-known/oauth-authorization-server.
func (p *Provider) oauthConfiguration(w http.ResponseWriter, _ *http.Request) {
	writeEncoded(w, p.metadata.oauth)
}

// writeDocument answers with a public document that may be cached for a short while.
func writeDocument(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		reply.Fail(w, reply.Failure{Status: http.StatusInternalServerError, Code: "server_error"})
		return
	}
	writeEncoded(w, body)
}

func writeEncoded(w http.ResponseWriter, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "public, max-age=60")
	h.Set("X-Content-Type-Options", "nosniff")
	// Public keys and metadata hold nothing personal; browser clients need to read them.
	h.Set("Access-Control-Allow-Origin", "*")
	_, _ = w.Write(body)
}
