package provider

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// token is POST /token. A pending poll of a consumption device ends in qr.Poll: it has cost
// one form, one client and one session by then, and no write.
func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	values, err := form.Read(w, r)
	if err == nil {
		err = checkTokenRequest(r, values)
	}
	if err != nil {
		p.writeError(w, r, err)
		return
	}
	client, err := p.authenticatedClient(r.Context(), r, values)
	if err == nil {
		err = checkGrant(client, values.Get("grant_type"))
	}
	if err != nil {
		p.writeError(w, r, err)
		return
	}
	p.grantTokens(w, r.WithContext(fositestore.WithClient(r.Context(), client)), client, values)
}

// grantTokens answers a request whose client is authenticated and may use the grant.
func (p *Provider) grantTokens(w http.ResponseWriter, r *http.Request, client fositestore.Client, values url.Values) {
	if isDeviceGrant(values.Get("grant_type")) {
		p.deviceTokens(w, r, client, values) //nolint:contextcheck // The context of qr.Poll descends from the request's.
		return
	}
	answer, err := p.issue(r.Context(), r, values)
	if err != nil {
		p.writeError(w, r, err)
		return
	}
	writeTokens(w, answer)
}

// deviceTokens answers a consumption device.
func (p *Provider) deviceTokens(w http.ResponseWriter, r *http.Request, client fositestore.Client, values url.Values) {
	ctx, ready := p.qr.Poll(w, r, client, values)
	if !ready {
		return
	}
	answer, err := p.issue(ctx, r, values)
	if errors.Is(err, storage.ErrConflict) {
		// The commit found the session moved: this poll lost to a denial or to another poll.
		err = invalidGrant()
	}
	if err != nil {
		p.qr.WriteTokenError(w, r, err)
		return
	}
	writeTokens(w, answer)
}

// checkTokenRequest refuses what can be refused before anything is read from the store, and
// takes away what fosite would read from the form without being asked.
func checkTokenRequest(r *http.Request, values url.Values) error {
	switch {
	case r.Header.Get("DPoP") != "":
		return invalidRequest("DPoP is not supported.")
	case values.Has("resource"):
		return invalidTarget()
	}
	// fosite compares every scope with every other before it knows what they are for.
	if _, all := uniqueWords(values.Get("scope")); !all {
		return invalidScope()
	}
	// A nonce in a refresh request would end up in fosite's ID token, the others steer its
	// OpenID handlers, and an audience is not the client's to name.
	for _, name := range []string{"nonce", "prompt", "max_age", "acr_values", "id_token_hint", "audience"} {
		values.Del(name)
	}
	switch values.Get("grant_type") {
	case "":
		return invalidRequest("The grant_type is missing.")
	case grantCode:
		if !values.Has("code") {
			return invalidRequest("The code is missing.")
		}
	case grantRefresh:
		if !values.Has("refresh_token") {
			return invalidRequest("The refresh_token is missing.")
		}
	case grantClient, qr.GrantType, qr.DeviceGrantType:
	default:
		return unsupportedGrantType()
	}
	return nil
}

// checkGrant refuses a grant the client is not registered for. Between the two device grants
// package qr decides, because its session carries the grant (protocol §1).
func checkGrant(client fositestore.Client, grant string) error {
	grants := client.GetGrantTypes()
	allowed := slices.Contains(grants, grant)
	if isDeviceGrant(grant) {
		allowed = slices.ContainsFunc(grants, isDeviceGrant)
	}
	if !allowed || grant == grantClient && client.Public() {
		return unauthorizedClient()
	}
	return nil
}

// issue runs fosite inside one unit of work: what the grant uses up and what it mints is one
// commit, so of N racing requests exactly one gets tokens.
func (p *Provider) issue(ctx context.Context, r *http.Request, values url.Values) (fosite.AccessResponder, error) {
	var family string
	var reissue bool
	var answer fosite.AccessResponder
	err := p.config.Store.Tx(ctx, func(ctx context.Context) error {
		req, err := p.oauth.NewAccessRequest(ctx, r, &session{})
		if err != nil {
			return err
		}
		family = req.GetID()
		if sess, ok := req.GetSession().(*session); ok {
			reissue = sess.facts.Reissue()
		}
		if err := p.admit(ctx, req, values); err != nil {
			return err
		}
		answer, err = p.oauth.NewAccessResponse(ctx, req)
		return err
	})
	if err != nil {
		return nil, p.afterLoss(ctx, values.Get("grant_type") == grantCode || reissue, family, err)
	}
	return answer, nil
}

// afterLoss revokes the family of a code that two requests redeemed at once, and of a used
// refresh token whose successor was used or asked for while it was replaced: one of the two is
// a thief (RFC 6749 §10.5). A refresh token first sent twice at once is a client with two tabs.
func (p *Provider) afterLoss(ctx context.Context, theft bool, family string, err error) error {
	lost := errors.Is(err, storage.ErrConflict) || errors.Is(err, fosite.ErrInvalidatedAuthorizeCode)
	if !theft || family == "" || !lost {
		return err
	}
	if rerr := p.tokens.RevokeAccessToken(context.WithoutCancel(ctx), family); rerr != nil {
		return unavailable(errors.Join(err, rerr))
	}
	return err
}

// admit decides, between fosite's request and its response, what fosite has no hook for: the
// person and the sign-in are still there, and the scopes of this one answer.
func (p *Provider) admit(ctx context.Context, req fosite.AccessRequester, values url.Values) error {
	switch values.Get("grant_type") {
	case grantClient:
		return grantClientScopes(req)
	case grantCode, grantRefresh:
	default:
		return nil
	}
	sess, ok := req.GetSession().(*session)
	if !ok {
		return serverError(errors.New("provider: unknown session type"))
	}
	standing, err := p.standing(ctx, sess.facts.Subject, sess.facts.SessionID)
	if err != nil {
		return unavailable(err)
	}
	if !standing {
		return invalidGrant()
	}
	if values.Get("grant_type") == grantRefresh {
		return narrow(req, sess, values.Get("scope"))
	}
	return nil
}

// narrow gives this access token fewer scopes; the refresh token beside it keeps all of them
// (RFC 6749 §6). fosite ignores the parameter.
func narrow(req fosite.AccessRequester, sess *session, scope string) error {
	wanted := strings.Fields(scope)
	if len(wanted) == 0 {
		return nil
	}
	all := req.GetGrantedScopes()
	for _, s := range wanted {
		if !slices.Contains(all, s) {
			return invalidScope()
		}
	}
	access, ok := req.(*fosite.AccessRequest)
	if !ok {
		return serverError(errors.New("provider: unknown request type"))
	}
	sess.facts.RefreshScopes = all
	access.GrantedScope = slices.Compact(slices.Sorted(slices.Values(wanted)))
	return nil
}

// grantClientScopes grants what the client asked for; fosite has checked that it may. Scopes
// that mean a person make no sense for a client's own token.
func grantClientScopes(req fosite.AccessRequester) error {
	for _, s := range req.GetRequestedScopes() {
		if s == "openid" || s == "offline_access" || strings.HasPrefix(s, "qr:") {
			return invalidScope()
		}
		req.GrantScope(s)
	}
	return nil
}

func writeTokens(w http.ResponseWriter, answer fosite.AccessResponder) {
	members := answer.ToMap()
	members["token_type"] = "Bearer"
	writeJSON(w, http.StatusOK, members)
}
