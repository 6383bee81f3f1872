package qr

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/internal/reply"
	"github.com/qrgrant/qrgrant/storage"
)

// Approver is an authenticated person on a phone (or a browser at /device) who may approve.
type Approver struct {
	Subject   string
	ClientID  string
	SessionID string
	// JKT is the key of the phone's token; empty for a bearer token.
	JKT string
	// AuthTime, AMR and ACR tell how the person signed in.
	AuthTime time.Time
	AMR      []string
	ACR      string
	// Address is where the call comes from; it is counted and compared, never stored.
	Address netip.Addr
}

// ScanRequest is the body of POST /qr/scan: the whole scanned text or a user code, and how it
// came to the phone: scanner, link or typed.
type ScanRequest struct {
	Payload  string
	UserCode string
	Entry    string
	// Held says that Hold has accepted the frame for this person's browser within HoldLifetime:
	// it need not be fresh any more. Only with the entry link, and never on a request's word.
	Held bool
}

// ScanAnswer is what the claimer gets to decide on.
type ScanAnswer struct {
	ConfirmHandle     string  `json:"confirm_handle"`
	ExpiresIn         int64   `json:"expires_in"`
	Context           Context `json:"context"`
	ContextDigest     string  `json:"context_digest"`
	CheckCodeRequired bool    `json:"check_code_required"`
	UserCodeRequired  bool    `json:"user_code_required"`
}

// LogValue keeps the handle out of logs.
func (a *ScanAnswer) LogValue() slog.Value {
	return slog.GroupValue(slog.String("client", a.Context.Client.ID), slog.Int64("expires_in", a.ExpiresIn))
}

// DecisionRequest is the body of POST /qr/decision. Scope, when not nil, narrows the grant.
type DecisionRequest struct {
	ConfirmHandle string
	Decision      string
	ContextDigest string
	CheckCode     string
	UserCode      string
	Scope         *string
}

// LogValue keeps the handle and the codes out of logs.
func (r DecisionRequest) LogValue() slog.Value {
	return slog.GroupValue(slog.String("decision", r.Decision))
}

// DecisionAnswer is the state the decision led to, and the sid of the sign-in it approved.
type DecisionAnswer struct {
	State string `json:"state"`
	SID   string `json:"sid,omitempty"`
}

// Scan answers POST /qr/scan: a phone with an access token claims a session (protocol §6).
func (s *Server) Scan(w http.ResponseWriter, r *http.Request) {
	a, object, fault := s.phoneRequest(w, r, "payload", "user_code", "entry")
	if fault != nil {
		s.RefusePhone(r.Context(), w, fault)
		return
	}
	answer, err := s.Claim(r.Context(), a, ScanRequest{Payload: object["payload"], UserCode: object["user_code"], Entry: object["entry"]})
	if err != nil {
		s.RefusePhone(r.Context(), w, err)
		return
	}
	reply.JSON(w, http.StatusOK, reply.MediaJSON, answer)
}

// Decision answers POST /qr/decision: the claimer approves, denies or reports (protocol §6).
func (s *Server) Decision(w http.ResponseWriter, r *http.Request) {
	a, object, fault := s.phoneRequest(w, r, "confirm_handle", "decision", "context_digest", "check_code", "user_code", "scope")
	if fault != nil {
		s.RefusePhone(r.Context(), w, fault)
		return
	}
	req := DecisionRequest{
		ConfirmHandle: object["confirm_handle"], Decision: object["decision"], ContextDigest: object["context_digest"],
		CheckCode: object["check_code"], UserCode: object["user_code"],
	}
	if scope, narrowed := object["scope"]; narrowed {
		req.Scope = &scope
	}
	answer, err := s.Decide(r.Context(), a, req)
	if err != nil {
		s.RefusePhone(r.Context(), w, err)
		return
	}
	reply.JSON(w, http.StatusOK, reply.MediaJSON, answer)
}

// phoneRequest does what both phone endpoints do first. The token is checked before the body
// is looked at, so that a stranger learns nothing from it.
func (s *Server) phoneRequest(w http.ResponseWriter, r *http.Request, members ...string) (Approver, map[string]string, error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return Approver{}, nil, problem(http.StatusMethodNotAllowed, "invalid_request", "This endpoint answers POST only.")
	}
	a, err := s.Approver(w, r)
	if err != nil {
		return Approver{}, nil, err
	}
	object, err := form.ReadObject(w, r, members...)
	var fault *form.Fault
	if errors.As(err, &fault) {
		return Approver{}, nil, problem(fault.Status, "invalid_request", fault.Sentence)
	}
	return a, object, nil
}

// Approver authenticates the phone by its access token (protocol §6): the header only, and
// identity only from the token. The token is a bearer token, or one that is bound to a DPoP key and
// comes with a proof of that. A server calls it for endpoints of its own that only a phone may use,
// once and before it answers w, and hands its error to RefusePhone.
func (s *Server) Approver(w http.ResponseWriter, r *http.Request) (Approver, error) {
	if s.config.Proofs == nil && len(r.Header.Values(dpop.Header)) > 0 {
		return Approver{}, problemInvalid("DPoP is not supported by this server.")
	}
	s.offerNonce(w, r)
	sent, ok := s.sentToken(r)
	if !ok {
		noToken := problem(http.StatusUnauthorized, "invalid_token", "An access token is required.")
		noToken.bare, noToken.offered = true, s.config.Proofs != nil
		return Approver{}, noToken
	}
	b, err := s.config.Introspect(r.Context(), sent.value)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return Approver{}, s.invalidToken(sent)
	case err != nil:
		return Approver{}, problemServer(err)
	}
	// Only now: who has no token makes us remember no proofs.
	if fault := s.proveToken(r, sent, b); fault != nil {
		return Approver{}, fault
	}
	if fault := s.mayApprove(b); fault != nil {
		return Approver{}, fault
	}
	return Approver{
		Subject: b.Subject, ClientID: b.ClientID, SessionID: b.SessionID, JKT: b.JKT,
		AuthTime: b.AuthTime, AMR: b.AMR, ACR: b.ACR, Address: s.config.ClientAddress(r),
	}, nil
}

// sentToken reads the one access token of a request.
func (s *Server) sentToken(r *http.Request) (sentToken, bool) {
	headers := r.Header.Values("Authorization")
	if len(headers) != 1 {
		return sentToken{}, false
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	bound := s.config.Proofs != nil && strings.EqualFold(scheme, dpop.Scheme)
	return sentToken{value: token, dpop: bound}, token != "" && (bound || strings.EqualFold(scheme, "Bearer"))
}

// mayApprove checks what an active access token needs: no QR approval among its ancestors,
// the scope, this issuer as its only audience, a person and an approver client. The mark comes
// first: an app that was told of a missing scope would ask for it, which cannot help.
func (s *Server) mayApprove(b *Bearer) *Problem {
	notAllowed := problem(http.StatusForbidden, "approver_not_allowed", "This app or sign-in may not approve sign-ins.")
	switch {
	case b.QRBorn:
		return notAllowed
	case !slices.Contains(b.Scopes, ApproveScope):
		p := problem(http.StatusForbidden, "insufficient_scope", "The access token may not approve sign-ins.")
		p.bound = b.JKT != ""
		return p
	case !slices.Contains(b.Audience, s.config.Issuer) || s.foreignAudience(b):
		return s.invalidToken(sentToken{dpop: b.JKT != ""})
	case b.Subject == "" || !b.Approver:
		return notAllowed
	}
	return nil
}

func (s *Server) foreignAudience(b *Bearer) bool {
	return slices.ContainsFunc(b.Audience, func(audience string) bool {
		return audience != s.config.Issuer && !slices.Contains(b.SharedAudiences, audience)
	})
}

// RefusePhone answers a request of the phone with the *Problem in err, as application/problem+json.
// Any other error is a fault of ours: it is logged, and the answer says no more than that.
func (s *Server) RefusePhone(ctx context.Context, w http.ResponseWriter, err error) {
	var p *Problem
	if !errors.As(err, &p) {
		p = problemServer(err)
	}
	if p.Status >= http.StatusInternalServerError {
		s.config.Logger.ErrorContext(ctx, "phone endpoint failed", "error", p.cause)
	}
	p.write(w)
}
