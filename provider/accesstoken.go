package provider

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
)

// qrJWTLifetime bounds a JWT access token that comes of a QR approval: a resource server that
// verifies it by itself does not hear that the person has ended the sign-in (protocol §6).
const qrJWTLifetime = 5 * time.Minute

// accessTokenClaims are those of RFC 9068 §2.2, made anew for each token: nothing of the person
// but what the scopes of this one token are about.
type accessTokenClaims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience []string `json:"aud"`
	ClientID string   `json:"client_id"`
	Expiry   int64    `json:"exp"`
	IssuedAt int64    `json:"iat"`
	ID       string   `json:"jti"`
	Scope    string   `json:"scope,omitempty"`
	// AuthTime is nil for a client's own token, which has no sign-in behind it.
	AuthTime     *int64        `json:"auth_time,omitempty"`
	ACR          string        `json:"acr,omitempty"`
	AMR          []string      `json:"amr,omitempty"`
	SessionID    string        `json:"sid,omitempty"`
	Confirmation *confirmation `json:"cnf,omitempty"`
}

// confirmation names the key a token is bound to (RFC 7800 §3.1, RFC 9449 §6.1).
type confirmation struct {
	JKT string `json:"jkt"`
}

// confirmationOf is nil for a token that is bound to no key.
func confirmationOf(jkt string) *confirmation {
	if jkt == "" {
		return nil
	}
	return &confirmation{JKT: jkt}
}

// accessLifetime is how long an access token of the client is good.
func (c *Config) accessLifetime(client fosite.Client, facts *fositestore.Facts) time.Duration {
	if facts.QRBorn && jwtAccessTokens(client) {
		return min(c.AccessTokenLifetime, qrJWTLifetime)
	}
	return c.AccessTokenLifetime
}

func jwtAccessTokens(client fosite.Client) bool {
	c, ok := client.(fositestore.Client)
	return ok && c.JWTAccessTokens
}

// jwt makes an access token that resource servers can verify by themselves (RFC 9068). It is
// stored by its hash like any other: at our own endpoints it ends when that ends.
func (s *tokenStrategy) jwt(ctx context.Context, req fosite.Requester, sess *session) (string, error) {
	now, facts, clientID := s.config.Now(), &sess.facts, req.GetClient().GetID()
	subject, err := s.keys.subjectOf(req.GetClient(), facts.Subject)
	if err != nil {
		return "", err
	}
	claims := accessTokenClaims{
		Issuer:       s.config.Issuer,
		Subject:      subject,
		Audience:     req.GetGrantedAudience(),
		ClientID:     clientID,
		Expiry:       now.Add(s.config.accessLifetime(req.GetClient(), facts)).Unix(),
		IssuedAt:     now.Unix(),
		ID:           rand.Text(),
		Scope:        strings.Join(req.GetGrantedScopes(), " "),
		ACR:          facts.ACR,
		AMR:          facts.AMR,
		SessionID:    facts.SessionID,
		Confirmation: confirmationOf(facts.JKT),
	}
	if facts.AccessAudience != nil {
		claims.Audience = facts.AccessAudience
	}
	if len(claims.Audience) == 0 {
		claims.Audience = []string{s.config.Issuer}
	}
	if facts.Subject == "" {
		claims.Subject = clientID
	} else {
		at := facts.AuthTime.Unix()
		claims.AuthTime = &at
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("provider: encode access token: %w", err)
	}
	return s.keys.sign(ctx, signingAlg(req.GetClient()), typAccess, payload)
}

// makeAccessToken makes the token in the form the client is registered for, and keeps its hash
// for the ID token beside it.
func (s *tokenStrategy) makeAccessToken(ctx context.Context, req fosite.Requester) (token, signature string, err error) {
	sess, ok := req.GetSession().(*session)
	if !ok {
		return "", "", errors.New("provider: unknown session type")
	}
	if jwtAccessTokens(req.GetClient()) {
		token, err = s.jwt(ctx, req, sess)
		signature = tokenSignature(token)
	} else {
		token, signature, err = s.generate(accessPrefix)
	}
	if err != nil {
		return "", "", err
	}
	sess.accessHash = tokenHash(signingAlg(req.GetClient()), token)
	return token, signature, nil
}

// tokenHash is what at_hash and c_hash say of a token beside an ID token of that algorithm
// (OpenID Connect Core §3.1.3.6): the left half of the hash the algorithm uses. That of Ed25519 is
// SHA-512, which relying parties expect; fosite takes SHA-256 for it.
func tokenHash(alg jose.SignatureAlgorithm, token string) string {
	if alg == jose.EdDSA {
		sum := sha512.Sum512([]byte(token))
		return base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2])
	}
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2])
}

// looksLikeJWT tells a JWS in compact form from our opaque tokens. Whether it is one of ours, only
// its hash in the store says.
func looksLikeJWT(token string) bool {
	return strings.HasPrefix(token, "eyJ") && strings.Count(token, ".") == 2
}
