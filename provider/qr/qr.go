package qr

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/storage"
)

// The two grant types of the direct door (protocol §1).
const (
	// GrantType is our own grant, a URI that is not registered with IANA.
	GrantType = "urn:qrgrant:params:oauth:grant-type:qr_code"
	// DeviceGrantType is the device grant of RFC 8628.
	DeviceGrantType = "urn:ietf:params:oauth:grant-type:device_code"
	// ApproveScope is what an access token needs to approve sign-ins.
	ApproveScope = "qr:approve"
)

// Store is what the grant needs of a database; storage.Store has it. When the store also has
// storage.Store's Tx and fosite's token store writes to the same database under the context
// it is given, the redemption and the tokens it mints are one transaction. Whoever opens a
// storage.Store calls its Sweep regularly, or expired sessions fill it.
type Store interface {
	CreateQRSession(ctx context.Context, s *storage.QRSession) error
	QRSession(ctx context.Context, id storage.QRID) (*storage.QRSession, error)
	QRSessionByUserCode(ctx context.Context, code storage.UserCodeHash) (*storage.QRSession, error)
	UpdateQRSession(ctx context.Context, id storage.QRID, fn func(*storage.QRSession) error) error
	WatchQRSession(id storage.QRID) (hint <-chan struct{}, stop func())
}

// Key is a server key: every HMAC, seal and frame of a session derives from the key whose ID
// stands on its record.
type Key struct {
	ID string
	// Secret has at least 32 bytes.
	Secret []byte
}

// LogValue keeps the secret out of logs.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// String returns the id and never the secret.
func (k Key) String() string { return "server key " + k.ID }

// Policy is what one client may do, and how it is presented to the person (protocol §6, §9).
type Policy struct {
	storage.QRPolicy
	// Name is shown to the person; empty means the client id.
	Name string
	// Verified says how the name was verified: redirect, attested or none. Empty means none.
	Verified string
	// MinNonce refuses a shorter nonce at the opening. Set it to fosite's
	// MinParameterEntropy where fosite's own ID token strategy is used, which would refuse
	// it only after the person has approved. Zero accepts any.
	MinNonce int
	// RequireDPoP refuses an opening without a DPoP key, by a proof or by dpop_jkt; it needs
	// Config.Proofs.
	RequireDPoP bool
}

// Bearer is what the provider knows of an access token sent to the phone endpoints. The
// checks on it are this package's.
type Bearer struct {
	Subject   string
	ClientID  string
	SessionID string
	// JKT is the key the token is bound to; such a token is refused as Bearer.
	JKT string
	// RequireDPoP refuses the token when it is bound to no key.
	RequireDPoP bool

	Scopes   []string
	Audience []string
	// SharedAudiences are those the approver client may carry beside the issuer.
	SharedAudiences []string
	// Approver says that the client is marked as an approver.
	Approver bool
	// QRBorn says that the token descends from a QR approval (protocol §8).
	QRBorn bool
	// AuthTime, AMR and ACR tell how the person had signed in on the phone.
	AuthTime time.Time
	AMR      []string
	ACR      string
}

// Redemption is what a consumption device was granted; a fosite session that has a method
// SetRedemption(Redemption) gets it before tokens are minted. Sessions without one are filled
// through openid.Session.
type Redemption struct {
	Subject   string
	ClientID  string
	RequestID string
	// SessionID is the new sid, ParentID the phone's, ApproverID the phone app's client.
	SessionID  string
	ParentID   string
	ApproverID string
	AuthTime   time.Time
	AMR        []string
	ACR        string
	Nonce      string
	Scopes     []string
	// JKT is the DPoP key that the tokens are to be bound to, as cnf.jkt (RFC 9449 §6); empty for
	// none. A server with Config.Proofs needs a session that takes it.
	JKT string
	// Audience is that of the sign-in and already granted to the fosite request. AccessAudience,
	// when not nil, is what of it this one access token is for (RFC 8707 §2.2).
	Audience       []string
	AccessAudience []string
	// Device is the asker's user agent in words, Address its network address.
	Device  string
	Address string
	At      time.Time
}

// Config wires a Server. Issuer, Store, Keys or KeySource, Authenticate, Policy, Client and
// Introspect are required.
type Config struct {
	// Issuer is the issuer identifier as configured; QR codes spell it the same. The
	// handlers are to be mounted below it at /device_authorization, /qr/scan, /qr/decision,
	// /qr/cancel, /qr/events, /qr/ws and /.well-known/qr-configuration, and pages for people
	// without the app at /device (it takes user_code and calls Claim and Decide) and /Q. What
	// wraps the ResponseWriter of the two streams, /qr/events and /qr/ws, needs Unwrap.
	Issuer string
	Store  Store
	// Keys are the server keys; the first one makes, all of them check.
	Keys []Key
	// KeySource returns the server keys as they are now, in place of Keys, where they are
	// rotated: the first one makes, and one that has ceased to must be returned for
	// KeyRetention more. wanted is the id of a key that a session names, empty for none; one
	// that is not known may have been made by another process. Nil returns Keys.
	KeySource func(wanted string) []Key
	// Authenticate authenticates the asking client as the token endpoint does; in a fosite
	// server it is (*fosite.Fosite).AuthenticateClient.
	Authenticate func(ctx context.Context, r *http.Request, form url.Values) (fosite.Client, error)
	// Policy returns what a client may do. A client whose policy is not Enabled gets
	// unauthorized_client.
	Policy func(ctx context.Context, client fosite.Client) Policy
	// Client returns a client by id, for the context a phone is shown. Its errors end the call.
	Client func(ctx context.Context, id string) (fosite.Client, error)
	// Proofs checks DPoP proofs (RFC 9449), which are for the origin of Issuer with the path of the
	// request. Nil refuses whatever names a DPoP key. With it the token endpoint calls Poll, whose
	// answers carry the nonce for the next proof, and the session has SetRedemption.
	Proofs Proofs
	// Targets returns the audience of what a client gets that asks for these scopes and resources
	// (RFC 8707); it may be empty. An error refuses the opening with invalid_target. Nil refuses
	// every resource.
	Targets func(client fosite.Client, scopes, resources []string) ([]string, error)
	// Origins returns the web origins whose script may open a WebSocket for the client. Nil
	// takes those of its redirect URIs.
	Origins func(client fosite.Client) []string
	// Introspect returns the facts of an active access token, or an error wrapping
	// storage.ErrNotFound when it is none of ours, not active or of another kind.
	Introspect func(ctx context.Context, token string) (*Bearer, error)
	// Hint resolves login_hint or id_token_hint to a subject; "" is nobody, and such a session
	// can never be claimed. An error refuses the opening. Nil resolves to nobody.
	Hint func(ctx context.Context, loginHint, idTokenHint string) (string, error)
	// Active returns an error wrapping storage.ErrNotFound when the person, one of the two
	// clients or the approving session is gone at redemption. Nil skips the check.
	Active func(ctx context.Context, s *storage.QRSession) error
	// Redeemed runs inside the redemption's transaction, before tokens are stored; the
	// provider stores the new sign-in there. Nil does nothing.
	Redeemed func(ctx context.Context, r Redemption) error
	// Revoke ends a token family and its sign-in after a replay. Nil uses the
	// RevokeAccessToken and RevokeRefreshToken of the storage given to Factory.
	Revoke func(ctx context.Context, requestID, sessionID string) error
	// Report revokes what the asker, that client at that address, got from the reporting
	// person. It may run again for the same report. Nil does nothing.
	Report func(ctx context.Context, subject, clientID, address string) error
	// Record adds an audit row that belongs to no move. Nil drops it.
	Record func(ctx context.Context, e storage.AuditEvent)
	// ClientAddress is the asker's address; nil takes RemoteAddr.
	ClientAddress func(r *http.Request) netip.Addr
	// SessionsEndpoint is where the phone finds the sign-ins that the person approved
	// (protocol §6), for the metadata; empty says that this server has no such list.
	SessionsEndpoint string
	// ScopeText says a scope in words; nil or "" shows the scope itself.
	ScopeText func(scope string) string
	Limits    Limits
	// AccessTokenLifetime, IDTokenLifetime and RefreshTokenLifetime are those of a redemption;
	// zero means 10 min, 10 min and 24 h.
	AccessTokenLifetime  time.Duration
	IDTokenLifetime      time.Duration
	RefreshTokenLifetime time.Duration
	// Now, After and Rand are the clock, its timers and the source of secrets; nil means
	// time.Now, time.After and crypto/rand.
	Now   func() time.Time
	After func(time.Duration) <-chan time.Time
	Rand  io.Reader
	// Logger gets what the operator should know; nil discards.
	Logger *slog.Logger
}

func (c *Config) validate() error {
	var faults []error
	need := func(ok bool, what string) {
		if !ok {
			faults = append(faults, errors.New("qr: Config."+what))
		}
	}
	issuer, err := url.Parse(c.Issuer)
	need(err == nil && issuer.Host != "" && !strings.ContainsAny(c.Issuer, "?#") && !strings.HasSuffix(c.Issuer, "/"),
		"Issuer must be a URL without query, fragment or trailing slash")
	need(c.Store != nil, "Store is missing")
	need(len(c.Keys) > 0 || c.KeySource != nil, "Keys is empty")
	seen := make(map[string]bool, len(c.Keys))
	for _, k := range c.Keys {
		need(k.ID != "" && len(k.Secret) >= 32, fmt.Sprintf("Keys: %q needs an ID and at least 32 bytes", k.ID))
		need(!seen[k.ID], fmt.Sprintf("Keys: %q stands there twice", k.ID))
		seen[k.ID] = true
	}
	need(c.Authenticate != nil, "Authenticate is missing")
	need(c.Policy != nil, "Policy is missing")
	need(c.Client != nil, "Client is missing")
	need(c.Introspect != nil, "Introspect is missing")
	need(c.Limits.valid(), "Limits holds a negative number")
	return errors.Join(faults...)
}

func (c *Config) defaults() {
	if c.AccessTokenLifetime == 0 {
		c.AccessTokenLifetime = 10 * time.Minute
	}
	if c.IDTokenLifetime == 0 {
		c.IDTokenLifetime = 10 * time.Minute
	}
	if c.RefreshTokenLifetime == 0 {
		c.RefreshTokenLifetime = 24 * time.Hour
	}
	if c.KeySource == nil {
		keys := c.Keys
		c.KeySource = func(string) []Key { return keys }
	}
	if c.Origins == nil {
		c.Origins = func(client fosite.Client) []string { return redirectOrigins(client.GetRedirectURIs()) }
	}
	if c.Now == nil {
		c.Now = time.Now //nolint:forbidigo // This is where the clock is configured.
	}
	if c.After == nil {
		c.After = time.After
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.ClientAddress == nil {
		c.ClientAddress = remoteAddress
	}
	if c.ScopeText == nil {
		c.ScopeText = func(string) string { return "" }
	}
	if c.Hint == nil {
		c.Hint = func(context.Context, string, string) (string, error) { return "", nil }
	}
	if c.Record == nil {
		c.Record = func(context.Context, storage.AuditEvent) {}
	}
	c.Limits.defaults()
}

func remoteAddress(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
