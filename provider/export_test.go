package provider

import (
	"context"
	"net/netip"

	"github.com/qrgrant/qrgrant/storage"
)

// PublicAddress is publicAddress, for its test.
func PublicAddress(ip netip.Addr) bool { return publicAddress(ip) }

// CheckedHash is what a try of the login is checked with, for its test.
func (p *Provider) CheckedHash(ctx context.Context, user *storage.User, login string) (string, error) {
	return p.hashOf(ctx, user, accountOf(login))
}
