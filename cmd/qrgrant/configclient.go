package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// longestName bounds ids, names and logins in bytes: they stand in tokens, in logs and on pages.
const longestName = 256

// faults lists what would make the client fail later, at somebody's sign-in. server is the file
// that says what is switched on; nil when nobody knows.
func (c *clientConfig) faults(getenv func(string) string, server *configFile) []fault {
	var found faults
	found.when(c.ID == "", "id", "a client needs an id")
	found.tooLong("id", c.ID)
	found.tooLong("name", c.Name)
	found = append(found, c.secretFaults(getenv)...)
	found.when(c.PKCE != "" && c.PKCE != "required" && c.PKCE != "optional", "pkce", "pkce is required or optional")
	found.when(c.PKCE == "optional" && c.public(), "pkce", "a client without a secret always needs PKCE")
	found = append(found, c.choiceFaults()...)
	found = append(found, c.authFaults()...)
	found = append(found, c.keyFaults()...)
	found.when(c.QR.Lifetime != 0 && c.QR.Lifetime < minLifetime, "qr.lifetime", "lifetime must be at least 120s")
	found.when(c.QR.Lifetime > maxLifetime, "qr.lifetime", "lifetime must be at most 10220s")
	found = append(found, c.uriFaults()...)
	found = append(found, c.grantFaults()...)
	found = append(found, c.responseFaults(server)...)
	found = append(found, c.requestFaults(server)...)
	found = append(found, c.resourceFaults()...)
	found = append(found, c.subjectFaults(server)...)
	found.when(c.Approver && !slices.Contains(c.Scopes, qr.ApproveScope), "approver", "an approver needs the scope "+qr.ApproveScope)
	found.when(!c.Approver && len(c.SharedAudiences) > 0, "shared_audiences", "shared_audiences are for a client with approver: true")
	return append(found, c.listFaults()...)
}

// choiceFaults are those of keys that take one of a few words.
func (c *clientConfig) choiceFaults() []fault {
	var found faults
	found.choice("id_token_alg", c.IDTokenAlg, "ES256", "RS256", "EdDSA")
	found.choice("userinfo_alg", c.UserinfoAlg, "ES256", "RS256", "EdDSA")
	found.choice("qr.user_code", c.QR.UserCode, "compare", "type")
	found.choice("auth_method", c.AuthMethod, authMethods()...)
	found.choice("auth_alg", c.AuthAlg, assertionAlgs()...)
	found.choice("assertion_audience", c.AssertionAudience, "issuer", storage.AudienceEndpoint)
	found.choice("access_token_format", c.AccessTokenFormat, "opaque", "jwt")
	found.choice("request_object_alg", c.RequestObjectAlg, requestObjectAlgs()...)
	found.choice("application_type", c.ApplicationType, "web", "native")
	found.choice("subject_type", c.SubjectType, "public", "pairwise")
	return found
}

func (c *clientConfig) listFaults() []fault {
	var found faults
	found.twice("redirect_uris", c.RedirectURIs)
	found.twice("post_logout_redirect_uris", c.PostLogoutRedirectURIs)
	found.twice("grant_types", c.GrantTypes)
	found.twice("scopes", c.Scopes)
	found.twice("shared_audiences", c.SharedAudiences)
	found.twice("qr.allowed_scopes", c.QR.AllowedScopes)
	found.twice("resources", c.Resources)
	found.twice("serves", c.Serves)
	found.twice("request_uris", c.RequestURIs)
	found.twice("contacts", c.Contacts)
	found.twice("default_acr_values", c.DefaultACRValues)
	for i, contact := range c.Contacts {
		found.when(contact == "" || len(contact) > longestName, fmt.Sprintf("contacts[%d]", i),
			fmt.Sprintf("a contact must have from 1 to %d characters", longestName))
	}
	for i, acr := range c.DefaultACRValues {
		found.when(acr == "" || strings.ContainsAny(acr, " \t\n"), fmt.Sprintf("default_acr_values[%d]", i), "an acr value is one word")
	}
	return found
}

func (c *clientConfig) secretFaults(getenv func(string) string) []fault {
	var found faults
	found.when(c.SecretEnv != "" && len(c.SecretSHA256) > 0, "secret_env", "give secret_env or secret_sha256, not both")
	found.when(c.SecretEnv != "" && len(getenv(c.SecretEnv)) < minSecret, "secret_env",
		fmt.Sprintf("the environment variable %s must hold a generated secret of at least %d characters", c.SecretEnv, minSecret))
	for i, sum := range c.SecretSHA256 {
		at := fmt.Sprintf("secret_sha256[%d]", i)
		_, err := readSHA256(sum)
		found.when(err != nil, at, "this is not a SHA-256 in hexadecimal")
		found.when(err == nil && slices.ContainsFunc(c.SecretSHA256[:i], func(earlier string) bool { return strings.EqualFold(earlier, sum) }), at, "this stands here twice")
	}
	return found
}

func (c *clientConfig) grantFaults() []fault {
	var found faults
	for i, grant := range c.GrantTypes {
		_, known := grantTypes()[grant]
		found.when(!known, fmt.Sprintf("grant_types[%d]", i),
			fmt.Sprintf("unknown grant type %q; known are authorization_code, implicit, refresh_token, client_credentials, qr_code and device_code", grant))
	}
	device := c.grants("qr_code") || c.grants("device_code")
	both := c.grants("qr_code") && c.grants("device_code")
	found.when(both, "grant_types", "a client has at most one of qr_code and device_code")
	if device && !both && !c.QR.Enabled {
		at := "qr"
		if reflect.ValueOf(c.QR).IsZero() {
			at = "grant_types"
		}
		found.add(at, "this grant is off until it is switched on with qr: {enabled: true}; to switch a client off, say disabled: true")
	}
	found.when(c.grants("client_credentials") && c.public(), "grant_types", "client_credentials needs a secret; give secret_env or secret_sha256, or keys with auth_method: private_key_jwt")
	found.when(c.grants("refresh_token") && !device && !c.grants("authorization_code"), "grant_types",
		"refresh_token needs authorization_code, qr_code or device_code beside it, which a refresh token comes of")
	if len(c.RedirectURIs) == 0 {
		found.when(c.grants("authorization_code"), "grant_types", "authorization_code needs redirect_uris")
		found.when(c.grants("implicit"), "grant_types", "implicit needs redirect_uris")
		// With a secret it may be a resource server that only introspects; one that is switched
		// off may be no more than its id.
		found.when(len(c.GrantTypes) == 0 && c.public() && !c.Disabled, "id", "authorization_code, which a client has unless grant_types says otherwise, needs redirect_uris")
	}
	return found
}

func (c *clientConfig) uriFaults() []fault {
	var found faults
	for i, uri := range c.RedirectURIs {
		found.when(provider.CheckRedirectURI(uri) != nil, fmt.Sprintf("redirect_uris[%d]", i),
			fmt.Sprintf("%q cannot be redirected to: it must be absolute, without #, and https unless it leads to 127.0.0.1, [::1] or an app", uri))
	}
	for i, uri := range c.PostLogoutRedirectURIs {
		found.when(provider.CheckRedirectURI(uri) != nil, fmt.Sprintf("post_logout_redirect_uris[%d]", i), fmt.Sprintf("%q cannot be redirected to", uri))
	}
	found.when(c.BackchannelLogoutURI != "" && provider.CheckBackchannelLogoutURI(c.BackchannelLogoutURI) != nil, "backchannel_logout_uri",
		fmt.Sprintf("%q cannot be told: it must be absolute, without #, and https unless it is on this machine", c.BackchannelLogoutURI))
	found.when(c.BackchannelLogoutURI == "" && c.BackchannelLogoutSessionRequired, "backchannel_logout_session_required",
		"backchannel_logout_session_required needs a backchannel_logout_uri")
	shown := []struct{ key, uri string }{
		{"logo_uri", c.LogoURI}, {"client_uri", c.ClientURI}, {"policy_uri", c.PolicyURI}, {"tos_uri", c.TermsURI},
	}
	for _, s := range shown {
		found.when(s.uri != "" && provider.CheckShownURI(s.uri) != nil, s.key,
			fmt.Sprintf("%.80q cannot be shown to people: it must be https (http on this machine only) with a plain host name, without user, # or space, and at most %d characters", s.uri, provider.LongestShownURI))
	}
	return found
}
