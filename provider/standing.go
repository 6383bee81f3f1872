package provider

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/storage"
)

// standing reports whether the person is enabled and the sign-in not ended. Tokens without a
// person or without a sign-in always stand.
func (p *Provider) standing(ctx context.Context, subject, sid string) (bool, error) {
	if subject != "" {
		u, err := p.config.Store.User(ctx, subject)
		if errors.Is(err, storage.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if u.Disabled {
			return false, nil
		}
	}
	if sid == "" {
		return true, nil
	}
	s, err := p.config.Store.Session(ctx, sid)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return s.ActiveAt(p.config.Now()), nil
}

// lookup returns a token of ours as it is stored, active or not. What is unknown or of
// another kind is storage.ErrNotFound.
func (p *Provider) lookup(ctx context.Context, token string) (*fositestore.Grant, error) {
	kind := tokenKind(token)
	if kind == 0 {
		return nil, fmt.Errorf("provider: not a token of ours: %w", storage.ErrNotFound)
	}
	g, err := p.tokens.Grant(ctx, kind, fositestore.Signature(sha256.Sum256([]byte(token))))
	if errors.Is(err, fosite.ErrNotFound) {
		return nil, fmt.Errorf("provider: unknown token: %w", storage.ErrNotFound)
	}
	return g, err
}

// activeToken returns a token that is active, with its client, its person and its sign-in;
// storage.ErrNotFound for any other.
func (p *Provider) activeToken(ctx context.Context, token string) (*fositestore.Grant, fositestore.Client, error) {
	g, err := p.lookup(ctx, token)
	if err != nil {
		return nil, fositestore.Client{}, err
	}
	client, err := p.active(ctx, g)
	if err != nil {
		return nil, fositestore.Client{}, err
	}
	return g, client, nil
}

// active returns the client of a token that is active, and notes that it is used;
// storage.ErrNotFound for any other.
func (p *Provider) active(ctx context.Context, g *fositestore.Grant) (fositestore.Client, error) {
	// Script must be able to read that its token has expired.
	if err := p.answerReadableFor(ctx, g.ClientID); err != nil {
		return fositestore.Client{}, err
	}
	inactive := fmt.Errorf("provider: token is not active: %w", storage.ErrNotFound)
	if !g.Active || !p.config.Now().Before(g.ExpiresAt) {
		return fositestore.Client{}, inactive
	}
	client, err := p.tokens.Client(ctx, g.ClientID)
	if errors.Is(err, fosite.ErrNotFound) {
		return fositestore.Client{}, inactive
	}
	if err != nil {
		return fositestore.Client{}, err
	}
	ok, err := p.standing(ctx, g.Subject, g.SessionID)
	if err != nil {
		return fositestore.Client{}, err
	}
	if !ok {
		return fositestore.Client{}, inactive
	}
	return client, p.arrived(ctx, g)
}

// arrived records the first use of an access token while its refresh token could still come
// back and say that it never arrived. That is one write in the life of a refreshed token, and
// none for one that is first used after storage.LostAnswerWindow.
func (p *Provider) arrived(ctx context.Context, g *fositestore.Grant) error {
	now := p.config.Now()
	if g.Kind != storage.TokenAccess || !g.WatchedAt(now) {
		return nil
	}
	err := p.config.Store.UpdateToken(ctx, g.Kind, g.Signature, func(t *storage.Token) error { return t.Arrive(now) })
	if errors.Is(err, storage.ErrConflict) {
		return fmt.Errorf("provider: token was replaced: %w", storage.ErrNotFound)
	}
	return err
}
