package provider

import (
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"time"

	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
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
	// QRLimits are the limits of protocol §9; zero fields are the defaults.
	QRLimits qr.Limits
	// AccessTokenLifetime, IDTokenLifetime, RefreshTokenLifetime and SessionLifetime are
	// 10 min, 10 min, 30 days and 12 h when zero. RefreshTokenLifetime is absolute for a family.
	AccessTokenLifetime  time.Duration
	IDTokenLifetime      time.Duration
	RefreshTokenLifetime time.Duration
	SessionLifetime      time.Duration
	// Now, After and Rand are the clock, its timers and the source of secrets; nil means
	// time.Now, time.After and crypto/rand.
	Now   func() time.Time
	After func(time.Duration) <-chan time.Time
	Rand  io.Reader
	// Logger gets what the operator should know; nil discards.
	Logger *slog.Logger
}
