package provider

import (
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/storage"
)

// What bounds the metadata of a client that describes itself, in bytes and in number.
const (
	longestClientName = 200
	longestClientText = 256
	mostRedirects     = 32
	mostClientWords   = 16
	grantImplicit     = "implicit"
)

func invalidMetadata(sentence string) *oauthError {
	return &oauthError{status: http.StatusBadRequest, code: "invalid_client_metadata", description: sentence}
}

func invalidRedirect(sentence string) *oauthError {
	return &oauthError{status: http.StatusBadRequest, code: "invalid_redirect_uri", description: sentence}
}

// clientMetadata reads what a client says of itself (RFC 7591 §2, OpenID Connect Dynamic Client
// Registration §2): at the registration endpoint or in the document at its id. Members that are
// not known are ignored, null and empty texts count as left out, and the first fault stays.
type clientMetadata struct {
	members map[string]json.RawMessage
	fault   *oauthError
}

func (m *clientMetadata) refuse(fault *oauthError) {
	if m.fault == nil {
		m.fault = fault
	}
}

func (m *clientMetadata) has(name string) bool {
	raw, present := m.members[name]
	return present && string(raw) != "null"
}

// decode reads a member into v, which stays as it is when the member is left out.
func (m *clientMetadata) decode(name string, v any) {
	if m.has(name) && json.Unmarshal(m.members[name], v) != nil {
		m.refuse(invalidMetadata("The member " + name + " is of another type."))
	}
}

// text reads a text of at most that many bytes.
func (m *clientMetadata) text(name string, longest int) string {
	var text string
	m.decode(name, &text)
	if len(text) > longest || !plain(text) {
		m.refuse(invalidMetadata("The member " + name + " is too long or holds invalid characters."))
	}
	return text
}

// plain reports whether a text has nothing in it that would change how what stands beside it
// reads: line breaks, or marks that turn the direction.
func plain(text string) bool {
	return form.Clean(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

// list reads a list of at most that many texts, none of them empty or twice.
func (m *clientMetadata) list(name string, most, longest int) []string {
	var texts []*string
	m.decode(name, &texts)
	if len(texts) > most {
		m.refuse(invalidMetadata("The member " + name + " has too many values."))
		return nil
	}
	var list []string
	for _, text := range texts {
		if text == nil || *text == "" || len(*text) > longest || !plain(*text) || slices.Contains(list, *text) {
			m.refuse(invalidMetadata("The member " + name + " holds a value that is malformed or stands there twice."))
			return nil
		}
		list = append(list, *text)
	}
	return list
}

func (m *clientMetadata) flag(name string) bool {
	var flag bool
	m.decode(name, &flag)
	return flag
}

// oneOf reads a text that has to be one of those; left out it is the given one.
func (m *clientMetadata) oneOf(name, otherwise string, allowed ...string) string {
	text := m.text(name, longestClientText)
	if text == "" {
		return otherwise
	}
	if !slices.Contains(allowed, text) {
		m.refuse(invalidMetadata("The " + name + " is not supported."))
	}
	return text
}

// uri reads an address that passes the check.
func (m *clientMetadata) uri(name string, check func(raw string) error) string {
	raw := m.text(name, LongestShownURI)
	if raw != "" && check(raw) != nil {
		m.refuse(invalidMetadata("The " + name + " cannot be used."))
	}
	return raw
}

// uris is uri for a list.
func (m *clientMetadata) uris(name string, check func(raw string) error) []string {
	all := m.list(name, mostRedirects, LongestShownURI)
	for _, raw := range all {
		if check(raw) != nil {
			m.refuse(invalidMetadata("One of the " + name + " cannot be used."))
		}
	}
	return all
}

// checkOwnAddress: it is called, or opened in a browser, on behalf of the client, over TLS.
func checkOwnAddress(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" || CheckRedirectURI(raw) != nil || strings.ContainsFunc(raw, unfitForURI) {
		return errors.New("provider: an address of a client's own is an https URL without user and fragment")
	}
	return nil
}

// checkRequestURI: a fragment may be the hash of what is there (OpenID Connect Core §6.2).
func checkRequestURI(raw string) error {
	address, _, _ := strings.Cut(raw, "#")
	return checkOwnAddress(address)
}

// readClient makes a client of its metadata. methods are the ways to authenticate that it may
// choose, the default first. It never makes one that is an approver, a first party or allowed the
// QR or the device grant, whatever the metadata says (protocol §8).
func (p *Provider) readClient(m *clientMetadata, methods ...string) (*storage.Client, error) {
	c := &storage.Client{}
	m.refuseUnsupported()
	m.readAuthentication(c, methods)
	p.readGrants(m, c)
	m.readRedirects(c)
	m.readScopes(c)
	m.readAbout(c)
	m.readAnswers(c)
	p.readRequests(m, c)
	p.readSubjects(m, c)
	if m.fault != nil {
		return nil, m.fault
	}
	return c, nil
}

// refuseUnsupported refuses what would be a promise: a client that asks for encryption must not
// be answered in the clear.
func (m *clientMetadata) refuseUnsupported() {
	if m.has("software_statement") {
		m.refuse(&oauthError{status: http.StatusBadRequest, code: "unapproved_software_statement", description: "Software statements are not accepted here."})
	}
	for _, name := range []string{
		"id_token_encrypted_response_alg", "id_token_encrypted_response_enc", "userinfo_encrypted_response_alg", "userinfo_encrypted_response_enc",
		"request_object_encryption_alg", "request_object_encryption_enc", "introspection_encrypted_response_alg",
		"introspection_encrypted_response_enc", "authorization_encrypted_response_alg", "authorization_encrypted_response_enc",
	} {
		if m.has(name) {
			m.refuse(invalidMetadata("Encryption is not supported."))
		}
	}
}

func (m *clientMetadata) readAuthentication(c *storage.Client, methods []string) {
	c.AuthMethod = m.oneOf("token_endpoint_auth_method", methods[0], methods...)
	c.JWKSURI = m.uri("jwks_uri", checkOwnAddress)
	if m.has("jwks") {
		c.JWKS = slices.Clone(m.members["jwks"])
		if CheckJWKS(c.JWKS) != nil {
			m.refuse(invalidMetadata("The jwks is not a set of public keys that can be used."))
		}
	}
	switch {
	case c.JWKS != nil && c.JWKSURI != "":
		m.refuse(invalidMetadata("A client has jwks or jwks_uri, not both."))
	case c.AuthMethod == storage.AuthPrivateKeyJWT && c.JWKS == nil && c.JWKSURI == "":
		m.refuse(invalidMetadata("A client with private_key_jwt has jwks or jwks_uri."))
	case c.AuthMethod == storage.AuthPrivateKeyJWT:
		c.AuthAlg = m.oneOf("token_endpoint_auth_signing_alg", assertionAlg(c), assertionAlgorithms()...)
		if m.fault == nil && !canSign(c) {
			m.refuse(invalidMetadata("None of the keys in jwks fits the token_endpoint_auth_signing_alg; without one they fit ES256, PS256 or EdDSA."))
		}
	}
}

// assertionAlg is the algorithm of assertions that a client means who does not say: with RSA keys,
// or with keys that we have not seen, that which OpenID Connect expects of everybody; with P-384
// keys the one that they are for; otherwise any of those that need no name.
func assertionAlg(c *storage.Client) string {
	if c.JWKSURI != "" {
		return string(jose.RS256)
	}
	keys, _, err := parseKeys(c.JWKS)
	if err != nil {
		return ""
	}
	all := func(is func(key *jose.JSONWebKey) bool) bool {
		return !slices.ContainsFunc(keys, func(key jose.JSONWebKey) bool { return !is(&key) })
	}
	switch {
	case all(func(key *jose.JSONWebKey) bool {
		_, isRSA := key.Key.(*rsa.PublicKey)
		return isRSA && !strings.HasPrefix(key.Algorithm, "PS")
	}):
		return string(jose.RS256)
	case all(func(key *jose.JSONWebKey) bool { return fits(key, jose.ES384) }):
		return string(jose.ES384)
	}
	return ""
}

// canSign reports whether a client could ever sign an assertion that we take. What is at a jwks_uri
// may change.
func canSign(c *storage.Client) bool {
	if c.JWKSURI != "" {
		return true
	}
	keys, _, err := parseKeys(c.JWKS)
	algs := algorithmsOf(c)
	return err == nil && slices.ContainsFunc(keys, func(key jose.JSONWebKey) bool {
		return slices.ContainsFunc(algs, func(alg jose.SignatureAlgorithm) bool { return fits(&key, alg) })
	})
}

// readGrants reads what the client may ask for. A response type and the grant that it belongs to
// come together (RFC 7591 §2.1); of the two the one that is left out follows from the other.
func (p *Provider) readGrants(m *clientMetadata, c *storage.Client) {
	c.ResponseTypes = m.list("response_types", mostClientWords, longestClientText)
	for i, kind := range c.ResponseTypes {
		words := strings.Fields(kind)
		slices.Sort(words)
		if c.ResponseTypes[i] = strings.Join(words, " "); !slices.Contains(p.config.responseTypes(), c.ResponseTypes[i]) {
			m.refuse(invalidMetadata("One of the response_types is not supported."))
		}
	}
	c.GrantTypes = m.list("grant_types", mostClientWords, longestClientText)
	allowed := []string{grantCode, grantRefresh}
	if p.config.frontChannel() {
		allowed = append(allowed, grantImplicit)
	}
	for _, grant := range c.GrantTypes {
		if !slices.Contains(allowed, grant) {
			m.refuse(invalidMetadata("One of the grant_types is not supported, or not for clients that register themselves."))
		}
	}
	if len(c.ResponseTypes) == 0 && !slices.Contains(c.GrantTypes, grantImplicit) {
		c.ResponseTypes = []string{"code"}
	}
	needed := grantsOf(c.ResponseTypes)
	if len(c.GrantTypes) == 0 {
		c.GrantTypes = needed
	}
	for _, grant := range []string{grantCode, grantImplicit} {
		if slices.Contains(c.GrantTypes, grant) != slices.Contains(needed, grant) {
			m.refuse(invalidMetadata("The grant_types do not fit the response_types."))
		}
	}
	if slices.Contains(c.GrantTypes, grantRefresh) && !slices.Contains(c.GrantTypes, grantCode) {
		m.refuse(invalidMetadata("Refresh tokens come with the grant authorization_code only."))
	}
}

// grantsOf are the grants that response types belong to.
func grantsOf(responseTypes []string) []string {
	var code, implicit bool
	for _, kind := range responseTypes {
		for word := range strings.FieldsSeq(kind) {
			code = code || word == "code"
			implicit = implicit || word != "code"
		}
	}
	var grants []string
	if code {
		grants = append(grants, grantCode)
	}
	if implicit {
		grants = append(grants, grantImplicit)
	}
	return grants
}

// readRedirects holds native and web clients apart (OpenID Connect Dynamic Client Registration
// §2): an app's own scheme is for apps, and what stays on the device is not for tokens that come
// without the token endpoint.
func (m *clientMetadata) readRedirects(c *storage.Client) {
	c.ApplicationType = m.oneOf("application_type", "web", "web", "native")
	var uris []string
	if m.decode("redirect_uris", &uris); len(uris) == 0 || len(uris) > mostRedirects {
		m.refuse(invalidRedirect("The redirect_uris are missing or too many."))
	}
	implicit := slices.Contains(c.GrantTypes, grantImplicit)
	for i, raw := range uris {
		u, err := url.Parse(raw)
		if err != nil || len(raw) > LongestShownURI || CheckRedirectURI(raw) != nil || strings.ContainsFunc(raw, unfitForURI) || slices.Contains(uris[:i], raw) {
			m.refuse(invalidRedirect("One of the redirect_uris cannot be used."))
			return
		}
		web := u.Scheme == "https" || u.Scheme == "http" && !implicit
		if c.ApplicationType == "web" && (!web || implicit && isLoopback(u.Hostname())) {
			m.refuse(invalidRedirect("One of the redirect_uris is not for a client of the application_type web."))
		}
	}
	c.RedirectURIs = uris
}

// readScopes: scopes that mean more than a person's own data are the operator's to give.
func (m *clientMetadata) readScopes(c *storage.Client) {
	all := openScopes()
	words, read := uniqueWords(m.text("scope", LongestShownURI))
	if !read {
		m.refuse(invalidMetadata("The scope has too many values."))
	}
	for _, scope := range words {
		if !slices.Contains(all, scope) {
			m.refuse(invalidMetadata("The scope holds one that clients cannot register for themselves."))
		}
	}
	if c.Scopes = words; len(words) == 0 {
		c.Scopes = all
	}
}

// openScopes are those that any client may have.
func openScopes() []string {
	return append(append([]string{"openid"}, claimScopes()...), "offline_access")
}

// readAbout reads what people are shown, and what nobody acts upon.
func (m *clientMetadata) readAbout(c *storage.Client) {
	c.Name = strings.TrimSpace(m.text("client_name", longestClientName))
	c.LogoURI = m.uri("logo_uri", CheckShownURI)
	c.ClientURI = m.uri("client_uri", CheckShownURI)
	c.PolicyURI = m.uri("policy_uri", CheckShownURI)
	c.TermsURI = m.uri("tos_uri", CheckShownURI)
	c.Contacts = m.list("contacts", mostClientWords, longestClientText)
	c.SoftwareID = m.text("software_id", longestClientText)
	c.SoftwareVersion = m.text("software_version", longestClientText)
	c.InitiateLoginURI = m.uri("initiate_login_uri", checkOwnAddress)
}

// readAnswers reads how the client wants to be answered and told.
func (m *clientMetadata) readAnswers(c *storage.Client) {
	signing := algorithmNames(signingAlgorithms())
	c.IDTokenAlg = m.oneOf("id_token_signed_response_alg", string(jose.RS256), signing...)
	c.UserinfoAlg = m.oneOf("userinfo_signed_response_alg", "", signing...)
	// A token in front comes without a proof, so that it could be bound to nothing.
	if c.RequireDPoP = m.flag("dpop_bound_access_tokens"); c.RequireDPoP && slices.ContainsFunc(c.ResponseTypes, tokenInFront) {
		m.refuse(invalidMetadata("A client with dpop_bound_access_tokens has no response type with token."))
	}
	c.PostLogoutRedirectURIs = m.uris("post_logout_redirect_uris", CheckRedirectURI)
	c.BackchannelLogoutURI = m.uri("backchannel_logout_uri", CheckBackchannelLogoutURI)
	c.BackchannelLogoutSessionRequired = m.flag("backchannel_logout_session_required")
}

// readRequests reads what the client's authorization requests are like.
func (p *Provider) readRequests(m *clientMetadata, c *storage.Client) {
	c.RequirePAR = m.flag("require_pushed_authorization_requests")
	c.RequireRequestObject = m.flag("require_signed_request_object")
	c.RequestObjectAlg = m.oneOf("request_object_signing_alg", "", acceptedNames(requestObjectAlgs())...)
	c.RequestURIs = m.uris("request_uris", checkRequestURI)
	if c.RequireRequestObject && (!p.config.RequestObjects || c.JWKS == nil && c.JWKSURI == "") {
		m.refuse(invalidMetadata("Signed request objects need keys, and a server that accepts them."))
	}
	if m.decode("default_max_age", &c.DefaultMaxAge); c.DefaultMaxAge != nil {
		if *c.DefaultMaxAge < 0 {
			m.refuse(invalidMetadata("The default_max_age is negative."))
		}
		*c.DefaultMaxAge = min(*c.DefaultMaxAge, longestMaxAge)
	}
	c.RequireAuthTime = m.flag("require_auth_time")
	c.DefaultACRValues = m.list("default_acr_values", mostClientWords, longestClientText)
}

// tokenInFront reports whether a response type brings an access token by way of the browser.
func tokenInFront(kind string) bool { return slices.Contains(strings.Fields(kind), "token") }

// readSubjects reads what the client knows people by. What sector_identifier_uri leads to is read
// by checkSector.
func (p *Provider) readSubjects(m *clientMetadata, c *storage.Client) {
	c.Pairwise = m.oneOf("subject_type", subjectPublic, p.config.subjectTypes()...) == subjectPairwise
	c.SectorIdentifierURI = m.uri("sector_identifier_uri", checkOwnAddress)
	if m.fault != nil {
		return
	}
	var ok bool
	if c.Sector, ok = SectorOf(c); c.Pairwise && !ok {
		m.refuse(invalidMetadata("Without a sector_identifier_uri the redirect_uris of a client with pairwise subjects have one host."))
	}
}
