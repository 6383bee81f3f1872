package provider

import (
	"errors"
	"net/http"
	"strings"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/provider/internal/reply"
	"github.com/qrgrant/qrgrant/storage"
)

// The schemes of Authorization under which an access token is sent, as they are spelt in a
// challenge; case does not count in a request.
const (
	schemeBearer = "Bearer"
	schemeDPoP   = "DPoP"
)

// sentToken is an access token as a request brings it. One in a form body counts as a bearer
// token: a proof is for the header alone (RFC 9449 §7.1).
type sentToken struct {
	token, scheme string
}

// bearerError is an error answer of a protected resource (RFC 6750 §3.1, RFC 9449 §7.1).
type bearerError struct {
	status            int
	code, description string
	// scheme is the one that failed; empty when there was no token, which challenges with both.
	scheme string
	// bound says that the token needs a proof, whatever else it lacks.
	bound bool
	scope string
}

func (e *bearerError) Error() string { return e.code }

func invalidToken(scheme string) *bearerError {
	return &bearerError{status: http.StatusUnauthorized, scheme: scheme, code: "invalid_token", description: "The access token is not active."}
}

// refused is the answer to a token that is unknown or has ended; any other error stays what it is.
func (s sentToken) refused(err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return invalidToken(s.scheme)
	}
	return err
}

// forAnother is the answer to a token that says it is for other servers alone.
func (s sentToken) forAnother(grant *fositestore.Grant) error {
	refused := invalidToken(s.scheme)
	refused.description, refused.bound = "The access token is not for this server.", grant.Facts.JKT != ""
	return refused
}

// lacksOpenID is the answer to a token that says nothing of a person (OpenID Connect Core §5.3).
func (s sentToken) lacksOpenID() error {
	return &bearerError{
		status: http.StatusForbidden, scheme: s.scheme, scope: "openid",
		code: "insufficient_scope", description: "The token lacks the scope openid.",
	}
}

// readToken reads the token from the header or from a form body, never from the query, where it
// would end up in logs (RFC 6750 §2).
func readToken(w http.ResponseWriter, r *http.Request) (sentToken, error) {
	twice := &bearerError{status: http.StatusBadRequest, scheme: schemeBearer, code: "invalid_request", description: "The token was sent more than once."}
	header := r.Header.Values("Authorization")
	if len(header) > 1 {
		return sentToken{}, twice
	}
	var posted string
	if r.Method == http.MethodPost && strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		values, err := form.Read(w, r)
		if err != nil {
			return sentToken{}, &bearerError{status: http.StatusBadRequest, scheme: schemeBearer, code: "invalid_request", description: "The body is malformed."}
		}
		posted = values.Get("access_token")
	}
	if len(header) == 0 {
		if posted == "" {
			return sentToken{}, &bearerError{status: http.StatusUnauthorized}
		}
		return sentToken{token: posted, scheme: schemeBearer}, nil
	}
	sent := sentToken{}
	scheme, token, _ := strings.Cut(header[0], " ")
	switch {
	case strings.EqualFold(scheme, schemeBearer):
		sent.scheme = schemeBearer
	case strings.EqualFold(scheme, schemeDPoP):
		sent.scheme = schemeDPoP
	default:
		return sentToken{}, &bearerError{status: http.StatusUnauthorized}
	}
	if posted != "" {
		return sentToken{}, twice
	}
	sent.token = strings.TrimSpace(token)
	return sent, nil
}

// proveToken checks that a token is sent as it is bound: with a proof of its key, or as a bearer
// token when it is bound to none (RFC 9449 §7.1, §7.2).
func (p *Provider) proveToken(w http.ResponseWriter, r *http.Request, sent sentToken, grant *fositestore.Grant) error {
	bound := grant.Facts.JKT
	if sent.scheme == schemeBearer {
		if bound == "" {
			return nil
		}
		refused := invalidToken(schemeBearer)
		refused.bound = true
		return refused
	}
	jkt, err := p.prove(w, r, sent.token)
	if refused := proofError(err); refused != nil {
		return &bearerError{status: http.StatusUnauthorized, scheme: schemeDPoP, code: refused.code, description: refused.description}
	}
	switch {
	case err != nil:
		return err
	case bound == "":
		return invalidToken(schemeDPoP)
	case jkt == "":
		return &bearerError{status: http.StatusUnauthorized, scheme: schemeDPoP, code: dpop.CodeInvalidProof, description: "The access token needs a DPoP proof."}
	case jkt != bound:
		return invalidToken(schemeDPoP)
	}
	return nil
}

// challenges asks for what the request lacks. After a fault it names the scheme that failed and
// no other, because clients look for their nonce in an answer with one challenge.
func (e *bearerError) challenges() []string {
	said := []string{"realm", "qrgrant", "error", e.code, "error_description", e.description, "scope", e.scope}
	if e.code == "" {
		said = said[:2] // whoever sent no token is told in the body, if at all (RFC 6750 §3.1)
	}
	proof := []string{"realm", "qrgrant", "algs", strings.Join(dpop.Algorithms(), " ")}
	switch {
	case e.scheme == "":
		return []string{reply.Challenge(schemeBearer, "realm", "qrgrant"), reply.Challenge(schemeDPoP, proof...)}
	case e.scheme == schemeDPoP:
		return []string{reply.Challenge(schemeDPoP, append(said, proof[2:]...)...)}
	case e.bound:
		return []string{reply.Challenge(schemeBearer, said...), reply.Challenge(schemeDPoP, proof...)}
	}
	return []string{reply.Challenge(schemeBearer, said...)}
}

// writeBearerError maps every failure of a protected resource to its challenge.
func (p *Provider) writeBearerError(w http.ResponseWriter, r *http.Request, err error) {
	var e *bearerError
	switch {
	case errors.As(err, &e):
	case errors.Is(err, storage.ErrNotFound):
		e = invalidToken(schemeBearer)
	default:
		p.writeError(w, r, unavailable(err))
		return
	}
	reply.Fail(w, reply.Failure{Status: e.status, Code: e.code, Description: e.description, Challenges: e.challenges()})
}
