package fositestore

import (
	"context"
	"errors"
	"time"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/storage"
)

// rotation is a refresh token on its way to a successor. It travels in the session from where
// fosite reads the token to where it stores the next one.
type rotation struct {
	from storage.TokenSignature
	// credential is what the client authenticated with.
	credential [32]byte
	// lost is the successor that never arrived; nil in a first rotation.
	lost *storage.Succession
}

// rotating prepares the rotation of a refresh token that was just loaded. A used one may have
// one more successor while the first was never seen (storage.Token.Reissuable): the answer
// that carried it was lost, and a client that loses its refresh token has lost its sign-in.
func (s *Store) rotating(ctx context.Context, sig string, req fosite.Requester, inactive error) (fosite.Requester, error) {
	session, ok := req.GetSession().(Session)
	if !ok {
		return req, inactive
	}
	signature, err := parseSignature(sig)
	if err != nil {
		return nil, err
	}
	r := &rotation{from: signature}
	if c, ok := ClientFrom(ctx); ok && c.ID == req.GetClient().GetID() {
		r.credential = c.Credential
	} else if inactive != nil {
		return req, inactive
	}
	if inactive != nil {
		if r.lost, err = s.lost(ctx, signature, r.credential); err != nil {
			return nil, err
		}
		if r.lost == nil {
			return req, inactive
		}
	}
	session.Facts().rotation = r
	return req, nil
}

// lost returns the successor of a used refresh token if it may be replaced; nil otherwise.
func (s *Store) lost(ctx context.Context, sig storage.TokenSignature, credential [32]byte) (*storage.Succession, error) {
	used, err := s.config.Store.Token(ctx, storage.TokenRefresh, sig)
	if err != nil {
		return nil, err
	}
	if !used.Reissuable(credential, s.config.Now()) {
		return nil, nil
	}
	for _, successor := range []struct {
		kind      storage.TokenKind
		signature storage.TokenSignature
	}{{storage.TokenAccess, used.Succession.Access}, {storage.TokenRefresh, used.Succession.Refresh}} {
		t, err := s.config.Store.Token(ctx, successor.kind, successor.signature)
		if errors.Is(err, storage.ErrNotFound) || err == nil && !t.Unused() {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return used.Succession, nil
}

// rotate uses the refresh token up, or replaces what it was rotated into; of two units of work
// that do so one fails to commit.
func (s *Store) rotate(ctx context.Context, r *rotation, refresh, access string, now time.Time) error {
	to := storage.Succession{Credential: r.credential}
	var err error
	if to.Refresh, err = parseSignature(refresh); err != nil {
		return err
	}
	if to.Access, err = parseSignature(access); err != nil {
		return err
	}
	if r.lost == nil {
		return s.config.Store.UpdateToken(ctx, storage.TokenRefresh, r.from, func(t *storage.Token) error { return t.Rotate(to, now) })
	}
	supersede := func(t *storage.Token) error { return t.Supersede(now) }
	return errors.Join(
		s.config.Store.UpdateToken(ctx, storage.TokenRefresh, r.from, func(t *storage.Token) error { return t.Reissue(to, now) }),
		s.config.Store.UpdateToken(ctx, storage.TokenAccess, r.lost.Access, supersede),
		s.config.Store.UpdateToken(ctx, storage.TokenRefresh, r.lost.Refresh, supersede),
	)
}
