package qr

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"slices"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/storage"
)

// Proofs checks DPoP proofs (RFC 9449); *dpop.Verifier does.
type Proofs interface {
	// Verify returns the thumbprint of the key that a request proves, empty without a proof. Its
	// error is a *dpop.Error or a failure of the server.
	Verify(ctx context.Context, r dpop.Request) (jkt string, err error)
	// Nonce is the one that clients are to use next.
	Nonce() string
}

var _ Proofs = (*dpop.Verifier)(nil)

// unsupported refuses what this server would otherwise ignore: a client that asks for a bound
// token or another audience must not get less than that without noticing.
func (s *Server) unsupported(r *http.Request, values url.Values) *TokenError {
	named := values.Get("dpop_jkt")
	switch {
	case s.config.Proofs == nil && (len(r.Header.Values(dpop.Header)) > 0 || named != ""):
		return invalidRequest("DPoP is not supported by this server.")
	case named != "" && !isHash(named):
		return invalidRequest("The dpop_jkt is not a SHA-256 thumbprint in base64url.")
	case s.config.Targets == nil && values.Has("resource"):
		// Has, because the one parameter that may be repeated may begin with an empty value.
		return invalidTarget("Resource indicators are not supported by this server.")
	}
	return nil
}

// offerNonce sends the nonce for the next proof with the answer to a request that brings one
// (RFC 9449 §8.2).
func (s *Server) offerNonce(w http.ResponseWriter, r *http.Request) {
	if s.config.Proofs != nil && len(r.Header.Values(dpop.Header)) > 0 {
		w.Header().Set(dpop.HeaderNonce, s.config.Proofs.Nonce())
	}
}

// verify checks the proof of a request; empty without one.
func (s *Server) verify(r *http.Request, proofs []string, accessToken string) (jkt string, err error) {
	if len(proofs) == 0 {
		return "", nil
	}
	if s.config.Proofs == nil {
		return "", errors.New("qr: Config.Proofs is nil")
	}
	return s.config.Proofs.Verify(r.Context(), dpop.Request{
		Proofs: proofs, Method: r.Method, URL: s.origin + r.URL.EscapedPath(), AccessToken: accessToken,
	})
}

// prove is verify for the consumption device. It uses the proof up: call it once for a request.
func (s *Server) prove(r *http.Request, proofs []string) (jkt string, fault *TokenError) {
	jkt, err := s.verify(r, proofs, "")
	var refused *dpop.Error
	switch {
	case err == nil:
		return jkt, nil
	case errors.As(err, &refused):
		return "", unproved(refused)
	case errors.Is(err, storage.ErrFull):
		return "", limited(openWindow)
	}
	return "", serverError(err)
}

// bindKey binds a session that is opened to the key of a proof, or to the one that dpop_jkt names
// (RFC 9449 §10 has both for authorization requests).
func (s *Server) bindKey(r *http.Request, values url.Values, policy Policy, q *storage.QRSession) *TokenError {
	named := values.Get("dpop_jkt")
	proved, fault := s.prove(r, r.Header.Values(dpop.Header))
	switch {
	case fault != nil:
		return fault
	case proved != "" && named != "" && proved != named:
		return tokenError(http.StatusBadRequest, dpop.CodeInvalidProof, "The DPoP proof is of another key than dpop_jkt.")
	case proved != "":
		q.JKT = proved
	default:
		q.JKT = named
	}
	if q.JKT == "" && policy.RequireDPoP {
		return invalidRequest("The client has to send a DPoP proof or a dpop_jkt.")
	}
	return nil
}

// holdsKey refuses a request beside the token endpoint that does not prove the key of its session,
// or proves one where none is bound, or names what the session is not for. It counts nothing: such
// a request cannot redeem.
func (s *Server) holdsKey(r *http.Request, q *storage.QRSession, values url.Values, proofs []string) *TokenError {
	if _, fault := narrowed(q, values); fault != nil {
		return fault
	}
	jkt, fault := s.prove(r, proofs)
	if fault != nil {
		return fault
	}
	if subtle.ConstantTimeCompare([]byte(q.JKT), []byte(jkt)) != 1 {
		return invalidGrant()
	}
	return nil
}

// bindAudience resolves the resources that the opening asks for (RFC 8707 §2).
func (s *Server) bindAudience(client fosite.Client, values url.Values, q *storage.QRSession) *TokenError {
	if s.config.Targets == nil {
		return nil
	}
	audience, err := s.config.Targets(client, q.Scopes, resources(values))
	if err != nil {
		fault := invalidTarget("The resource cannot be asked for.")
		fault.cause = err
		return fault
	}
	q.Audience = audience
	return nil
}

// narrowed is the audience of this one access token: that of the opening, or those of it that the
// token request names (RFC 8707 §2.2).
func narrowed(q *storage.QRSession, values url.Values) ([]string, *TokenError) {
	asked := resources(values)
	if len(asked) == 0 {
		return q.Audience, nil
	}
	var audience []string
	for _, resource := range asked {
		if !slices.Contains(q.Audience, resource) {
			return nil, invalidTarget("The resource was not asked for at the start.")
		}
		if !slices.Contains(audience, resource) {
			audience = append(audience, resource)
		}
	}
	return audience, nil
}

// resources are those a form names; an empty one counts as left out.
func resources(values url.Values) []string {
	return slices.DeleteFunc(slices.Clone(values["resource"]), func(resource string) bool { return resource == "" })
}

func invalidTarget(description string) *TokenError {
	return tokenError(http.StatusBadRequest, "invalid_target", description)
}

// sentToken is the access token of a phone as it was sent.
type sentToken struct {
	value string
	// dpop says that it came under the scheme DPoP.
	dpop bool
}

// proveToken checks that a token is sent as it is bound: with a proof of its key, or as a bearer
// token when it is bound to none and its client may have such (RFC 9449 §7.1, §7.2).
func (s *Server) proveToken(r *http.Request, sent sentToken, b *Bearer) *Problem {
	refused := s.invalidToken(sent)
	if !sent.dpop {
		switch {
		case b.JKT != "":
			// Either would do, but not this token in this way.
			refused.offered = s.config.Proofs != nil
			return refused
		case b.RequireDPoP:
			refused.bound = true
			return refused
		}
		return nil
	}
	if b.JKT == "" {
		return refused
	}
	jkt, err := s.verify(r, r.Header.Values(dpop.Header), sent.value)
	var fault *dpop.Error
	switch {
	case errors.As(err, &fault):
		return refusedProof(fault)
	case errors.Is(err, storage.ErrFull):
		return problemLimited(openWindow)
	case err != nil:
		return problemServer(err)
	case jkt == "":
		return refusedProof(nil)
	case subtle.ConstantTimeCompare([]byte(b.JKT), []byte(jkt)) != 1:
		return refused
	}
	return nil
}

// refusedProof is the answer to a proof that was refused; nil stands for one that is missing.
func refusedProof(fault *dpop.Error) *Problem {
	p := problem(http.StatusUnauthorized, "invalid_dpop_proof", "The access token needs a DPoP proof of its key.")
	if fault != nil && fault.Code == dpop.CodeUseNonce {
		p = problem(http.StatusUnauthorized, "use_dpop_nonce", fault.Sentence)
	}
	p.bound = true
	if fault != nil {
		p.cause = fault
	}
	return p
}

func (*Server) invalidToken(sent sentToken) *Problem {
	p := problem(http.StatusUnauthorized, "invalid_token", "The access token is not valid here.")
	p.bound = sent.dpop
	return p
}
