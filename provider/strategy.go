package provider

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/oauth2"

	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/storage"
)

// The prefixes tell the kinds of token apart, for us and for secret scanners.
const (
	codePrefix    = "qrg_ac_"
	accessPrefix  = "qrg_at_"
	refreshPrefix = "qrg_rt_"
)

// tokenStrategy makes opaque tokens of 256 random bits. They need no HMAC: a token is valid
// because its hash is in the store, and its end is stored with it, judged by our clock. That is so
// for the access tokens too that it makes as JWTs, for clients that ask for these.
type tokenStrategy struct {
	config *Config
	keys   *keyRing
}

var _ oauth2.CoreStrategy = (*tokenStrategy)(nil)

func (s *tokenStrategy) generate(prefix string) (token, signature string, err error) {
	var raw [32]byte
	if _, err := io.ReadFull(s.config.Rand, raw[:]); err != nil {
		return "", "", fmt.Errorf("provider: random bytes: %w", err)
	}
	token = prefix + base64.RawURLEncoding.EncodeToString(raw[:])
	return token, tokenSignature(token), nil
}

func tokenSignature(token string) string { return fositestore.Signature(sha256.Sum256([]byte(token))) }

func checkPrefix(token, prefix string) error {
	if !strings.HasPrefix(token, prefix) {
		return fosite.ErrInvalidTokenFormat
	}
	return nil
}

// tokenKind tells the kind of a token by how it begins; zero when it is none of ours.
func tokenKind(token string) storage.TokenKind {
	switch {
	case strings.HasPrefix(token, accessPrefix), looksLikeJWT(token):
		return storage.TokenAccess
	case strings.HasPrefix(token, refreshPrefix):
		return storage.TokenRefresh
	}
	return 0
}

// AccessTokenSignature returns the hash under which the token is stored.
func (*tokenStrategy) AccessTokenSignature(_ context.Context, token string) string {
	return tokenSignature(token)
}

// GenerateAccessToken makes an access token.
func (s *tokenStrategy) GenerateAccessToken(ctx context.Context, req fosite.Requester) (token, signature string, err error) {
	return s.makeAccessToken(ctx, req)
}

// ValidateAccessToken checks the kind; state and expiry are the store's.
func (*tokenStrategy) ValidateAccessToken(_ context.Context, _ fosite.Requester, token string) error {
	if tokenKind(token) != storage.TokenAccess {
		return fosite.ErrInvalidTokenFormat
	}
	return nil
}

// RefreshTokenSignature returns the hash under which the token is stored.
func (*tokenStrategy) RefreshTokenSignature(_ context.Context, token string) string {
	return tokenSignature(token)
}

// GenerateRefreshToken makes a refresh token.
func (s *tokenStrategy) GenerateRefreshToken(context.Context, fosite.Requester) (token, signature string, err error) {
	return s.generate(refreshPrefix)
}

// ValidateRefreshToken checks the kind; state and expiry are the store's.
func (*tokenStrategy) ValidateRefreshToken(_ context.Context, _ fosite.Requester, token string) error {
	return checkPrefix(token, refreshPrefix)
}

// AuthorizeCodeSignature returns the hash under which the code is stored.
func (*tokenStrategy) AuthorizeCodeSignature(_ context.Context, token string) string {
	return tokenSignature(token)
}

// GenerateAuthorizeCode makes an authorization code.
func (s *tokenStrategy) GenerateAuthorizeCode(context.Context, fosite.Requester) (token, signature string, err error) {
	return s.generate(codePrefix)
}

// ValidateAuthorizeCode checks the kind; state and expiry are the store's.
func (*tokenStrategy) ValidateAuthorizeCode(_ context.Context, _ fosite.Requester, token string) error {
	return checkPrefix(token, codePrefix)
}
