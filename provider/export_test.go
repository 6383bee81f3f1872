package provider

import (
	"context"

	"github.com/qrgrant/qrgrant/storage"
)

// CheckedHash is what a try of the login is checked with, for its test.
func (p *Provider) CheckedHash(ctx context.Context, user *storage.User, login string) (string, error) {
	return p.hashOf(ctx, user, accountOf(login))
}
