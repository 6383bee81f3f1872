package provider

import (
	"context"
	"errors"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/storage"
)

// pkceHandler checks the verifier against the challenge in the code's own record (RFC 7636).
// fosite's handler deletes the challenge before it compares, so that a wrong verifier and then
// none redeems the code; here a failed try changes nothing.
type pkceHandler struct {
	store *fositestore.Store
}

var _ fosite.TokenEndpointHandler = (*pkceHandler)(nil)

func newPKCEHandler(store *fositestore.Store) *pkceHandler {
	return &pkceHandler{store: store}
}

// HandleTokenEndpointRequest refuses a code whose verifier is wrong, missing or unexpected.
func (h *pkceHandler) HandleTokenEndpointRequest(ctx context.Context, req fosite.AccessRequester) error {
	if !h.CanHandleTokenEndpointRequest(ctx, req) {
		return fosite.ErrUnknownRequest
	}
	form := req.GetRequestForm()
	challenge, err := h.store.Challenge(ctx, tokenSignature(form.Get("code")))
	if errors.Is(err, fosite.ErrNotFound) {
		return fosite.ErrInvalidGrant.WithWrap(err)
	}
	if err != nil {
		return fosite.ErrServerError.WithWrap(err)
	}
	verifier := form.Get("code_verifier")
	if challenge == "" {
		// A verifier without a challenge means that somebody stripped the challenge from the
		// authorization request (RFC 9700 §2.1.1), or that the client has a bug worth knowing.
		if verifier != "" || h.required(req.GetClient()) {
			return fosite.ErrInvalidGrant
		}
		return nil
	}
	if !storage.VerifierMatches(challenge, verifier) {
		return fosite.ErrInvalidGrant
	}
	return nil
}

func (*pkceHandler) required(client fosite.Client) bool {
	c, ok := client.(fositestore.Client)
	return !ok || pkceRequired(c)
}

// pkceRequired is true but for a confidential client that was let off.
func pkceRequired(c fositestore.Client) bool { return c.Public() || !c.PKCEOptional }

// PopulateTokenEndpointResponse adds nothing.
func (*pkceHandler) PopulateTokenEndpointResponse(context.Context, fosite.AccessRequester, fosite.AccessResponder) error {
	return fosite.ErrUnknownRequest
}

// CanSkipClientAuth is false.
func (*pkceHandler) CanSkipClientAuth(context.Context, fosite.AccessRequester) bool { return false }

// CanHandleTokenEndpointRequest is true for the code grant.
func (*pkceHandler) CanHandleTokenEndpointRequest(_ context.Context, req fosite.AccessRequester) bool {
	return req.GetGrantTypes().ExactOne(grantCode)
}
