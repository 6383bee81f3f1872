package provider

import (
	"errors"
	"net/http"
	"time"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/internal/reply"
	"github.com/qrgrant/qrgrant/storage"
)

// oauthError is an error answer: a code of RFC 6749 §5.2 and a fixed sentence. Nothing a
// caller sent and nothing a library said ever stands in it.
type oauthError struct {
	status      int
	code        string
	description string
	// wait is how long to wait before the next try; zero where only the status says.
	wait  time.Duration
	cause error
}

func (e *oauthError) Error() string {
	if e.cause != nil {
		return e.code + ": " + e.cause.Error()
	}
	return e.code + ": " + e.description
}

// Unwrap returns the same error in fosite's form, for package qr, and what caused it.
func (e *oauthError) Unwrap() []error {
	errs := []error{&fosite.RFC6749Error{ErrorField: e.code, DescriptionField: e.description, CodeField: e.status}}
	if e.cause != nil {
		errs = append(errs, e.cause)
	}
	return errs
}

func invalidRequest(sentence string) *oauthError {
	return &oauthError{status: http.StatusBadRequest, code: "invalid_request", description: sentence}
}

func invalidClient() *oauthError {
	return &oauthError{status: http.StatusUnauthorized, code: "invalid_client", description: "The client could not be authenticated."}
}

func unauthorizedClient() *oauthError {
	return &oauthError{status: http.StatusBadRequest, code: "unauthorized_client", description: "The client may not do this."}
}

func invalidGrant() *oauthError {
	return &oauthError{status: http.StatusBadRequest, code: "invalid_grant", description: "The code or token is not valid for this client."}
}

func invalidScope() *oauthError {
	return &oauthError{status: http.StatusBadRequest, code: "invalid_scope", description: "A requested scope cannot be granted."}
}

func invalidTarget() *oauthError {
	return &oauthError{status: http.StatusBadRequest, code: "invalid_target", description: "The resource cannot be asked for."}
}

func unsupportedGrantType() *oauthError {
	return &oauthError{status: http.StatusBadRequest, code: "unsupported_grant_type", description: "The grant type is not supported."}
}

func serverError(cause error) *oauthError {
	return &oauthError{status: http.StatusInternalServerError, code: "server_error", description: "The server failed.", cause: cause}
}

func unavailable(cause error) *oauthError {
	return &oauthError{status: http.StatusServiceUnavailable, code: "temporarily_unavailable", description: "The server cannot do this now.", cause: cause}
}

// tokenError is the one place where what fosite and the store report becomes an answer of the
// token endpoint. fosite buries the sentinel of a lost compare-and-swap in a server_error and
// calls a bad refresh token invalid_request; both are invalid_grant.
func tokenError(err error) *oauthError {
	var own *oauthError
	var body *form.Fault
	if refused := proofError(err); refused != nil {
		return refused
	}
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &body):
		return &oauthError{status: body.Status, code: "invalid_request", description: body.Sentence}
	case errors.Is(err, storage.ErrFull):
		return unavailable(err)
	case errors.Is(err, storage.ErrConflict), errors.Is(err, fosite.ErrInvalidatedAuthorizeCode),
		errors.Is(err, fosite.ErrInactiveToken), errors.Is(err, fosite.ErrNotFound):
		return invalidGrant()
	}
	var foreign *fosite.RFC6749Error
	if !errors.As(err, &foreign) {
		return serverError(err)
	}
	switch foreign.ErrorField {
	case "invalid_client":
		return invalidClient()
	case "unauthorized_client":
		return unauthorizedClient()
	case "invalid_scope", "scope_not_granted":
		return invalidScope()
	case "unsupported_grant_type":
		return unsupportedGrantType()
	case "temporarily_unavailable":
		return unavailable(err)
	// Missing parameters were refused before fosite ran, so what it still calls a bad request
	// is a bad code or token.
	case "invalid_grant", "invalid_request", "token_expired", "invalid_token":
		return invalidGrant()
	}
	return serverError(err)
}

// writeError answers a JSON endpoint with an error.
func (p *Provider) writeError(w http.ResponseWriter, r *http.Request, err error) {
	e := tokenError(err)
	if e.status >= http.StatusInternalServerError && !ofDocuments(err) {
		p.config.Logger.ErrorContext(r.Context(), "request failed", "path", r.URL.Path, "error", err)
	}
	if e.code == dpop.CodeUseNonce {
		w.Header().Set(dpop.HeaderNonce, p.dpop.Nonce())
	}
	wait := e.wait
	if e.status == http.StatusServiceUnavailable && wait == 0 {
		wait = 5 * time.Second
	}
	reply.Fail(w, reply.Failure{Status: e.status, Code: e.code, Description: e.description, RetryAfter: wait})
}

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, status int, v any) {
	reply.JSON(w, status, reply.MediaJSON, v)
}
