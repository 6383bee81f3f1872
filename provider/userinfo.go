package provider

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/internal/reply"
	"github.com/qrgrant/qrgrant/storage"
)

// userinfo is GET and POST /userinfo (OpenID Connect Core §5.3).
func (p *Provider) userinfo(w http.ResponseWriter, r *http.Request) {
	token, err := bearerToken(w, r)
	if err != nil {
		p.writeBearerError(w, r, err)
		return
	}
	grant, _, err := p.activeToken(r.Context(), token)
	if err == nil && (grant.Kind != storage.TokenAccess || grant.Subject == "") {
		err = storage.ErrNotFound
	}
	if err == nil && !slices.Contains(grant.Scopes, "openid") {
		err = &bearerError{status: http.StatusForbidden, code: "insufficient_scope", description: "The token lacks the scope openid."}
	}
	if err != nil {
		p.writeBearerError(w, r, err)
		return
	}
	user, err := p.config.Store.User(r.Context(), grant.Subject)
	if err != nil {
		p.writeBearerError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, claimsOf(user, grant.Scopes, grant.Facts.UserinfoClaims))
}

// bearerError is an error answer of a protected resource (RFC 6750 §3.1).
type bearerError struct {
	status            int
	code, description string
}

func (e *bearerError) Error() string { return e.code }

// bearerToken reads the token from the header or from a form body, never from the query, where
// it would end up in logs (RFC 6750 §2).
func bearerToken(w http.ResponseWriter, r *http.Request) (string, error) {
	twice := &bearerError{status: http.StatusBadRequest, code: "invalid_request", description: "The token was sent more than once."}
	header := r.Header.Values("Authorization")
	if len(header) > 1 {
		return "", twice
	}
	var posted string
	if r.Method == http.MethodPost && strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		values, err := form.Read(w, r)
		if err != nil {
			return "", &bearerError{status: http.StatusBadRequest, code: "invalid_request", description: "The body is malformed."}
		}
		posted = values.Get("access_token")
	}
	if len(header) == 0 {
		if posted == "" {
			return "", &bearerError{status: http.StatusUnauthorized}
		}
		return posted, nil
	}
	scheme, token, _ := strings.Cut(header[0], " ")
	switch {
	case !strings.EqualFold(scheme, "Bearer"):
		return "", &bearerError{status: http.StatusUnauthorized}
	case posted != "":
		return "", twice
	}
	return strings.TrimSpace(token), nil
}

// writeBearerError maps every failure of a protected resource to its challenge.
func (p *Provider) writeBearerError(w http.ResponseWriter, r *http.Request, err error) {
	var e *bearerError
	switch {
	case errors.As(err, &e):
	case errors.Is(err, storage.ErrNotFound):
		e = &bearerError{status: http.StatusUnauthorized, code: "invalid_token", description: "The access token is not active."}
	default:
		p.writeError(w, r, unavailable(err))
		return
	}
	reply.Fail(w, reply.Failure{
		Status: e.status, Code: e.code, Description: e.description,
		Challenges: []string{reply.Challenge("Bearer", "realm", "qrgrant", "error", e.code, "error_description", e.description)},
	})
}
