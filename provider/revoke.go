package provider

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/storage"
)

// revoke is POST /revoke (RFC 7009). Unlike fosite's, it says so when the store failed.
func (p *Provider) revoke(w http.ResponseWriter, r *http.Request) {
	token, client, err := p.tokenRequest(w, r)
	if err != nil {
		p.writeError(w, r, err)
		return
	}
	grant, err := p.lookup(r.Context(), token)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		// An unknown token is revoked already (§2.2).
	case err != nil:
		err = unavailable(err)
		p.writeError(w, r, err)
		return
	case grant.ClientID != client.ID:
		p.writeError(w, r, unauthorizedClient())
		return
	default:
		if err := p.revokeGrant(r.Context(), grant); err != nil {
			p.writeError(w, r, unavailable(err))
			return
		}
	}
	writeJSON(w, http.StatusOK, struct{}{})
}

// revokeGrant ends a token. A refresh token takes its family with it, and so does any token of a
// QR-born sign-in. One that the client got at the direct door takes the sign-in too ("Not me",
// protocol §4): it is the client's own, while that of a browser is the person's and other
// clients', and is left at /logout.
func (p *Provider) revokeGrant(ctx context.Context, g *fositestore.Grant) error {
	if g.Facts.QRBorn {
		own, err := p.madeFor(ctx, g.SessionID, g.ClientID)
		if err != nil {
			return err
		}
		if own {
			return p.endSignIn(ctx, g.RequestID, g.SessionID)
		}
	}
	if g.Facts.QRBorn || g.Kind == storage.TokenRefresh {
		return p.endSignIn(ctx, g.RequestID, "")
	}
	err := p.config.Store.UseToken(ctx, g.Kind, g.Signature, p.config.Now())
	if errors.Is(err, storage.ErrConflict) || errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	return err
}

// madeFor reports whether a sign-in was made at the direct door for the client.
func (p *Provider) madeFor(ctx context.Context, sid, clientID string) (bool, error) {
	s, err := p.config.Store.Session(ctx, sid)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return s.CookieHash == [32]byte{} && s.ClientID == clientID, nil
}

// endSignIn revokes a family and, when sid is not empty, ends that sign-in with every token
// of it. The tokens go first: if the second write fails, nothing lives that should not. Whoever
// asked may have gone meanwhile: what has begun goes on to its end, clients included.
func (p *Provider) endSignIn(ctx context.Context, requestID, sid string) error {
	ctx = context.WithoutCancel(ctx)
	now := p.config.Now()
	var errs []error
	if requestID != "" {
		_, err := p.config.Store.RevokeTokens(ctx, storage.TokenFilter{RequestID: requestID}, now)
		errs = append(errs, err)
	}
	if sid != "" {
		_, err := p.config.Store.RevokeTokens(ctx, storage.TokenFilter{SessionID: sid}, now)
		errs = append(errs, err, p.endSession(ctx, sid, now))
	}
	return errors.Join(errs...)
}

// endSession ends a sign-in with what it has claimed, and tells its clients; one that is unknown
// or ended is no error.
func (p *Provider) endSession(ctx context.Context, sid string, now time.Time) error {
	err := p.config.Store.EndSession(ctx, sid, now)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	p.backchannel.look()
	// Whoever waits for this sign-in's approval waits for nothing.
	return errors.Join(err, p.qr.SignInEnded(ctx, sid))
}
