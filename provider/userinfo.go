package provider

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/storage"
)

// scopeClaims are the claims each scope asks for (OpenID Connect Core §5.4).
func scopeClaims(scope string) []string {
	switch scope {
	case "profile":
		return []string{
			"name", "family_name", "given_name", "middle_name", "nickname", "preferred_username", "profile",
			"picture", "website", "gender", "birthdate", "zoneinfo", "locale", "updated_at",
		}
	case "email":
		return []string{"email", "email_verified"}
	case "address":
		return []string{"address"}
	case "phone":
		return []string{"phone_number", "phone_number_verified"}
	}
	return nil
}

// supportedClaims are those of the ID token, then those of the scopes.
func supportedClaims() []string {
	claims := []string{"iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "sid", "at_hash", "jti"}
	for _, scope := range []string{"profile", "email", "address", "phone"} {
		claims = append(claims, scopeClaims(scope)...)
	}
	return claims
}

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
	writeJSON(w, http.StatusOK, claimsOf(user, grant.Scopes))
}

// claimsOf selects a person's claims by scope; sub is ours, whatever the record says.
func claimsOf(user *storage.User, scopes []string) map[string]any {
	claims := make(map[string]any)
	for _, scope := range scopes {
		for _, name := range scopeClaims(scope) {
			if v, ok := user.Claims[name]; ok {
				claims[name] = v
			}
		}
	}
	claims["sub"] = user.Subject
	return claims
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
	challenge := `Bearer realm="qrgrant"`
	if e.code != "" {
		challenge += `, error="` + e.code + `", error_description="` + e.description + `"`
	}
	w.Header().Set("WWW-Authenticate", challenge)
	members := map[string]string{}
	if e.code != "" {
		members["error"], members["error_description"] = e.code, e.description
	}
	writeJSON(w, e.status, members)
}
