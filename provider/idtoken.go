package provider

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/openid"

	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/storage"
)

// idTokenStrategy makes ID tokens. It replaces fosite's, which leaks rat, takes the nonce from
// the token request's form and knows no clock but time.Now.
type idTokenStrategy struct {
	issuer string
	keys   *keyRing
	now    func() time.Time
	store  interface {
		storage.Users
		storage.Clients
		storage.Sessions
	}
}

var _ openid.OpenIDConnectTokenStrategy = (*idTokenStrategy)(nil)

// idTokenClaims are the claims of an ID token (OpenID Connect Core §2): nothing unasked.
type idTokenClaims struct {
	Issuer          string   `json:"iss"`
	Subject         string   `json:"sub"`
	Audience        string   `json:"aud"`
	Expiry          int64    `json:"exp"`
	IssuedAt        int64    `json:"iat"`
	AuthTime        int64    `json:"auth_time"`
	Nonce           string   `json:"nonce,omitempty"`
	ACR             string   `json:"acr,omitempty"`
	AMR             []string `json:"amr,omitempty"`
	SessionID       string   `json:"sid,omitempty"`
	AccessTokenHash string   `json:"at_hash,omitempty"`
	CodeHash        string   `json:"c_hash,omitempty"`
	ID              string   `json:"jti"`
}

// GenerateIDToken signs the session's facts for the requester's client.
func (s *idTokenStrategy) GenerateIDToken(ctx context.Context, lifespan time.Duration, req fosite.Requester) (string, error) {
	sess, ok := req.GetSession().(*session)
	if !ok || sess.facts.Subject == "" {
		return "", errors.New("provider: an ID token needs a subject")
	}
	subject, err := s.keys.subjectOf(req.GetClient(), sess.facts.Subject)
	if err != nil {
		return "", err
	}
	now := s.now()
	claims := idTokenClaims{
		Issuer:          s.issuer,
		Subject:         subject,
		Audience:        req.GetClient().GetID(),
		Expiry:          now.Add(lifespan).Unix(),
		IssuedAt:        now.Unix(),
		AuthTime:        sess.facts.AuthTime.Unix(),
		Nonce:           sess.facts.Nonce,
		ACR:             sess.facts.ACR,
		AMR:             sess.facts.AMR,
		SessionID:       sess.facts.SessionID,
		AccessTokenHash: sess.accessHash,
		CodeHash:        sess.codeHash,
		ID:              rand.Text(),
	}
	payload, err := s.encode(ctx, claims, &sess.facts)
	if err != nil {
		return "", fmt.Errorf("provider: encode ID token: %w", err)
	}
	return s.keys.sign(ctx, signingAlg(req.GetClient()), typIDToken, payload)
}

// encode adds the claims of the person that were asked for by name (OpenID Connect Core §5.5),
// as they are known now; those of the token itself are never theirs to say.
func (s *idTokenStrategy) encode(ctx context.Context, claims idTokenClaims, facts *fositestore.Facts) ([]byte, error) {
	payload, err := json.Marshal(claims)
	if err != nil || len(facts.IDTokenClaims) == 0 {
		return payload, err
	}
	user, err := s.store.User(ctx, facts.Subject)
	if err != nil {
		return nil, err
	}
	members := claimsOf(user, nil, facts.IDTokenClaims)
	if err := json.Unmarshal(payload, &members); err != nil {
		return nil, err
	}
	return json.Marshal(members)
}

// signingAlg is the client's choice; ES256 costs a tenth of RS256.
func signingAlg(client fosite.Client) jose.SignatureAlgorithm {
	if c, ok := client.(fositestore.Client); ok && c.IDTokenAlg != "" {
		return jose.SignatureAlgorithm(c.IDTokenAlg)
	}
	return jose.ES256
}

// hint returns the claims of an ID token we made, however old and by whatever key (OpenID
// Connect Core §3.1.2.1); nil when the token is none. Its subject is the person's own, also for a
// client that knows another one.
func (s *idTokenStrategy) hint(ctx context.Context, token string) *idTokenClaims {
	// Logout tokens and access tokens are ours too, but of another typ: they prove no sign-in.
	payload, err := s.keys.verify(token, typIDToken)
	if err != nil {
		return nil
	}
	var claims idTokenClaims
	if json.Unmarshal(payload, &claims) != nil || claims.Issuer != s.issuer || claims.Subject == "" {
		return nil
	}
	// Nor does an answer of userinfo, which only lacks these.
	if claims.Expiry == 0 || claims.IssuedAt == 0 {
		return nil
	}
	claims.Subject = s.person(ctx, &claims)
	return &claims
}

// hintSubject returns the subject of an ID token we made; empty when the token is none.
func (s *idTokenStrategy) hintSubject(ctx context.Context, token string) string {
	if claims := s.hint(ctx, token); claims != nil {
		return claims.Subject
	}
	return ""
}
