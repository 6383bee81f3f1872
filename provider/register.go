package provider

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/gorilla/mux"
	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/storage"
)

const pathRegister = "/register"

// registrationRoutes are there when anybody may register.
func (p *Provider) registrationRoutes() []route {
	if !p.config.Registration.Enabled() {
		return nil
	}
	return []route{
		{routeRegister, "POST", pathRegister, p.register},
		{routeRegistration, "GET PUT DELETE", pathRegister + "/{client_id}", p.registration},
	}
}

// registrationPath returns the path of the route that a path belongs to, as it is in the table.
func (p *Provider) registrationPath(path string) string {
	base := p.issuer.Path + pathRegister + "/"
	if strings.HasPrefix(path, base) {
		return base + "{client_id}"
	}
	return path
}

// clientInformation is what the registration endpoint answers (RFC 7591 §3.2.1, RFC 7592 §3): the
// client with its defaults. A secret stands there when it was made or sent: only its hash is
// stored, so that GET cannot show it again.
type clientInformation struct {
	ID              string `json:"client_id"`
	IssuedAt        int64  `json:"client_id_issued_at"`
	Secret          string `json:"client_secret,omitempty"`
	SecretExpiresAt *int64 `json:"client_secret_expires_at,omitempty"`
	Token           string `json:"registration_access_token"`
	URI             string `json:"registration_client_uri"`

	RedirectURIs         []string        `json:"redirect_uris"`
	ResponseTypes        []string        `json:"response_types"`
	GrantTypes           []string        `json:"grant_types"`
	ApplicationType      string          `json:"application_type"`
	Scope                string          `json:"scope"`
	AuthMethod           string          `json:"token_endpoint_auth_method"`
	AuthAlg              string          `json:"token_endpoint_auth_signing_alg,omitempty"`
	JWKS                 json.RawMessage `json:"jwks,omitempty"`
	JWKSURI              string          `json:"jwks_uri,omitempty"`
	Name                 string          `json:"client_name,omitempty"`
	LogoURI              string          `json:"logo_uri,omitempty"`
	ClientURI            string          `json:"client_uri,omitempty"`
	PolicyURI            string          `json:"policy_uri,omitempty"`
	TermsURI             string          `json:"tos_uri,omitempty"`
	Contacts             []string        `json:"contacts,omitempty"`
	SoftwareID           string          `json:"software_id,omitempty"`
	SoftwareVersion      string          `json:"software_version,omitempty"`
	InitiateLoginURI     string          `json:"initiate_login_uri,omitempty"`
	SubjectType          string          `json:"subject_type"`
	SectorIdentifierURI  string          `json:"sector_identifier_uri,omitempty"`
	IDTokenAlg           string          `json:"id_token_signed_response_alg"`
	UserinfoAlg          string          `json:"userinfo_signed_response_alg,omitempty"`
	RequestObjectAlg     string          `json:"request_object_signing_alg,omitempty"`
	RequestURIs          []string        `json:"request_uris,omitempty"`
	RequireRequestObject bool            `json:"require_signed_request_object,omitempty"`
	RequirePAR           bool            `json:"require_pushed_authorization_requests,omitempty"`
	RequireDPoP          bool            `json:"dpop_bound_access_tokens,omitempty"`
	RequireAuthTime      bool            `json:"require_auth_time,omitempty"`
	DefaultMaxAge        *int64          `json:"default_max_age,omitempty"`
	DefaultACRValues     []string        `json:"default_acr_values,omitempty"`
	PostLogoutRedirects  []string        `json:"post_logout_redirect_uris,omitempty"`
	BackchannelLogoutURI string          `json:"backchannel_logout_uri,omitempty"`
	BackchannelSession   bool            `json:"backchannel_logout_session_required,omitempty"`
}

// writeClient answers with a client, and with the token and the secret as they were made or sent.
func (p *Provider) writeClient(w http.ResponseWriter, status int, c *storage.Client, token, secret string) {
	subjects := subjectPublic
	if c.Pairwise {
		subjects = subjectPairwise
	}
	answer := clientInformation{
		ID: c.ID, IssuedAt: c.CreatedAt.Unix(), Secret: secret, Token: token, URI: p.urlOf(routeRegister) + "/" + c.ID,
		RedirectURIs: c.RedirectURIs, ResponseTypes: c.ResponseTypes, GrantTypes: c.GrantTypes, ApplicationType: c.ApplicationType,
		Scope: strings.Join(c.Scopes, " "), AuthMethod: c.AuthMethod, AuthAlg: c.AuthAlg, JWKS: c.JWKS, JWKSURI: c.JWKSURI,
		Name: c.Name, LogoURI: c.LogoURI, ClientURI: c.ClientURI, PolicyURI: c.PolicyURI, TermsURI: c.TermsURI,
		Contacts: c.Contacts, SoftwareID: c.SoftwareID, SoftwareVersion: c.SoftwareVersion, InitiateLoginURI: c.InitiateLoginURI,
		SubjectType: subjects, SectorIdentifierURI: c.SectorIdentifierURI, IDTokenAlg: c.IDTokenAlg, UserinfoAlg: c.UserinfoAlg,
		RequestObjectAlg: c.RequestObjectAlg, RequestURIs: c.RequestURIs, RequireRequestObject: c.RequireRequestObject,
		RequirePAR: c.RequirePAR, RequireDPoP: c.RequireDPoP, RequireAuthTime: c.RequireAuthTime,
		DefaultMaxAge: c.DefaultMaxAge, DefaultACRValues: c.DefaultACRValues,
		PostLogoutRedirects: c.PostLogoutRedirectURIs, BackchannelLogoutURI: c.BackchannelLogoutURI, BackchannelSession: c.BackchannelLogoutSessionRequired,
	}
	if secret != "" {
		answer.SecretExpiresAt = new(int64) // 0: it does not expire
	}
	writeJSON(w, status, answer)
}

// register is POST /register (RFC 7591 §3, OpenID Connect Dynamic Client Registration §3).
func (p *Provider) register(w http.ResponseWriter, r *http.Request) {
	err := p.mayRegister(r)
	var c *storage.Client
	if err == nil {
		c, _, err = p.readRegistration(w, r)
	}
	var token, secret string
	if err == nil {
		token, secret, err = p.equip(c)
	}
	if err == nil {
		err = p.addClient(r.Context(), c)
	}
	if err != nil {
		p.writeRegistrationError(w, r, err)
		return
	}
	p.config.Logger.InfoContext(r.Context(), "a client has registered", "client_id", c.ID)
	p.writeClient(w, http.StatusCreated, c, token, secret)
}

// equip makes what a new client is known by.
func (p *Provider) equip(c *storage.Client) (token, secret string, err error) {
	id, errID := p.secret()
	token, errToken := p.secret()
	if err := errors.Join(errID, errToken); err != nil {
		return "", "", err
	}
	c.ID = id[:22] // 132 bits: it is no secret, it must only never come twice
	c.RegistrationTokenHash = sha256.Sum256([]byte(token))
	c.CreatedAt = p.config.Now()
	c.FreshUntil = c.CreatedAt.Add(unusedKept)
	secret, err = p.giveSecret(c)
	return token, secret, err
}

// giveSecret makes a secret for a client that authenticates with one.
func (p *Provider) giveSecret(c *storage.Client) (secret string, err error) {
	if c.AuthMethod != authBasic && c.AuthMethod != authPost {
		return "", nil
	}
	if secret, err = p.secret(); err != nil {
		return "", err
	}
	c.SecretHashes = [][32]byte{sha256.Sum256([]byte(secret))}
	return secret, nil
}

// readRegistration reads the body. What it returns beside the client are the members that only
// an update has.
func (p *Provider) readRegistration(w http.ResponseWriter, r *http.Request) (*storage.Client, *clientMetadata, error) {
	members, err := form.ReadMembers(w, r)
	var fault *form.Fault
	if errors.As(err, &fault) {
		malformed := invalidMetadata(fault.Sentence)
		malformed.status = fault.Status
		return nil, nil, malformed
	}
	if err != nil {
		return nil, nil, serverError(err)
	}
	if sizeOf(members) > documentBody {
		return nil, nil, invalidMetadata("The metadata is too long.")
	}
	m := &clientMetadata{members: members}
	c, err := p.readClient(m, authBasic, authPost, storage.AuthPrivateKeyJWT, authNone)
	if err != nil {
		return nil, nil, err
	}
	if err := p.checkSector(r.Context(), c); err != nil {
		return nil, nil, err
	}
	c.Source = storage.ClientRegistered
	// The clients of OpenID Connect know no PKCE; who has a secret is no worse off without it but
	// for codes that are injected, which the nonce is for. Those without one always need it.
	c.PKCEOptional = c.AuthMethod != authNone
	// They call the audience of an assertion what they call the token endpoint (Core §9).
	c.AssertionAudience = storage.AudienceEndpoint
	return c, m, nil
}

// sizeOf is about what of a registration is stored. Every client is read where all of them are
// looked at, so that what anybody can register has to be as short as a document that describes one.
func sizeOf(members map[string]json.RawMessage) int {
	size := 0
	for name, value := range members {
		size += len(name) + len(value)
	}
	return size
}

// registration is GET, PUT and DELETE /register/{client_id} (RFC 7592 §2).
func (p *Provider) registration(w http.ResponseWriter, r *http.Request) {
	c, err := p.registeredClient(r, mux.Vars(r)["client_id"])
	if err != nil {
		p.writeRegistrationError(w, r, err)
		return
	}
	switch r.Method {
	case http.MethodPut:
		p.replaceRegistration(w, r, c)
	case http.MethodDelete:
		if err := p.forgetClient(r.Context(), c.ID); err != nil {
			p.writeRegistrationError(w, r, unavailable(err))
			return
		}
		p.config.Logger.InfoContext(r.Context(), "a client has removed its registration", "client_id", c.ID)
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusNoContent)
	default:
		p.writeClient(w, http.StatusOK, c, soleBearer(r), "")
	}
}

// replaceRegistration is PUT: what is left out goes back to its default (RFC 7592 §2.2). The id,
// the secret and the registration access token stay; a client that begins to authenticate with a
// secret gets one, and one that ceases to loses its own.
func (p *Provider) replaceRegistration(w http.ResponseWriter, r *http.Request, old *storage.Client) {
	var c *storage.Client
	var m *clientMetadata
	err := p.mayReplace(r)
	if err == nil {
		c, m, err = p.readRegistration(w, r)
	}
	if err == nil {
		err = checkReplacement(m, old, c)
	}
	if err != nil {
		p.writeRegistrationError(w, r, err)
		return
	}
	c.ID, c.RegistrationTokenHash, c.CreatedAt = old.ID, old.RegistrationTokenHash, old.CreatedAt
	secret := m.text("client_secret", longestClientText)
	switch {
	case c.AuthMethod != authBasic && c.AuthMethod != authPost:
		secret = ""
	case len(old.SecretHashes) > 0:
		c.SecretHashes = slices.Clone(old.SecretHashes)
	default:
		secret, err = p.giveSecret(c)
	}
	if err == nil {
		err = p.replaceClient(r.Context(), c)
	}
	if err != nil {
		p.writeRegistrationError(w, r, err)
		return
	}
	p.config.Logger.InfoContext(r.Context(), "a client has changed its registration", "client_id", c.ID)
	p.writeClient(w, http.StatusOK, c, soleBearer(r), secret)
}

// mayReplace counts the network where anybody may register: a change costs what a registration
// costs, and may have us read an address as well.
func (p *Provider) mayReplace(r *http.Request) error {
	if !p.config.Registration.Open {
		return nil
	}
	return p.mayRegister(r)
}

// checkReplacement holds what an update may not change: who the client is, and whom it knows
// people as, for with that it would lose them all or learn who they are elsewhere.
func checkReplacement(m *clientMetadata, old, c *storage.Client) error {
	id, secret := m.text("client_id", longestClientText), m.text("client_secret", longestClientText)
	if m.fault != nil {
		return m.fault
	}
	if id != old.ID {
		return invalidMetadata("The client_id is missing or another.")
	}
	if secret != "" && !secretMatches(fositestore.Client{Client: old}, secret) {
		return invalidMetadata("The client_secret is not that of the client.")
	}
	for _, name := range []string{"registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at"} {
		if m.has(name) {
			return invalidMetadata("The member " + name + " is not the client's to send.")
		}
	}
	if c.Pairwise != old.Pairwise || c.Pairwise && c.Sector != old.Sector {
		return invalidMetadata("The subject_type and the sector stay as they are.")
	}
	return nil
}

// writeRegistrationError answers as RFC 7591 §3.2.2 and, where a token is wrong, RFC 6750 §3.
func (p *Provider) writeRegistrationError(w http.ResponseWriter, r *http.Request, err error) {
	var token *bearerError
	if errors.As(err, &token) {
		p.writeBearerError(w, r, err)
		return
	}
	p.writeError(w, r, err)
}

// isUnknownClient reports whether there is no such client, or it is switched off.
func isUnknownClient(err error) bool { return errors.Is(err, fosite.ErrNotFound) }
