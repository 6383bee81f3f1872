package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// qrConfig wires package qr to the provider's clients, people, tokens and sign-ins.
func (p *Provider) qrConfig() qr.Config {
	return qr.Config{
		Issuer:               p.config.Issuer,
		Store:                p.config.Store,
		KeySource:            p.keys.serverKeys,
		Authenticate:         p.authenticate,
		Policy:               qrPolicy,
		Client:               p.tokens.GetClient,
		Proofs:               p.dpop,
		Targets:              p.qrTargets,
		Origins:              clientOrigins,
		Introspect:           p.bearer,
		Hint:                 p.hint,
		Active:               p.stillActive,
		Redeemed:             p.redeemed,
		Revoke:               p.endSignIn,
		Report:               p.reported,
		Record:               p.config.Store.RecordEvent,
		ClientAddress:        p.clientAddress,
		SessionsEndpoint:     p.config.Issuer + pathSessions,
		ScopeText:            scopeText,
		Limits:               p.config.QRLimits,
		AccessTokenLifetime:  p.config.AccessTokenLifetime,
		IDTokenLifetime:      p.config.IDTokenLifetime,
		RefreshTokenLifetime: qrRefreshLifetime,
		Now:                  p.config.Now,
		After:                p.config.After,
		Rand:                 p.config.Rand,
		Logger:               p.config.Logger,
	}
}

// qrPolicy is what a client may do with the two device grants, and its name.
func qrPolicy(_ context.Context, client fosite.Client) qr.Policy {
	c, ok := client.(fositestore.Client)
	if !ok {
		return qr.Policy{}
	}
	policy := qr.Policy{QRPolicy: c.QR, Name: clientLabel(c.Client), RequireDPoP: c.RequireDPoP}
	if !c.Public() && c.Source == storage.ClientConfigured {
		// It proved with its secret at the opening that the name is its own. A name that a client
		// has registered for itself is nobody's word but its own.
		policy.Verified = "attested"
	}
	return policy
}

// qrTargets is targets for package qr.
func (p *Provider) qrTargets(client fosite.Client, scopes, resources []string) ([]string, error) {
	c, ok := client.(fositestore.Client)
	if !ok {
		return nil, fmt.Errorf("provider: client of type %T", client)
	}
	return p.targets(c, scopes, resources)
}

// bearer is what package qr may know of a phone's access token.
func (p *Provider) bearer(ctx context.Context, token string) (*qr.Bearer, error) {
	grant, client, err := p.activeToken(ctx, token)
	if err != nil {
		return nil, err
	}
	if grant.Kind != storage.TokenAccess || grant.Subject == "" {
		return nil, fmt.Errorf("provider: no access token of a person: %w", storage.ErrNotFound)
	}
	return &qr.Bearer{
		Subject:         grant.Subject,
		ClientID:        grant.ClientID,
		SessionID:       grant.SessionID,
		Scopes:          grant.Scopes,
		Audience:        grant.Audience,
		SharedAudiences: client.SharedAudiences,
		Approver:        client.Approver,
		QRBorn:          grant.Facts.QRBorn,
		AuthTime:        grant.Facts.AuthTime,
		AMR:             grant.Facts.AMR,
		ACR:             grant.Facts.ACR,
		JKT:             grant.Facts.JKT,
		RequireDPoP:     client.RequireDPoP,
	}, nil
}

// hint resolves who may approve; "" is nobody.
func (p *Provider) hint(ctx context.Context, loginHint, idTokenHint string) (string, error) {
	if idTokenHint != "" {
		return p.idTokens.hintSubject(ctx, idTokenHint), nil
	}
	user, err := p.config.Store.UserByLogin(ctx, loginHint)
	switch {
	case errors.Is(err, storage.ErrNotFound), err == nil && user.Disabled:
		return "", nil
	case err != nil:
		return "", err
	}
	return user.Subject, nil
}

// stillActive refuses a redemption when the person, one of the clients or the approving
// sign-in is gone since the approval, or the client's QR sign-in was switched off.
func (p *Provider) stillActive(ctx context.Context, s *storage.QRSession) error {
	gone := fmt.Errorf("provider: no longer active: %w", storage.ErrNotFound)
	if s.Claim == nil {
		return gone
	}
	clients := []string{s.ClientID}
	// A person who approved on the web page used no client.
	if s.Claim.ClientID != "" {
		clients = append(clients, s.Claim.ClientID)
	}
	for _, id := range clients {
		c, err := p.config.Store.Client(ctx, id)
		if err != nil {
			return err
		}
		if c.Disabled || id == s.ClientID && !c.QR.Enabled {
			return gone
		}
	}
	ok, err := p.standing(ctx, s.Claim.Subject, s.Claim.SessionID)
	if err != nil {
		return err
	}
	if !ok {
		return gone
	}
	return nil
}

// redeemed stores the sign-in a redemption makes, in the transaction of its tokens. It lasts
// as long as its refresh tokens can.
func (p *Provider) redeemed(ctx context.Context, r qr.Redemption) error {
	if err := p.config.Store.AddSessionClient(ctx, r.SessionID, r.ClientID); err != nil {
		return err
	}
	s := qrBornSession(r)
	s.ExpiresAt = r.At.Add(qrRefreshLifetime + p.config.AccessTokenLifetime)
	return p.config.Store.PutSession(ctx, s)
}

// reported ends every sign-in that the reporting person approved for the asker, that client at
// that address; what the client got elsewhere or in other ways is not the report's business.
func (p *Provider) reported(ctx context.Context, subject, clientID, address string) error {
	sessions, err := p.config.Store.SessionsBySubject(ctx, subject)
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range sessions {
		if s.QRBorn && s.ClientID == clientID && s.Address == address && s.EndedAt.IsZero() {
			errs = append(errs, p.endSignIn(ctx, "", s.ID))
		}
	}
	return errors.Join(errs...)
}

// qrBornMayUse reports whether a QR-born sign-in may serve this request by single sign-on
// (protocol §8): never an approver, and only what a QR approval for that client could grant.
func qrBornMayUse(client fositestore.Client, scopes []string) bool {
	if client.Approver || !client.QR.Enabled || slices.Contains(scopes, qr.ApproveScope) {
		return false
	}
	allowed := client.QR.AllowedScopes
	if len(allowed) == 0 {
		allowed = qr.DefaultScopes()
	}
	for _, s := range scopes {
		// A refresh token takes the policy's word as well as the scope, as in a redemption.
		if !slices.Contains(allowed, s) || s == "offline_access" && !client.QR.OfflineAccess {
			return false
		}
	}
	return true
}

// scopeText says a scope in words; empty for one nobody described.
func scopeText(scope string) string {
	switch scope {
	case "openid":
		return "Know who you are"
	case "profile":
		return "See your name and profile"
	case "email":
		return "See your e-mail address"
	case "address":
		return "See your postal address"
	case "phone":
		return "See your telephone number"
	case "offline_access":
		return "Stay signed in when you are away"
	case qr.ApproveScope:
		return "Approve sign-ins on other devices for you"
	}
	return ""
}
