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
		err = checkTokenRequest(values)
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
	jkt, err := p.proveAsClient(w, r, client)
	if err != nil {
		p.writeError(w, r, err)
		return
	}
	answer, err := p.issue(fositestore.WithKey(r.Context(), jkt), r, values)
	if err != nil {
		p.writeError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, answer.ToMap())
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
	writeJSON(w, http.StatusOK, answer.ToMap())
}

// checkTokenRequest refuses what can be refused before anything is read from the store, and
// takes away what fosite would read from the form without being asked.
func checkTokenRequest(values url.Values) error {
	// fosite compares every scope with every other before it knows what they are for.
	if _, all := uniqueWords(values.Get("scope")); !all {
		return invalidScope()
	}
	// A nonce in a refresh request would end up in fosite's ID token, the others steer its
	// OpenID handlers, and an audience is named by resource.
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
		if answer, err = p.oauth.NewAccessResponse(ctx, req); err != nil {
			return err
		}
		return p.describeToken(req, answer)
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

// describeToken says in the answer what fosite does not know of the access token: its type and
// for how long it is good.
func (p *Provider) describeToken(req fosite.AccessRequester, answer fosite.AccessResponder) error {
	sess, ok := req.GetSession().(*session)
	if !ok {
		return serverError(errors.New("provider: unknown session type"))
	}
	answer.SetTokenType(tokenType(&sess.facts))
	answer.SetExpiresIn(p.config.accessLifetime(req.GetClient(), &sess.facts))
	return nil
}

// tokenType is how an access token is to be sent (RFC 6750, RFC 9449 §5).
func tokenType(facts *fositestore.Facts) string {
	if facts.JKT != "" {
		return "DPoP"
	}
	return "Bearer"
}

// admit decides, between fosite's request and its response, what fosite has no hook for: the key,
// the person and the sign-in that are still there, and the scopes and the audience of this one
// answer. Package qr has decided all of that for its own grants.
func (p *Provider) admit(ctx context.Context, req fosite.AccessRequester, values url.Values) error {
	grant := values.Get("grant_type")
	if isDeviceGrant(grant) {
		return nil
	}
	sess, ok := req.GetSession().(*session)
	if !ok {
		return serverError(errors.New("provider: unknown session type"))
	}
	if err := bind(sess, fositestore.KeyFrom(ctx)); err != nil {
		return err
	}
	if grant == grantClient {
		return p.admitClient(req, values)
	}
	standing, err := p.standing(ctx, sess.facts.Subject, sess.facts.SessionID)
	if err != nil {
		return unavailable(err)
	}
	if !standing {
		return invalidGrant()
	}
	if grant == grantRefresh {
		if err := p.stillTargets(req); err != nil {
			return err
		}
		if err := narrow(req, sess, values.Get("scope")); err != nil {
			return err
		}
	}
	return p.narrowAudience(req, sess, values["resource"])
}

// bind binds what is issued to the key that was proved. What was bound once never becomes a
// bearer token again, whoever asks: somebody who has the refresh token and the secret but not
// the key would do so.
func bind(sess *session, jkt string) error {
	if sess.facts.JKT != "" && jkt == "" {
		return invalidGrant()
	}
	sess.facts.JKT = jkt
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

// admitClient grants what the client asked for; fosite has checked that it may have the scopes.
// Those that mean a person make no sense for a client's own token.
func (p *Provider) admitClient(req fosite.AccessRequester, values url.Values) error {
	client, ok := req.GetClient().(fositestore.Client)
	if !ok {
		return serverError(errors.New("provider: unknown client type"))
	}
	for _, s := range req.GetRequestedScopes() {
		if s == "openid" || s == "offline_access" || strings.HasPrefix(s, "qr:") {
			return invalidScope()
		}
		req.GrantScope(s)
	}
	audience, err := p.targets(client, req.GetGrantedScopes(), values["resource"])
	if err != nil {
		return err
	}
	for _, a := range audience {
		req.GrantAudience(a)
	}
	return nil
}
