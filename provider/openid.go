package provider

import (
	"context"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/openid"
)

// openidHandler adds the ID token to the code and the refresh grant. It runs after the handler
// that made the access token, inside the same unit of work: when signing fails, the code and
// the refresh token are still good.
type openidHandler struct {
	*openid.IDTokenHandleHelper
	lifetime time.Duration
}

var _ fosite.TokenEndpointHandler = (*openidHandler)(nil)

// HandleTokenEndpointRequest decides nothing.
func (*openidHandler) HandleTokenEndpointRequest(context.Context, fosite.AccessRequester) error {
	return fosite.ErrUnknownRequest
}

// PopulateTokenEndpointResponse adds id_token when openid was granted.
func (h *openidHandler) PopulateTokenEndpointResponse(ctx context.Context, req fosite.AccessRequester, resp fosite.AccessResponder) error {
	if !h.CanHandleTokenEndpointRequest(ctx, req) || !req.GetGrantedScopes().Has("openid") {
		return fosite.ErrUnknownRequest
	}
	return h.IssueExplicitIDToken(ctx, h.lifetime, req, resp)
}

// CanSkipClientAuth is false: every grant here needs the client.
func (*openidHandler) CanSkipClientAuth(context.Context, fosite.AccessRequester) bool { return false }

// CanHandleTokenEndpointRequest is true for the two grants whose handlers make no ID token.
func (*openidHandler) CanHandleTokenEndpointRequest(_ context.Context, req fosite.AccessRequester) bool {
	grant := req.GetGrantTypes()
	return grant.ExactOne(grantCode) || grant.ExactOne(grantRefresh)
}
