package qr

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/oauth2"
	"github.com/ory/fosite/handler/openid"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/storage"
)

// TokenStore is where fosite's access and refresh tokens go.
type TokenStore interface {
	CreateAccessTokenSession(ctx context.Context, signature string, request fosite.Requester) error
	CreateRefreshTokenSession(ctx context.Context, signature, accessSignature string, request fosite.Requester) error
}

// revoker is the family revocation of fosite's oauth2.TokenRevocationStorage.
type revoker interface {
	RevokeAccessToken(ctx context.Context, requestID string) error
	RevokeRefreshToken(ctx context.Context, requestID string) error
}

// redeemer is a fosite session that takes the whole result, marks included.
type redeemer interface {
	SetRedemption(r Redemption)
}

// unit is the unit of work that a storage.Store offers.
type unit interface {
	Tx(ctx context.Context, fn func(ctx context.Context) error) error
}

// grant is the token-endpoint handler of both grant types. fosite drops a second handler of
// the same Go type, so it is a type of its own and registered once.
type grant struct {
	server  *Server
	tokens  TokenStore
	access  oauth2.AccessTokenStrategy
	refresh oauth2.RefreshTokenStrategy
	ids     openid.OpenIDConnectTokenStrategy
}

var _ fosite.TokenEndpointHandler = (*grant)(nil)

// Factory is a compose.Factory that registers the token-endpoint handler of both grant types.
// storage must implement TokenStore; strategy fosite's access token, refresh token and OpenID
// Connect token strategies, as compose.CommonStrategy does. Without a Config.Revoke, storage
// must also have the two revocation methods of fosite's oauth2.TokenRevocationStorage. Like
// every factory of fosite it panics at start-up when one is missing.
func (s *Server) Factory(_ fosite.Configurator, storage, strategy any) any {
	if s.config.Revoke == nil {
		s.family = storage.(revoker)
	}
	return &grant{
		server:  s,
		tokens:  storage.(TokenStore),
		access:  strategy.(oauth2.AccessTokenStrategy),
		refresh: strategy.(oauth2.RefreshTokenStrategy),
		ids:     strategy.(openid.OpenIDConnectTokenStrategy),
	}
}

// CanSkipClientAuth is false: public clients name themselves, confidential ones authenticate.
func (g *grant) CanSkipClientAuth(context.Context, fosite.AccessRequester) bool { return false }

// CanHandleTokenEndpointRequest is true for the two grant types.
func (g *grant) CanHandleTokenEndpointRequest(_ context.Context, r fosite.AccessRequester) bool {
	return r.GetGrantTypes().ExactOne(GrantType) || r.GetGrantTypes().ExactOne(DeviceGrantType)
}

// HandleTokenEndpointRequest evaluates the poll, unless Server.Poll has, and hydrates the
// request from the approval. Nothing is minted here.
func (g *grant) HandleTokenEndpointRequest(ctx context.Context, r fosite.AccessRequester) error {
	if !g.CanHandleTokenEndpointRequest(ctx, r) {
		return fosite.ErrUnknownRequest
	}
	q, err := g.approved(ctx, r)
	if err != nil {
		return err
	}
	r.SetRequestedScopes(fosite.Arguments(q.Scopes))
	for _, scope := range q.Approval.Scopes {
		r.GrantScope(scope)
	}
	return g.hydrate(r, q)
}

// approved returns the approved session of the request.
func (g *grant) approved(ctx context.Context, r fosite.AccessRequester) (*storage.QRSession, error) {
	if poll, ready := ctx.Value(approvedKey{}).(approvedPoll); ready {
		q, err := g.server.config.Store.QRSession(ctx, poll.id)
		switch {
		case err != nil:
			return nil, serverError(err)
		case q.Approval == nil:
			// Denied or redeemed since the poll read it.
			return nil, invalidGrant()
		}
		return q, nil
	}
	request, ok := ctx.Value(fosite.RequestContextKey).(*http.Request)
	if !ok {
		request = (&http.Request{Header: http.Header{}}).WithContext(ctx)
	}
	q, _, fault := g.server.poll(ctx, request, r.GetClient(), r.GetRequestForm())
	if fault != nil {
		return nil, fault
	}
	return q, nil
}

// redemption is what this request would make of the approval.
func redemption(q *storage.QRSession, requestID string, now time.Time) Redemption {
	amr := slices.Clone(q.Approval.AMR)
	if !slices.Contains(amr, "mca") {
		amr = append(amr, "mca")
	}
	return Redemption{
		Subject: q.Claim.Subject, ClientID: q.ClientID, RequestID: requestID,
		SessionID: q.Approval.ResultSID, ParentID: q.Claim.SessionID, ApproverID: q.Claim.ClientID,
		AuthTime: q.Approval.AuthTime, AMR: amr, ACR: q.Approval.ACR, Nonce: q.Nonce,
		Scopes: q.Approval.Scopes, Audience: q.Audience, JKT: q.JKT, Device: q.Device, Address: q.Address, At: now,
	}
}

// hydrate puts the result into the session before any handler mints from it.
func (g *grant) hydrate(r fosite.AccessRequester, q *storage.QRSession) error {
	now := g.server.config.Now()
	result := redemption(q, r.GetID(), now)
	access, fault := narrowed(q, r.GetRequestForm())
	if fault != nil {
		return fault
	}
	own, marks := r.GetSession().(redeemer)
	switch {
	case marks:
		if len(access) < len(q.Audience) {
			result.AccessAudience = access
		}
		own.SetRedemption(result)
		access = q.Audience
	case result.JKT != "":
		// Nothing would say that the token is bound.
		return serverError(fmt.Errorf("qr: session %T has no SetRedemption, which Config.Proofs needs", r.GetSession()))
	}
	for _, resource := range access {
		r.GrantAudience(resource)
	}
	session, ok := r.GetSession().(openid.Session)
	if !ok {
		return serverError(fmt.Errorf("qr: session %T is no openid.Session", r.GetSession()))
	}
	if named, ok := r.GetSession().(interface{ SetSubject(string) }); ok {
		named.SetSubject(result.Subject)
	}
	claims := session.IDTokenClaims()
	claims.Subject, claims.Nonce, claims.AuthTime = result.Subject, result.Nonce, result.AuthTime
	claims.AuthenticationContextClassReference, claims.AuthenticationMethodsReferences = result.ACR, result.AMR
	claims.Add("sid", result.SessionID)
	session.SetExpiresAt(fosite.AccessToken, now.Add(g.server.config.AccessTokenLifetime))
	session.SetExpiresAt(fosite.RefreshToken, now.Add(g.server.config.RefreshTokenLifetime))
	return nil
}

// minted is what one redemption hands out; until the commit it exists only here.
type minted struct {
	access, accessSignature   string
	refresh, refreshSignature string
	idToken                   string
}

// PopulateTokenEndpointResponse redeems: the compare-and-swap on the session and the tokens
// are one transaction, so of racing polls exactly one stores anything. The ID token is made
// before the commit, because a failure after it would burn the approval.
func (g *grant) PopulateTokenEndpointResponse(ctx context.Context, r fosite.AccessRequester, response fosite.AccessResponder) error {
	if !g.CanHandleTokenEndpointRequest(ctx, r) {
		return fosite.ErrUnknownRequest
	}
	form := r.GetRequestForm()
	code, ok := parseSecret(form.Get("device_code"))
	if !ok {
		return invalidGrant()
	}
	q, err := g.server.config.Store.QRSession(ctx, code.id)
	if err != nil {
		return serverError(err)
	}
	if q.Approval == nil || !code.matches(q.DeviceCodeHash) {
		return invalidGrant()
	}
	tokens, err := g.mint(ctx, r)
	if err != nil {
		return serverError(err)
	}
	if err := g.redeem(ctx, r, q, tokens); err != nil {
		return err
	}
	g.server.freed(q)
	response.SetAccessToken(tokens.access)
	response.SetTokenType(tokenType(q))
	response.SetExpiresIn(g.server.config.AccessTokenLifetime)
	response.SetScopes(r.GetGrantedScopes())
	if tokens.refresh != "" {
		response.SetExtra("refresh_token", tokens.refresh)
	}
	if tokens.idToken != "" {
		response.SetExtra("id_token", tokens.idToken)
	}
	return nil
}

// tokenType is how the access token is to be sent (RFC 6750, RFC 9449 §5).
func tokenType(q *storage.QRSession) string {
	if q.JKT != "" {
		return dpop.Scheme
	}
	return "bearer"
}

// redeem takes the approval and stores the tokens in one unit of work.
func (g *grant) redeem(ctx context.Context, r fosite.AccessRequester, q *storage.QRSession, tokens minted) error {
	result := redemption(q, r.GetID(), g.server.config.Now())
	// This very request has proved the key when it was handled, and its proof is used up.
	proof := storage.QRProof{Verifier: r.GetRequestForm().Get("code_verifier"), JKT: q.JKT}
	if poll, ready := ctx.Value(approvedKey{}).(approvedPoll); ready {
		proof.JKT = poll.jkt
	}
	stored := r.Sanitize(nil)
	stored.SetID(r.GetID())
	err := g.server.inUnit(ctx, func(ctx context.Context) error {
		var outcome storage.QRPollOutcome
		err := g.server.config.Store.UpdateQRSession(ctx, q.ID, func(q *storage.QRSession) error {
			outcome = q.Redeem(g.server.config.Now(), proof, storage.QRRedeeming{RequestID: result.RequestID, SessionID: result.SessionID})
			return nil
		})
		switch {
		case errors.Is(err, storage.ErrNotFound):
			return invalidGrant()
		case err != nil:
			return serverError(err)
		case outcome != storage.QRPollReady:
			return redeemRefused(outcome)
		}
		return g.store(ctx, result, stored, tokens)
	})
	var refused *TokenError
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.Is(err, storage.ErrConflict):
		return invalidGrant()
	case err != nil:
		return serverError(err)
	}
	return nil
}

// redeemRefused answers a poll that read APPROVED and came too late for it.
func redeemRefused(outcome storage.QRPollOutcome) *TokenError {
	switch outcome {
	case storage.QRPollDenied:
		return tokenError(http.StatusBadRequest, "access_denied", "The sign-in was denied.")
	case storage.QRPollExpired:
		return tokenError(http.StatusBadRequest, "expired_token", "The code has expired. Start again.")
	case storage.QRPollPending, storage.QRPollSlowDown, storage.QRPollReady, storage.QRPollUsed,
		storage.QRPollReplayed, storage.QRPollUnproved:
	}
	return invalidGrant()
}

func (g *grant) store(ctx context.Context, result Redemption, stored fosite.Requester, tokens minted) error {
	if g.server.config.Redeemed != nil {
		if err := g.server.config.Redeemed(ctx, result); err != nil {
			return serverError(err)
		}
	}
	if err := g.tokens.CreateAccessTokenSession(ctx, tokens.accessSignature, stored); err != nil {
		return serverError(err)
	}
	if tokens.refresh == "" {
		return nil
	}
	if err := g.tokens.CreateRefreshTokenSession(ctx, tokens.refreshSignature, tokens.accessSignature, stored); err != nil {
		return serverError(err)
	}
	return nil
}

// inUnit runs fn as one transaction where the store has them. Where fosite's tokens live
// elsewhere, a failure between the two costs a login and never issues twice: tokens that were
// stored before a commit that failed have been handed to nobody.
func (s *Server) inUnit(ctx context.Context, fn func(ctx context.Context) error) error {
	if u, ok := s.config.Store.(unit); ok {
		return u.Tx(ctx, fn)
	}
	return fn(ctx)
}

func (g *grant) mint(ctx context.Context, r fosite.AccessRequester) (minted, error) {
	var (
		tokens minted
		err    error
	)
	if tokens.access, tokens.accessSignature, err = g.access.GenerateAccessToken(ctx, r); err != nil {
		return minted{}, fmt.Errorf("qr: access token: %w", err)
	}
	if g.wantsRefresh(ctx, r) {
		if tokens.refresh, tokens.refreshSignature, err = g.refresh.GenerateRefreshToken(ctx, r); err != nil {
			return minted{}, fmt.Errorf("qr: refresh token: %w", err)
		}
	}
	if !r.GetGrantedScopes().Has(scopeOpenID) {
		return tokens, nil
	}
	session, ok := r.GetSession().(openid.Session)
	if !ok {
		return minted{}, fmt.Errorf("qr: session %T is no openid.Session", r.GetSession())
	}
	claims := session.IDTokenClaims()
	helper := openid.IDTokenHandleHelper{IDTokenStrategy: g.ids}
	if claims.AccessTokenHash, err = helper.ComputeHash(ctx, session, tokens.access); err != nil {
		return minted{}, fmt.Errorf("qr: at_hash: %w", err)
	}
	// The strategy reads nonce and the like from the request's form, which here is that of
	// the poll: it gets a private request with nothing but what was stored at the opening.
	private := fosite.NewRequest()
	private.ID, private.Client, private.Session = r.GetID(), r.GetClient(), r.GetSession()
	private.GrantedScope, private.Form = r.GetGrantedScopes(), url.Values{"nonce": {claims.Nonce}}
	grantType := fosite.GrantType(r.GetRequestForm().Get("grant_type"))
	lifespan := fosite.GetEffectiveLifespan(r.GetClient(), grantType, fosite.IDToken, g.server.config.IDTokenLifetime)
	if tokens.idToken, err = g.ids.GenerateIDToken(ctx, lifespan, private); err != nil {
		return minted{}, fmt.Errorf("qr: ID token: %w", err)
	}
	return tokens, nil
}

// wantsRefresh: offline access is asked for, granted, and allowed to the client for QR logins.
func (g *grant) wantsRefresh(ctx context.Context, r fosite.AccessRequester) bool {
	return r.GetGrantedScopes().Has("offline_access") &&
		r.GetClient().GetGrantTypes().Has("refresh_token") &&
		g.server.config.Policy(ctx, r.GetClient()).OfflineAccess
}

// newSessionID makes the sid of a sign-in that is to be.
func newSessionID(rand io.Reader) (string, error) {
	var raw [16]byte
	if _, err := io.ReadFull(rand, raw[:]); err != nil {
		return "", fmt.Errorf("qr: read randomness: %w", err)
	}
	return hex.EncodeToString(raw[:]), nil
}
