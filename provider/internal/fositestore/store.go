package fositestore

import (
	"context"
	"encoding/base64"
	"errors"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/oauth2"

	"github.com/qrgrant/qrgrant/storage"
)

// usedCodeRetention is how long a code outlives its use, so that a replay is recognised and
// revokes the family (RFC 6749 §4.1.2).
const usedCodeRetention = time.Hour

// Config wires a Store. Every field but Described is required.
type Config struct {
	Store interface {
		storage.Tokens
		storage.Clients
	}
	// NewSession returns an empty session of the provider's type.
	NewSession func() Session
	// Described says what stands for a client that is stored, or that is not (nil):
	// storage.ErrNotFound for none. Nil takes what is stored.
	Described func(ctx context.Context, id string, stored *storage.Client) (*storage.Client, error)
	Now       func() time.Time
	// CodeLifetime and AccessLifetime start at issue; RefreshLifetime and QRRefreshLifetime
	// bound a whole family from its first refresh token on.
	CodeLifetime      time.Duration
	AccessLifetime    func(client fosite.Client, facts *Facts) time.Duration
	RefreshLifetime   time.Duration
	QRRefreshLifetime time.Duration
}

// Store implements fosite's storage interfaces over storage.Store.
type Store struct {
	config Config
}

var (
	_ fosite.Storage                = (*Store)(nil)
	_ oauth2.CoreStorage            = (*Store)(nil)
	_ oauth2.TokenRevocationStorage = (*Store)(nil)
)

// New returns a Store.
func New(c Config) *Store { return &Store{config: c} }

// CreateAuthorizeCodeSession stores a code with its challenge and its facts as one record.
func (s *Store) CreateAuthorizeCodeSession(ctx context.Context, sig string, req fosite.Requester) error {
	now := s.config.Now()
	rec := s.recordOf(req, now)
	rec.RedirectURI = req.GetRequestForm().Get("redirect_uri")
	rec.Challenge = req.GetRequestForm().Get("code_challenge")
	t := &storage.Token{Kind: storage.TokenCode, ExpiresAt: now.Add(s.config.CodeLifetime)}
	t.KeepUntil = t.ExpiresAt.Add(usedCodeRetention)
	return s.put(ctx, t, sig, req, rec)
}

// GetAuthorizeCodeSession returns the request of a code; of a used one with
// fosite.ErrInvalidatedAuthorizeCode beside it, upon which fosite revokes the family. A used code
// is no secret, for it has stood in a URL: in the hands of somebody who could not have redeemed
// it, it is fosite.ErrNotFound and revokes nothing.
func (s *Store) GetAuthorizeCodeSession(ctx context.Context, sig string, _ fosite.Session) (fosite.Requester, error) {
	req, err := s.load(ctx, storage.TokenCode, sig, fosite.ErrInvalidatedAuthorizeCode)
	if req != nil && !holdsKey(ctx, req) {
		return nil, fosite.ErrNotFound
	}
	if errors.Is(err, fosite.ErrInvalidatedAuthorizeCode) && !couldRedeem(ctx, req) {
		return nil, fosite.ErrNotFound
	}
	return req, err
}

// couldRedeem reports whether the token request that fosite works on comes from the client of
// the code, which is authenticated by then, and brings the verifier of its challenge. The
// challenge is compared here and by the PKCE handler, which runs too late to hold fosite back.
func couldRedeem(ctx context.Context, code fosite.Requester) bool {
	sent, ok := ctx.Value(fosite.AccessRequestContextKey).(fosite.AccessRequester)
	if !ok || sent.GetClient() == nil || sent.GetClient().GetID() != code.GetClient().GetID() {
		return false
	}
	challenge := code.GetRequestForm().Get("code_challenge")
	return challenge == "" || storage.VerifierMatches(challenge, sent.GetRequestForm().Get("code_verifier"))
}

// InvalidateAuthorizeCodeSession uses the code up; of two units of work one fails to commit.
func (s *Store) InvalidateAuthorizeCodeSession(ctx context.Context, sig string) error {
	return s.use(ctx, storage.TokenCode, sig)
}

// CreateAccessTokenSession stores an access token.
func (s *Store) CreateAccessTokenSession(ctx context.Context, sig string, req fosite.Requester) error {
	now := s.config.Now()
	rec := s.recordOf(req, now)
	rec.Facts.Nonce = ""
	if rec.Facts.AccessAudience != nil {
		rec.Audience = rec.Facts.AccessAudience
	}
	t := &storage.Token{Kind: storage.TokenAccess, ExpiresAt: now.Add(s.config.AccessLifetime(req.GetClient(), &rec.Facts))}
	if r := rec.Facts.rotation; r != nil && r.lost == nil {
		// Until then the refresh token may come back, saying that this answer was lost.
		t.WatchUntil = now.Add(storage.LostAnswerWindow)
		if t.ExpiresAt.Before(t.WatchUntil) {
			t.KeepUntil = t.WatchUntil
		}
	}
	return s.put(ctx, t, sig, req, rec)
}

// GetAccessTokenSession returns the request of an active access token.
func (s *Store) GetAccessTokenSession(ctx context.Context, sig string, _ fosite.Session) (fosite.Requester, error) {
	return s.load(ctx, storage.TokenAccess, sig, fosite.ErrInactiveToken)
}

// DeleteAccessTokenSession makes an access token inactive.
func (s *Store) DeleteAccessTokenSession(ctx context.Context, sig string) error {
	return s.use(ctx, storage.TokenAccess, sig)
}

// CreateRefreshTokenSession stores a refresh token. It expires with its family, not a
// lifetime after this rotation. The token it comes in place of is used up here rather than in
// RotateRefreshToken, because only here both successors are known.
func (s *Store) CreateRefreshTokenSession(ctx context.Context, sig, accessSig string, req fosite.Requester) error {
	now := s.config.Now()
	rec := s.recordOf(req, now)
	if rec.Facts.rotation != nil {
		if err := s.rotate(ctx, rec.Facts.rotation, sig, accessSig, now); err != nil {
			return err
		}
	}
	rec.Facts.Nonce = ""
	if rec.Facts.FamilyEnd.IsZero() {
		rec.Facts.FamilyEnd = now.Add(s.familyLifetime(rec.Facts.QRBorn))
	}
	if rec.Facts.RefreshScopes != nil {
		rec.Granted = rec.Facts.RefreshScopes
	}
	t := &storage.Token{Kind: storage.TokenRefresh, ExpiresAt: rec.Facts.FamilyEnd}
	return s.put(ctx, t, sig, req, rec)
}

func (s *Store) familyLifetime(qrBorn bool) time.Duration {
	if qrBorn {
		return s.config.QRRefreshLifetime
	}
	return s.config.RefreshLifetime
}

// GetRefreshTokenSession returns the request of a refresh token; of a used one with
// fosite.ErrInactiveToken beside it, unless its answer was lost (rotation.go). To a public client
// without the key of its token it is fosite.ErrNotFound (RFC 9449 §5), and a used one revokes
// nothing. A confidential client proves itself otherwise and may have a new key.
func (s *Store) GetRefreshTokenSession(ctx context.Context, sig string, _ fosite.Session) (fosite.Requester, error) {
	req, err := s.load(ctx, storage.TokenRefresh, sig, fosite.ErrInactiveToken)
	if err != nil && !errors.Is(err, fosite.ErrInactiveToken) {
		return nil, err
	}
	if c, ok := req.GetClient().(Client); (!ok || c.Public()) && !holdsKey(ctx, req) {
		return nil, fosite.ErrNotFound
	}
	return s.rotating(ctx, sig, req, err)
}

// DeleteRefreshTokenSession does nothing: fosite calls it on a replayed token only, which is
// inactive already and must stay recognisable.
func (*Store) DeleteRefreshTokenSession(context.Context, string) error { return nil }

// RotateRefreshToken does nothing, see CreateRefreshTokenSession.
func (*Store) RotateRefreshToken(context.Context, string, string) error { return nil }

// RevokeRefreshToken ends a family at once, whatever becomes of the unit of work.
func (s *Store) RevokeRefreshToken(ctx context.Context, requestID string) error {
	return s.revoke(ctx, requestID)
}

// RevokeAccessToken ends a family at once, whatever becomes of the unit of work.
func (s *Store) RevokeAccessToken(ctx context.Context, requestID string) error {
	return s.revoke(ctx, requestID)
}

func (s *Store) revoke(ctx context.Context, requestID string) error {
	_, err := s.config.Store.RevokeTokens(ctx, storage.TokenFilter{RequestID: requestID}, s.config.Now())
	return err
}

// Challenge returns the S256 challenge a code is bound to; empty when it has none.
func (s *Store) Challenge(ctx context.Context, sig string) (string, error) {
	_, rec, err := s.read(ctx, storage.TokenCode, sig)
	if err != nil {
		return "", err
	}
	return rec.Challenge, nil
}

// Grant returns an artefact as it is stored, active or not; fosite.ErrNotFound when there is
// none.
func (s *Store) Grant(ctx context.Context, kind storage.TokenKind, sig string) (*Grant, error) {
	t, rec, err := s.read(ctx, kind, sig)
	if err != nil {
		return nil, err
	}
	return &Grant{Token: *t, Facts: rec.Facts, Scopes: rec.Granted, Audience: rec.Audience, IssuedAt: rec.IssuedAt}, nil
}

func (s *Store) recordOf(req fosite.Requester, now time.Time) *record {
	rec := &record{
		Requested: req.GetRequestedScopes(),
		Granted:   req.GetGrantedScopes(),
		Audience:  req.GetGrantedAudience(),
		IssuedAt:  now,
	}
	if session, ok := req.GetSession().(Session); ok {
		rec.Facts = *session.Facts()
	}
	return rec
}

func (s *Store) put(ctx context.Context, t *storage.Token, sig string, req fosite.Requester, rec *record) error {
	signature, err := parseSignature(sig)
	if err != nil {
		return err
	}
	t.Signature = signature
	t.RequestID = req.GetID()
	t.ClientID = req.GetClient().GetID()
	t.Subject = rec.Facts.Subject
	t.SessionID = rec.Facts.SessionID
	t.Active = true
	if t.Data, err = encode(rec); err != nil {
		return err
	}
	return s.config.Store.PutToken(ctx, t)
}

// load returns an artefact as fosite wants it. Expiry is judged here rather than in the token
// strategy, because fosite validates a code against a session it has not filled yet.
func (s *Store) load(ctx context.Context, kind storage.TokenKind, sig string, inactive error) (fosite.Requester, error) {
	t, rec, err := s.read(ctx, kind, sig)
	if err != nil {
		return nil, err
	}
	req, err := s.requestOf(ctx, t, rec)
	if err != nil {
		return nil, err
	}
	if !t.Active {
		return req, inactive
	}
	if !s.config.Now().Before(t.ExpiresAt) {
		return nil, fosite.ErrNotFound
	}
	return req, nil
}

func (s *Store) read(ctx context.Context, kind storage.TokenKind, sig string) (*storage.Token, *record, error) {
	signature, err := parseSignature(sig)
	if err != nil {
		return nil, nil, err
	}
	t, err := s.config.Store.Token(ctx, kind, signature)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil, fosite.ErrNotFound.WithWrap(err)
	}
	if err != nil {
		return nil, nil, err
	}
	rec, err := decode(t.Data)
	if err != nil {
		return nil, nil, err
	}
	return t, rec, nil
}

func (s *Store) requestOf(ctx context.Context, t *storage.Token, rec *record) (fosite.Requester, error) {
	client, err := s.Client(ctx, t.ClientID)
	if errors.Is(err, fosite.ErrNotFound) {
		// A client that is gone still owns its codes: the caller finds out by its id.
		client = Client{Client: &storage.Client{ID: t.ClientID}}
	} else if err != nil {
		return nil, err
	}
	session := s.config.NewSession()
	*session.Facts() = rec.Facts
	return &fosite.Request{
		ID:                t.RequestID,
		RequestedAt:       rec.IssuedAt,
		Client:            client,
		RequestedScope:    rec.Requested,
		GrantedScope:      rec.Granted,
		RequestedAudience: rec.Audience,
		GrantedAudience:   rec.Audience,
		Form:              rec.form(),
		Session:           session,
	}, nil
}

func (s *Store) use(ctx context.Context, kind storage.TokenKind, sig string) error {
	signature, err := parseSignature(sig)
	if err != nil {
		return err
	}
	return s.config.Store.UseToken(ctx, kind, signature, s.config.Now())
}

// Signature spells a token's hash the way fosite carries it.
func Signature(sum [32]byte) string { return base64.RawURLEncoding.EncodeToString(sum[:]) }

func parseSignature(sig string) (storage.TokenSignature, error) {
	var out storage.TokenSignature
	raw, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil || len(raw) != len(out) {
		return out, fosite.ErrNotFound
	}
	copy(out[:], raw)
	return out, nil
}
