package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/storage"
)

// introspection is the answer of RFC 7662 §2.2.
type introspection struct {
	Active    bool     `json:"active"`
	Scope     string   `json:"scope,omitempty"`
	ClientID  string   `json:"client_id,omitempty"`
	TokenType string   `json:"token_type,omitempty"`
	Expiry    int64    `json:"exp,omitempty"`
	IssuedAt  int64    `json:"iat,omitempty"`
	Subject   string   `json:"sub,omitempty"`
	Audience  []string `json:"aud,omitempty"`
	Issuer    string   `json:"iss,omitempty"`
	SessionID string   `json:"sid,omitempty"`
	// Confirmation names the key the token is bound to (RFC 9449 §6.2).
	Confirmation *confirmation `json:"cnf,omitempty"`
}

// tokenRequest reads what /introspect and /revoke are sent: a token, from a client that is
// authenticated (RFC 7662 §2.1, RFC 7009 §2.1).
func (p *Provider) tokenRequest(w http.ResponseWriter, r *http.Request) (token string, client fositestore.Client, err error) {
	values, err := form.Read(w, r)
	if err == nil && !values.Has("token") {
		err = invalidRequest("The token is missing.")
	}
	if err != nil {
		return "", fositestore.Client{}, err
	}
	client, err = p.authenticatedClient(r.Context(), r, values)
	return values.Get("token"), client, err
}

// introspect is POST /introspect. Only a confidential client may ask, and only for its own
// tokens and for access tokens that are for a resource it serves: fosite lets any active access
// token authorise the question and answers for all.
func (p *Provider) introspect(w http.ResponseWriter, r *http.Request) {
	token, client, err := p.tokenRequest(w, r)
	if err == nil && client.Public() {
		err = invalidClient()
	}
	if err != nil {
		p.writeError(w, r, err)
		return
	}
	grant, subject, err := p.introspected(r.Context(), client, token)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		writeJSON(w, http.StatusOK, introspection{})
		return
	case err != nil:
		p.writeError(w, r, unavailable(err))
		return
	}
	answer := introspection{
		Active:    true,
		Scope:     strings.Join(grant.Scopes, " "),
		ClientID:  grant.ClientID,
		Expiry:    grant.ExpiresAt.Unix(),
		IssuedAt:  grant.IssuedAt.Unix(),
		Subject:   subject,
		Audience:  grant.Audience,
		Issuer:    p.config.Issuer,
		SessionID: grant.SessionID,

		Confirmation: confirmationOf(grant.Facts.JKT),
	}
	// A refresh token has no token type (RFC 6749 §5.1); a resource server that checks the
	// type so cannot take one for an access token.
	if grant.Kind == storage.TokenAccess {
		answer.TokenType = tokenType(&grant.Facts)
	}
	writeJSON(w, http.StatusOK, answer)
}

// introspected returns an active token that the client may know of, and its person as the client
// that got the token knows them; storage.ErrNotFound for any other. A question that is none of the
// client's business is no use of the token (arrived).
func (p *Provider) introspected(ctx context.Context, client fositestore.Client, token string) (grant *fositestore.Grant, subject string, err error) {
	grant, err = p.lookup(ctx, token)
	if err != nil {
		return nil, "", err
	}
	if grant.ClientID != client.ID && !serves(client, grant) {
		return nil, "", fmt.Errorf("provider: token of another client: %w", storage.ErrNotFound)
	}
	owner, err := p.active(ctx, grant)
	if err != nil {
		return nil, "", err
	}
	subject, err = p.keys.subjectFor(owner.Client, grant.Subject)
	return grant, subject, err
}

// serves reports whether the client is a server of a resource that an access token is for.
func serves(client fositestore.Client, grant *fositestore.Grant) bool {
	return grant.Kind == storage.TokenAccess && slices.ContainsFunc(grant.Audience, func(a string) bool {
		return slices.Contains(client.Serves, a)
	})
}
