package provider

import (
	"cmp"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// codeLifetime is how long an authorization code can be redeemed (RFC 6749 §4.1.2 recommends
// at most ten minutes; a redirect takes seconds).
const codeLifetime = time.Minute

// qrRefreshLifetime is the absolute lifetime of a family born of a QR approval (protocol §7).
const qrRefreshLifetime = 24 * time.Hour

// The defaults of the key schedule that validate must know.
const (
	defaultRotation     = 90 * 24 * time.Hour
	defaultPublishAhead = 24 * time.Hour
)

// Config wires a Provider. Issuer and Store are required.
type Config struct {
	// Issuer is the issuer identifier: https, or http on a loopback host; without query,
	// fragment or trailing slash. A path is a prefix of every route.
	Issuer string
	Store  storage.Store
	// Templates overrides files of the built-in pages by name; nil overrides none.
	Templates fs.FS
	// TrustedProxies are the networks whose forwarded headers count; empty trusts nobody.
	TrustedProxies []netip.Prefix
	// BackchannelNetworks are the private networks, loopback included, in which back-channel
	// logout may reach clients; empty reaches public addresses only.
	BackchannelNetworks []netip.Prefix
	// BackchannelRoots verify the certificates of the clients there; nil means the system's.
	BackchannelRoots *x509.CertPool
	// FetchNetworks are the private networks, loopback included, from which keys, metadata and
	// request objects of clients may be read; empty reads from public addresses only. FetchRoots
	// verify the certificates there; nil means the system's.
	FetchNetworks []netip.Prefix
	FetchRoots    *x509.CertPool
	// DPoPNonceOptional accepts DPoP proofs without a nonce of ours (RFC 9449 §8). Otherwise a
	// proof made in advance, or by somebody whose clock can be set, is worth nothing.
	DPoPNonceOptional bool
	// Registration says who may register clients (RFC 7591); the zero value nobody.
	Registration Registration
	// ClientMetadata accepts clients whose id is the https address of a document that describes
	// them (OAuth Client ID Metadata Document).
	ClientMetadata bool
	// Implicit adds the response types id_token and id_token token, Hybrid those of code with one
	// or both of them (OpenID Connect Core §3.2, §3.3). OAuth 2.1 has neither.
	Implicit bool
	Hybrid   bool
	// RequestObjects accepts signed request objects by value (RFC 9101), RequestURIs also by
	// reference, from addresses that the client registered.
	RequestObjects bool
	RequestURIs    bool
	// Pairwise lets clients register for subjects of their own (OpenID Connect Core §8.1). Those
	// that have them keep them without it.
	Pairwise bool
	// QRLimits are the limits of protocol §9; zero fields are the defaults.
	QRLimits qr.Limits
	// PushesPerMinute bounds what is left at POST /par (RFC 9126) from one /24 or /56 in the name
	// of clients that anybody can be: those without a secret or key, and those that registered
	// themselves or are described by a document. ClientPushesPerMinute bounds each other client,
	// wherever it pushes from. So many may come at once, and as many more in every minute; beyond
	// that the answer is 429. Zero means 120 and 6,000; counters live in memory. What is pushed is
	// kept for 75 minutes at most, in up to 16 KiB each.
	PushesPerMinute       int
	ClientPushesPerMinute int
	// AccessTokenLifetime, IDTokenLifetime, RefreshTokenLifetime and SessionLifetime are
	// 10 min, 10 min, 30 days and 12 h when zero. RefreshTokenLifetime is absolute for a family.
	AccessTokenLifetime  time.Duration
	IDTokenLifetime      time.Duration
	RefreshTokenLifetime time.Duration
	SessionLifetime      time.Duration
	// SessionIdle is how long a browser's sign-in lasts without being used: 2 h when zero.
	SessionIdle time.Duration
	// KeySeals are AES-256 keys of 32 bytes: private keys are sealed under the first in the Store
	// and opened with any; none keeps them in the clear. New seals under the first what a later
	// one has sealed or what none has, all of it or nothing; afterwards the later ones can go, and
	// a key that turns up in the clear is refused. Processes that share a Store must all have a
	// key before one of them seals with it. See ErrKeySeal.
	KeySeals [][]byte
	// KeyRotation is how long a signing key signs, KeyPublishAhead how long before that it is
	// published, and KeyRetention how long it verifies an id_token_hint after its last ID
	// token has expired. Zero means 90 days, 24 h and 30 days.
	KeyRotation     time.Duration
	KeyPublishAhead time.Duration
	KeyRetention    time.Duration
	// AppLinks are the apps that open in place of /Q; none serves no files for them.
	AppLinks AppLinks
	// Now, After and Rand are the clock, its timers and the source of secrets; nil means
	// time.Now, time.After and crypto/rand.
	Now   func() time.Time
	After func(time.Duration) <-chan time.Time
	Rand  io.Reader
	// Logger gets what the operator should know; nil discards.
	Logger *slog.Logger
}

// Registration is the policy of the registration endpoint (RFC 7591). What registers itself never
// gets approver, qr:* scopes or one of the two device grants, whatever stands here.
type Registration struct {
	// Open lets anybody register. Otherwise an initial access token is needed (RFC 7591 §3).
	Open bool
	// InitialTokens are SHA-256 of the initial access tokens, which have at least 256 bits; none,
	// without Open, switches the endpoint off.
	InitialTokens [][32]byte
	// MaxClients bounds how many registered clients are kept; zero means 10,000. One that got
	// nothing from anybody within 24 h of its registration is forgotten.
	MaxClients int
}

// Enabled reports whether anybody can register.
func (r *Registration) Enabled() bool { return r.Open || len(r.InitialTokens) > 0 }

// validate joins every fault, so that one start shows them all.
func (c *Config) validate() error {
	var faults []error
	if err := validateIssuer(c.Issuer); err != nil {
		faults = append(faults, err)
	}
	if c.Store == nil {
		faults = append(faults, errors.New("provider: Config.Store is missing"))
	}
	for i, seal := range c.KeySeals {
		if len(seal) != keySealSize {
			faults = append(faults, fmt.Errorf("provider: Config.KeySeals[%d] is not 32 bytes long", i))
		}
	}
	faults = append(faults, c.AppLinks.validate()...)
	if cmp.Or(c.KeyPublishAhead, defaultPublishAhead) >= cmp.Or(c.KeyRotation, defaultRotation) {
		faults = append(faults, errors.New("provider: Config.KeyPublishAhead is not shorter than KeyRotation"))
	}
	if c.PushesPerMinute < 0 {
		faults = append(faults, errors.New("provider: Config.PushesPerMinute is negative"))
	}
	if c.ClientPushesPerMinute < 0 {
		faults = append(faults, errors.New("provider: Config.ClientPushesPerMinute is negative"))
	}
	// In an order of their own, so that the same faults always read the same.
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"AccessTokenLifetime", c.AccessTokenLifetime},
		{"IDTokenLifetime", c.IDTokenLifetime},
		{"RefreshTokenLifetime", c.RefreshTokenLifetime},
		{"SessionLifetime", c.SessionLifetime},
		{"SessionIdle", c.SessionIdle},
		{"KeyRotation", c.KeyRotation},
		{"KeyPublishAhead", c.KeyPublishAhead},
		{"KeyRetention", c.KeyRetention},
	} {
		if d.value < 0 {
			faults = append(faults, errors.New("provider: Config."+d.name+" is negative"))
		}
	}
	return errors.Join(faults...)
}

func validateIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	switch {
	case err != nil || u.Host == "" || u.User != nil:
		return errors.New("provider: Config.Issuer is not an absolute URL")
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(issuer, "#") || strings.HasSuffix(issuer, "/"):
		return errors.New("provider: Config.Issuer has a query, a fragment or a trailing slash")
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		return errors.New("provider: Config.Issuer must be https, or http on a loopback host")
	case u.EscapedPath() != u.Path || strings.Contains(u.Path, "//") || strings.ContainsAny(u.Path, "{}"):
		return errors.New("provider: Config.Issuer has a path that needs escaping")
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c *Config) defaults() {
	durations := []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.AccessTokenLifetime, 10 * time.Minute},
		{&c.IDTokenLifetime, 10 * time.Minute},
		{&c.RefreshTokenLifetime, 30 * 24 * time.Hour},
		{&c.SessionLifetime, 12 * time.Hour},
		{&c.SessionIdle, 2 * time.Hour},
		{&c.KeyRotation, defaultRotation},
		{&c.KeyPublishAhead, defaultPublishAhead},
		{&c.KeyRetention, 30 * 24 * time.Hour},
	}
	for _, d := range durations {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	c.PushesPerMinute = cmp.Or(c.PushesPerMinute, 120)
	c.ClientPushesPerMinute = cmp.Or(c.ClientPushesPerMinute, 6000)
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
}
