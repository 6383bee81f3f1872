package provider

import (
	"slices"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/token/jwt"

	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/provider/qr"
)

// session is the one fosite session type. What is worth keeping are its facts; the rest
// exists for the time of one request.
type session struct {
	facts   fositestore.Facts
	claims  jwt.IDTokenClaims
	headers jwt.Headers
	// accessHash and codeHash are what an ID token says of the access token and of the code made
	// beside it; empty: none was.
	accessHash, codeHash string
}

var (
	_ openid.Session      = (*session)(nil)
	_ fositestore.Session = (*session)(nil)
)

// Facts returns what is stored of the session.
func (s *session) Facts() *fositestore.Facts { return &s.facts }

// SetExpiresAt does nothing. fosite computes with time.Now; without a time in the session it
// answers expires_in with the configured lifetime, and fositestore sets the real end with the
// provider's clock.
func (*session) SetExpiresAt(fosite.TokenType, time.Time) {}

// GetExpiresAt returns the zero time, see SetExpiresAt.
func (*session) GetExpiresAt(fosite.TokenType) time.Time { return time.Time{} }

// GetUsername returns nothing: user names are not part of tokens.
func (*session) GetUsername() string { return "" }

// GetSubject returns the person; empty for client credentials.
func (s *session) GetSubject() string { return s.facts.Subject }

// Clone returns a copy that shares nothing that changes.
func (s *session) Clone() fosite.Session {
	c := &session{facts: s.facts}
	c.facts.AMR = slices.Clone(s.facts.AMR)
	c.facts.RefreshScopes = slices.Clone(s.facts.RefreshScopes)
	c.facts.AccessAudience = slices.Clone(s.facts.AccessAudience)
	c.facts.UserinfoClaims = slices.Clone(s.facts.UserinfoClaims)
	c.facts.IDTokenClaims = slices.Clone(s.facts.IDTokenClaims)
	return c
}

// IDTokenClaims returns subject and auth_time for the handlers that look. The at_hash that they
// exchange through it is not read: theirs is wrong for EdDSA.
func (s *session) IDTokenClaims() *jwt.IDTokenClaims {
	s.claims.Subject = s.facts.Subject
	s.claims.AuthTime = s.facts.AuthTime
	return &s.claims
}

// IDTokenHeaders returns headers nobody reads: the signer sets alg and kid itself.
func (s *session) IDTokenHeaders() *jwt.Headers { return &s.headers }

// SetRedemption fills the session with what a consumption device was granted.
func (s *session) SetRedemption(r qr.Redemption) {
	s.facts = fositestore.Facts{
		Subject:    r.Subject,
		SessionID:  r.SessionID,
		ParentID:   r.ParentID,
		ApproverID: r.ApproverID,
		QRBorn:     true,
		AuthTime:   r.AuthTime,
		AMR:        slices.Clone(r.AMR),
		ACR:        r.ACR,
		Nonce:      r.Nonce,
		JKT:        r.JKT,
		// The refresh token beside it keeps the whole audience.
		AccessAudience: slices.Clone(r.AccessAudience),
	}
}
