package storage

import "time"

// TokenKind tells the artefacts of fosite apart; one signature space each.
type TokenKind uint8

// The kinds of Token.
const (
	TokenCode TokenKind = iota + 1
	TokenAccess
	TokenRefresh
	// TokenPushed is a pushed authorization request (RFC 9126); its signature is that of its
	// request_uri.
	TokenPushed
)

// TokenSignature is SHA-256 of a token as sent: the only trace of it at rest.
type TokenSignature [32]byte

// Token is any artefact the token endpoint deals in. The authorization code, its PKCE
// challenge and its OpenID Connect facts are one record, so a code costs one write.
type Token struct {
	Kind      TokenKind      `cbor:"1,keyasint"`
	Signature TokenSignature `cbor:"2,keyasint"`
	// RequestID is the family: every token that descends from one authorization or one
	// redemption carries it.
	RequestID string `cbor:"3,keyasint,omitempty"`
	ClientID  string `cbor:"4,keyasint,omitempty"`
	// Subject is empty for client-credentials tokens.
	Subject string `cbor:"5,keyasint,omitempty"`
	// SessionID is the sid of the sign-in behind the token; empty when there is none.
	SessionID string `cbor:"6,keyasint,omitempty"`
	// Active is false once the token was used (code, refresh) or revoked. UsedAt says when;
	// of an active access token it says when its first use was recorded, see WatchUntil.
	Active    bool      `cbor:"7,keyasint,omitempty"`
	UsedAt    time.Time `cbor:"8,keyasint,omitzero"`
	ExpiresAt time.Time `cbor:"9,keyasint"`
	// KeepUntil is when Sweep may remove the row; it is later than ExpiresAt where a
	// replay must still be recognised. Zero means ExpiresAt.
	KeepUntil time.Time `cbor:"10,keyasint,omitzero"`
	// Data is the adapter's own versioned record (scopes, claims, code challenge).
	Data []byte `cbor:"11,keyasint,omitempty"`
	// Succession is what a used refresh token was rotated into; nil before.
	Succession *Succession `cbor:"12,keyasint,omitempty"`
	// WatchUntil is until when the first use of an access token is recorded; zero: never.
	WatchUntil time.Time `cbor:"13,keyasint,omitzero"`
}

// TokenFilter selects tokens for RevokeTokens: those that match every non-empty field. A
// filter with neither RequestID, SessionID nor Subject selects nothing.
type TokenFilter struct {
	RequestID string
	SessionID string
	Subject   string
	ClientID  string
	Kind      TokenKind
}

// Client is a registered OAuth client.
type Client struct {
	ID   string `cbor:"1,keyasint"`
	Name string `cbor:"2,keyasint,omitempty"`
	// SecretHashes holds SHA-256 of each valid secret. Secrets are generated with 256 bits,
	// which is why a fast hash is enough. Empty means a public client.
	SecretHashes [][32]byte `cbor:"3,keyasint,omitempty"`
	RedirectURIs []string   `cbor:"4,keyasint,omitempty"`
	// GrantTypes it may use; at most one of the two device grants. Empty means authorization_code.
	GrantTypes []string `cbor:"5,keyasint,omitempty"`
	// Scopes it may ask for.
	Scopes []string `cbor:"6,keyasint,omitempty"`
	// PKCEOptional lets a confidential client leave PKCE out; public clients always need it.
	PKCEOptional bool `cbor:"7,keyasint,omitempty"`
	// IDTokenAlg is ES256 when empty, or RS256 or EdDSA. It signs JWT access tokens too.
	IDTokenAlg string `cbor:"8,keyasint,omitempty"`
	// FirstParty clients skip the consent page.
	FirstParty bool `cbor:"9,keyasint,omitempty"`
	// Approver marks the client of a phone app whose tokens may approve QR sessions.
	Approver bool `cbor:"10,keyasint,omitempty"`
	// SharedAudiences lists further audiences an approver's token may carry (protocol §6).
	SharedAudiences []string `cbor:"11,keyasint,omitempty"`
	QR              QRPolicy `cbor:"12,keyasint,omitempty"`
	Disabled        bool     `cbor:"13,keyasint,omitempty"`
	// PostLogoutRedirectURIs is where a sign-out the client asked for may lead back to
	// (OpenID Connect RP-Initiated Logout 1.0 §3.1), matched character by character.
	PostLogoutRedirectURIs []string `cbor:"14,keyasint,omitempty"`
	// BackchannelLogoutURI gets a logout token when a sign-in the client took part in ends
	// (OpenID Connect Back-Channel Logout 1.0 §2.2); empty means never.
	BackchannelLogoutURI string `cbor:"15,keyasint,omitempty"`
	// BackchannelLogoutSessionRequired says that the client needs the sid in it. It is in
	// every logout token.
	BackchannelLogoutSessionRequired bool `cbor:"16,keyasint,omitempty"`
	// LogoURI is a picture of the client for the pages that name it, ClientURI its own site,
	// PolicyURI and TermsURI what it says about data and about its use (OpenID Connect Dynamic
	// Client Registration 1.0 §2, where the last is tos_uri). Empty shows none.
	LogoURI   string `cbor:"17,keyasint,omitempty"`
	ClientURI string `cbor:"18,keyasint,omitempty"`
	PolicyURI string `cbor:"19,keyasint,omitempty"`
	TermsURI  string `cbor:"20,keyasint,omitempty"`

	// AuthMethod is the one token_endpoint_auth_method of the client: client_secret_basic,
	// client_secret_post, private_key_jwt or none. Empty lets a client with a secret use either
	// of the first two, and one without is public.
	AuthMethod string `cbor:"21,keyasint,omitempty"`
	// AuthAlg is the algorithm of its assertions. Empty accepts ES256, PS256 and EdDSA; RS256
	// has to be named.
	AuthAlg string `cbor:"22,keyasint,omitempty"`
	// AssertionAudience is what the audience of an assertion may be: empty is the issuer alone,
	// AudienceEndpoint also the URL of the token endpoint and of the endpoint that was called.
	AssertionAudience string `cbor:"23,keyasint,omitempty"`
	// JWKS is the client's JWK set by value (JSON), JWKSURI by reference; at most one of them.
	JWKS    []byte `cbor:"24,keyasint,omitempty"`
	JWKSURI string `cbor:"25,keyasint,omitempty"`
	// RequirePAR refuses authorization requests that were not pushed (RFC 9126 §6).
	RequirePAR bool `cbor:"26,keyasint,omitempty"`
	// RequireDPoP binds every token of the client to a key (RFC 9449 §5.2); otherwise those it
	// brings a proof for.
	RequireDPoP bool `cbor:"27,keyasint,omitempty"`
	// JWTAccessTokens makes its access tokens JWTs (RFC 9068); otherwise they are opaque.
	JWTAccessTokens bool `cbor:"28,keyasint,omitempty"`
	// Resources are the resource indicators it may ask for (RFC 8707), beside the issuer.
	Resources []string `cbor:"29,keyasint,omitempty"`
	// Serves are the resources the client is the server of: it may introspect tokens for them.
	Serves []string `cbor:"30,keyasint,omitempty"`
	// UserinfoAlg signs the answers of userinfo: ES256, RS256 or EdDSA; empty leaves them JSON.
	UserinfoAlg string `cbor:"31,keyasint,omitempty"`
	// RequestObjectAlg is the algorithm of its request objects (RFC 9101). Empty accepts ES256,
	// PS256, EdDSA and RS256.
	RequestObjectAlg string `cbor:"32,keyasint,omitempty"`
	// RequestURIs are the addresses its request objects may be at, matched character by character.
	RequestURIs []string `cbor:"33,keyasint,omitempty"`
	// RequireRequestObject refuses authorization requests that are not signed.
	RequireRequestObject bool `cbor:"34,keyasint,omitempty"`
	// ResponseTypes it may use, each spelt with its words in the order code, id_token, token.
	// Empty means code, for a client of that grant.
	ResponseTypes []string `cbor:"35,keyasint,omitempty"`
	// ApplicationType is web or native; empty means web.
	ApplicationType string `cbor:"36,keyasint,omitempty"`
	// Pairwise gives the client a subject of its own for each person (OpenID Connect Core §8.1),
	// the same as the other clients of its Sector, which is a host name.
	Pairwise            bool   `cbor:"37,keyasint,omitempty"`
	Sector              string `cbor:"38,keyasint,omitempty"`
	SectorIdentifierURI string `cbor:"39,keyasint,omitempty"`
	// InitiateLoginURI is where a sign-in that others begin starts (OpenID Connect Core §4).
	InitiateLoginURI string   `cbor:"40,keyasint,omitempty"`
	Contacts         []string `cbor:"41,keyasint,omitempty"`
	// DefaultMaxAge stands where a request has no max_age, in seconds; nil asks nothing.
	// DefaultACRValues stand where it has no acr_values, which are wishes: they change nothing.
	DefaultMaxAge    *int64   `cbor:"42,keyasint,omitempty"`
	DefaultACRValues []string `cbor:"43,keyasint,omitempty"`
	// RequireAuthTime is what the client registered; auth_time is in every ID token.
	RequireAuthTime bool `cbor:"44,keyasint,omitempty"`
	// Source says who made the record; zero is the operator.
	Source ClientSource `cbor:"45,keyasint,omitempty"`
	// RegistrationTokenHash is SHA-256 of the registration access token (RFC 7592 §3); zero for a
	// client that did not register itself.
	RegistrationTokenHash [32]byte `cbor:"46,keyasint,omitzero"`
	// CreatedAt is when it registered; FreshUntil is when its metadata document is to be read
	// again, and zero when that was not there any more. Of a client that registered itself it is
	// when the client is forgotten unless somebody has granted it something; zero from then on.
	// Both are zero for a client of the operator.
	CreatedAt  time.Time `cbor:"47,keyasint,omitzero"`
	FreshUntil time.Time `cbor:"48,keyasint,omitzero"`
	// SoftwareID and SoftwareVersion are what the client said of itself (RFC 7591 §2).
	SoftwareID      string `cbor:"49,keyasint,omitempty"`
	SoftwareVersion string `cbor:"50,keyasint,omitempty"`
}

// ClientSource says who made a Client.
type ClientSource uint8

// The sources.
const (
	// ClientConfigured: the operator, by a file or a command.
	ClientConfigured ClientSource = iota
	// ClientRegistered: the client itself, at the registration endpoint (RFC 7591).
	ClientRegistered
	// ClientMetadata: a document at the https address that is its id.
	ClientMetadata
)

// AuthPrivateKeyJWT is the AuthMethod of a client that signs assertions (RFC 7523 §2.2).
const AuthPrivateKeyJWT = "private_key_jwt"

// AudienceEndpoint is an AssertionAudience.
const AudienceEndpoint = "endpoint"

// Public reports whether the client can prove nothing about itself: it has neither a secret nor a
// key.
func (c *Client) Public() bool { return len(c.SecretHashes) == 0 && c.AuthMethod != AuthPrivateKeyJWT }

// ToldOfLogout reports whether the client is to hear of the end of sign-ins.
func (c *Client) ToldOfLogout() bool { return !c.Disabled && c.BackchannelLogoutURI != "" }

// QRPolicy is what a client may do with the two device grants (protocol §9).
type QRPolicy struct {
	// Enabled is off unless set.
	Enabled bool `cbor:"1,keyasint,omitempty"`
	// AllowedScopes bounds what a QR approval can grant. Empty means openid and profile.
	AllowedScopes []string `cbor:"2,keyasint,omitempty"`
	// Lifetime is expires_in; zero means 240 s (QR grant) or 600 s (device_code). Under
	// 120 s is refused.
	Lifetime time.Duration `cbor:"3,keyasint,omitempty"`
	// TypeUserCode asks the person to type the user code in the device_code grant; false
	// asks only to compare it.
	TypeUserCode bool `cbor:"4,keyasint,omitempty"`
	// OfflineAccess lets a redemption issue a refresh token (24 h, rotated).
	OfflineAccess bool `cbor:"5,keyasint,omitempty"`
}

// User is a person who can sign in.
type User struct {
	Subject string `cbor:"1,keyasint"`
	// Login is the user name, unique in any case.
	Login string `cbor:"2,keyasint"`
	// PasswordHash is an argon2id hash in PHC string format; empty: no password sign-in.
	PasswordHash string `cbor:"3,keyasint,omitempty"`
	// Claims are the OpenID Connect standard claims by name, as userinfo returns them.
	Claims   map[string]any `cbor:"4,keyasint,omitempty"`
	Disabled bool           `cbor:"5,keyasint,omitempty"`
}

// Session is one sign-in of one person: the sid of OpenID Connect.
type Session struct {
	ID      string `cbor:"1,keyasint"`
	Subject string `cbor:"2,keyasint"`
	// CookieHash is SHA-256 of the browser's session cookie; zero for a sign-in without one.
	CookieHash [32]byte `cbor:"3,keyasint,omitzero"`
	// QRBorn marks a sign-in that a QR approval made; it can never approve another (protocol §8).
	QRBorn bool `cbor:"4,keyasint,omitempty"`
	// ParentID is the phone's session that approved a QR-born one.
	ParentID string `cbor:"5,keyasint,omitempty"`
	// ClientID is the client a QR-born sign-in was made for; ApproverID the phone app's.
	ClientID   string `cbor:"6,keyasint,omitempty"`
	ApproverID string `cbor:"7,keyasint,omitempty"`
	// AuthTime is when the person last proved who they are; AMR and ACR say how.
	AuthTime time.Time `cbor:"8,keyasint"`
	AMR      []string  `cbor:"9,keyasint,omitempty"`
	ACR      string    `cbor:"10,keyasint,omitempty"`
	// Device is the user agent in words.
	Device    string    `cbor:"11,keyasint,omitempty"`
	CreatedAt time.Time `cbor:"12,keyasint"`
	ExpiresAt time.Time `cbor:"13,keyasint"`
	// EndedAt is when it was signed out or revoked; zero while it lasts.
	EndedAt time.Time `cbor:"14,keyasint,omitzero"`
	// Address is the network address of the device that a QR-born sign-in signed in.
	Address string `cbor:"15,keyasint,omitempty"`
	// Withheld are scopes that the person left out of a QR approval; nothing that comes of the
	// sign-in is granted them.
	Withheld []string `cbor:"16,keyasint,omitempty"`
	// ReplacesID is the person's earlier sign-in in the same browser, which this one took the
	// place of without ending it: both end when the person signs out there.
	ReplacesID string `cbor:"17,keyasint,omitempty"`
}

// ActiveAt reports whether the session lasts at now.
func (s *Session) ActiveAt(now time.Time) bool {
	return s.EndedAt.IsZero() && now.Before(s.ExpiresAt)
}

// LogoutNotice says that a client is still to be told of the end of a sign-in it took part in
// (OpenID Connect Back-Channel Logout 1.0). There is one for each sign-in and client.
type LogoutNotice struct {
	SessionID string `cbor:"1,keyasint"`
	ClientID  string `cbor:"2,keyasint"`
	Subject   string `cbor:"3,keyasint"`
	// EndedAt is when the sign-in ended.
	EndedAt time.Time `cbor:"4,keyasint"`
	// DueAt is when the next try may begin. Whoever begins one moves it on first, to when
	// the try is over at the latest: until then nobody else begins one.
	DueAt time.Time `cbor:"5,keyasint"`
	// Tries is how many have begun.
	Tries int `cbor:"6,keyasint,omitempty"`
}

// Consent is what a person allowed a client; a request within it need not ask again.
type Consent struct {
	Subject  string `cbor:"1,keyasint"`
	ClientID string `cbor:"2,keyasint"`
	// Scopes are all that were allowed so far.
	Scopes []string `cbor:"3,keyasint,omitempty"`
	// At is when the person last said so.
	At time.Time `cbor:"4,keyasint"`
	// Resources are the servers, beside the issuer, for which tokens were allowed so far
	// (RFC 8707).
	Resources []string `cbor:"5,keyasint,omitempty"`
}

// KeyUse tells what a Key is for.
type KeyUse string

// The uses of Key.
const (
	// KeySigning signs ID tokens; Secret is PKCS #8.
	KeySigning KeyUse = "sig"
	// KeyServer makes and checks HMACs, seals and frames; Secret is 32 random bytes.
	KeyServer KeyUse = "server"
	// KeyPairwise makes pairwise subjects; Secret is 32 random bytes. There is one, for ever:
	// with another one every subject would be somebody else.
	KeyPairwise KeyUse = "pairwise"
)

// Key is a private key of the provider. It prints redacted.
type Key struct {
	ID        string `cbor:"1,keyasint"`
	Use       KeyUse `cbor:"2,keyasint"`
	Algorithm string `cbor:"3,keyasint,omitempty"`
	// Secret is kept as it is unless SealedBy says otherwise: whoever can read the database
	// can then sign ID tokens and make check codes. Drivers keep it from other users of the
	// machine.
	Secret    []byte    `cbor:"4,keyasint" json:"-"`
	CreatedAt time.Time `cbor:"5,keyasint"`
	// ActiveFrom is when a signing key begins to sign; until then it is only published. Zero
	// means CreatedAt.
	ActiveFrom time.Time `cbor:"6,keyasint,omitzero"`
	// SealedBy names the key that Secret is encrypted under; empty: it is in the clear.
	SealedBy string `cbor:"7,keyasint,omitempty"`
}

// ActiveSince is ActiveFrom, or CreatedAt when that is zero.
func (k *Key) ActiveSince() time.Time {
	if k.ActiveFrom.IsZero() {
		return k.CreatedAt
	}
	return k.ActiveFrom
}

// AuditEvent is one row of the audit trail: ids and hashes, never a secret.
type AuditEvent struct {
	At   time.Time `cbor:"1,keyasint"`
	Type string    `cbor:"2,keyasint"`
	// QRSession is the hash of the session's reference; empty when the event has none.
	QRSession string `cbor:"3,keyasint,omitempty"`
	// ClientID is the asking client, Subject the person once known, ApproverID the phone app.
	ClientID   string `cbor:"4,keyasint,omitempty"`
	Subject    string `cbor:"5,keyasint,omitempty"`
	ApproverID string `cbor:"6,keyasint,omitempty"`
	SessionID  string `cbor:"7,keyasint,omitempty"`
	// Detail is a fixed word, such as the state a failed code led to.
	Detail string `cbor:"8,keyasint,omitempty"`
}

// The types of AuditEvent (protocol §10).
const (
	EventQROpened        = "qr.opened"
	EventQRFrameRejected = "qr.frame_rejected"
	EventQRScanned       = "qr.scanned"
	EventQRClaimConflict = "qr.claim_conflict"
	EventQRCodeFailed    = "qr.code_failed"
	EventQRStepUp        = "qr.step_up"
	EventQRApproved      = "qr.approved"
	EventQRDenied        = "qr.denied"
	EventQRReported      = "qr.reported"
	EventQRCancelled     = "qr.cancelled"
	EventQRExpired       = "qr.expired"
	EventQRRedeemed      = "qr.redeemed"
	EventQRReplayed      = "qr.replayed"
	EventQRBindingFailed = "qr.binding_failed"
	EventQRRateLimited   = "qr.rate_limited"
	EventQRRevoked       = "qr.revoked"
)

// EventLogoutGivenUp is the type of an AuditEvent outside the QR grant: a client was not told of
// the end of a sign-in, and no more tries are made. Detail says why: refused or unreachable.
const EventLogoutGivenUp = "logout.given_up"
