package qr

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

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

// DecisionRequest is the body of POST /qr/decision. Scope, when not nil, narrows the grant.
type DecisionRequest struct {
	ConfirmHandle string
	Decision      string
	ContextDigest string
	CheckCode     string
	UserCode      string
	Scope         *string
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
		s.refusePhone(r.Context(), w, fault)
		return
	}
	answer, err := s.Claim(r.Context(), a, ScanRequest{object["payload"], object["user_code"], object["entry"]})
	if err != nil {
		s.refusePhone(r.Context(), w, err)
		return
	}
	writeJSON(w, http.StatusOK, "application/json", answer)
}

// Decision answers POST /qr/decision: the claimer approves, denies or reports (protocol §6).
func (s *Server) Decision(w http.ResponseWriter, r *http.Request) {
	a, object, fault := s.phoneRequest(w, r, "confirm_handle", "decision", "context_digest", "check_code", "user_code", "scope")
	if fault != nil {
		s.refusePhone(r.Context(), w, fault)
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
		s.refusePhone(r.Context(), w, err)
		return
	}
	writeJSON(w, http.StatusOK, "application/json", answer)
}

// phoneRequest does what both phone endpoints do first. The token is checked before the body
// is looked at, so that a stranger learns nothing from it.
func (s *Server) phoneRequest(w http.ResponseWriter, r *http.Request, members ...string) (Approver, map[string]string, error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return Approver{}, nil, problem(http.StatusMethodNotAllowed, "invalid_request", "This endpoint answers POST only.")
	}
	a, err := s.approver(r)
	if err != nil {
		return Approver{}, nil, err
	}
	object, err := readObject(w, r, members...)
	if err != nil {
		status, sentence := bodyFault(err)
		return Approver{}, nil, problem(status, "invalid_request", sentence)
	}
	return a, object, nil
}

// approver authenticates the phone by its bearer token: the header only, and identity only
// from the token.
func (s *Server) approver(r *http.Request) (Approver, error) {
	if len(r.Header.Values("DPoP")) > 0 {
		return Approver{}, problemInvalid("DPoP is not supported by this server.")
	}
	noToken := problem(http.StatusUnauthorized, "invalid_token", "An access token is required.")
	noToken.bare = true
	headers := r.Header.Values("Authorization")
	if len(headers) != 1 {
		return Approver{}, noToken
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return Approver{}, noToken
	}
	b, err := s.config.Introspect(r.Context(), token)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return Approver{}, problemServer(err)
	}
	if err != nil || b.JKT != "" {
		return Approver{}, problem(http.StatusUnauthorized, "invalid_token", "The access token is not valid here.")
	}
	if fault := s.mayApprove(b); fault != nil {
		return Approver{}, fault
	}
	return Approver{
		Subject: b.Subject, ClientID: b.ClientID, SessionID: b.SessionID, JKT: b.JKT,
		AuthTime: b.AuthTime, AMR: b.AMR, ACR: b.ACR, Address: s.config.ClientAddress(r),
	}, nil
}

// mayApprove checks what an active access token needs: the scope, this issuer as its only
// audience, a person, an approver client, and no QR approval among its ancestors.
func (s *Server) mayApprove(b *Bearer) error {
	switch {
	case !slices.Contains(b.Scopes, ApproveScope):
		return problem(http.StatusForbidden, "insufficient_scope", "The access token may not approve sign-ins.")
	case !slices.Contains(b.Audience, s.config.Issuer) || s.foreignAudience(b):
		return problem(http.StatusUnauthorized, "invalid_token", "The access token is not valid here.")
	case b.Subject == "" || !b.Approver || b.QRBorn:
		return problem(http.StatusForbidden, "approver_not_allowed", "This app or sign-in may not approve sign-ins.")
	}
	return nil
}

func (s *Server) foreignAudience(b *Bearer) bool {
	return slices.ContainsFunc(b.Audience, func(audience string) bool {
		return audience != s.config.Issuer && !slices.Contains(b.SharedAudiences, audience)
	})
}

// refusePhone logs a fault of ours and answers.
func (s *Server) refusePhone(ctx context.Context, w http.ResponseWriter, err error) {
	var p *Problem
	if !errors.As(err, &p) {
		p = problemServer(err)
	}
	if p.Status >= http.StatusInternalServerError {
		s.config.Logger.ErrorContext(ctx, "phone endpoint failed", "error", p.cause)
	}
	p.write(w)
}

// Claim claims a session for the approver, or gives the claimer a fresh handle. Its error is
// a *Problem.
func (s *Server) Claim(ctx context.Context, a Approver, req ScanRequest) (*ScanAnswer, error) {
	now := s.config.Now()
	if wait := s.scans.take(a.Subject, now); wait > 0 {
		s.record(ctx, storage.EventQRRateLimited, nil, a, "scan")
		return nil, problemLimited(wait)
	}
	entry, code, fault := s.entry(req)
	if fault != nil {
		return nil, fault
	}
	q, fresh, err := s.find(ctx, a, req.Payload, code, entry)
	if err != nil {
		return nil, err
	}
	if wait := s.reports.against(asker{q.ClientID, q.Address}, a.Subject, now); wait > 0 {
		return nil, problemLimited(wait)
	}
	handle, err := newSecret(s.config.Rand, q.ID)
	if err != nil {
		return nil, problemServer(err)
	}
	scan := storage.QRScan{
		Subject: a.Subject, ClientID: a.ClientID, SessionID: a.SessionID, JKT: a.JKT, AuthTime: a.AuthTime,
		HandleHash: handle.hash(), Entry: entry, FrameFresh: fresh, ShowAddress: near(a.Address, q.Address),
	}
	var outcome storage.QRScanOutcome
	err = s.config.Store.UpdateQRSession(ctx, q.ID, func(stored *storage.QRSession) error {
		outcome = stored.Scan(now, scan)
		q = stored.Clone()
		return nil
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, problemServer(err)
	}
	if err != nil || (outcome != storage.QRScanClaimed && outcome != storage.QRScanRepeated) {
		return nil, s.scanRefused(ctx, a, q, outcome, code != "")
	}
	if code != "" {
		s.personTries.giveBack(a.Subject)
		s.prefixTries.giveBack(prefix(a.Address))
	}
	return s.claimed(ctx, q, handle, now)
}

// entry reads how the session is named: by a user code (returned normalized) or by a frame.
func (s *Server) entry(req ScanRequest) (storage.QREntry, string, error) {
	if (req.Payload == "") == (req.UserCode == "") {
		return 0, "", problemInvalid("Send either payload or user_code.")
	}
	entries := map[string]storage.QREntry{
		"scanner": storage.QREntryScanner, "link": storage.QREntryLink, "typed": storage.QREntryTyped,
	}
	entry, ok := entries[req.Entry]
	switch {
	case req.UserCode != "":
		code, ok := normalizeUserCode(req.UserCode)
		if !ok {
			return 0, "", problemUnknownCode()
		}
		return storage.QREntryTyped, code, nil
	case !ok:
		return 0, "", problemInvalid("The entry is none of scanner, link and typed.")
	}
	typed, ok := strings.CutPrefix(req.Payload, s.config.Issuer+"/device?user_code=")
	if !ok {
		return entry, "", nil
	}
	code, ok := normalizeUserCode(typed)
	if !ok {
		return 0, "", problemNotFound()
	}
	return entry, code, nil
}

// find looks the session up. A user code counts as a try unless the claim succeeds; a frame
// whose tag is wrong names no session at all.
func (s *Server) find(ctx context.Context, a Approver, payload, code string, entry storage.QREntry) (*storage.QRSession, bool, error) {
	if code == "" {
		return s.findFrame(ctx, a, payload)
	}
	now := s.config.Now()
	wait := s.personTries.take(a.Subject, now)
	if wait == 0 {
		if wait = s.prefixTries.take(prefix(a.Address), now); wait > 0 {
			s.personTries.giveBack(a.Subject)
		}
	}
	if wait > 0 {
		s.record(ctx, storage.EventQRRateLimited, nil, a, "user_code")
		return nil, false, problemLimited(wait)
	}
	q, err := s.byUserCode(ctx, code)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, false, problemUnknownCode()
	case err != nil:
		return nil, false, problemServer(err)
	case entry != storage.QREntryTyped && q.Grant == storage.QRGrantCode:
		// The QR grant has no static link: a link can be mailed (threat T07).
		return nil, false, problemUnknownCode()
	}
	return q, true, nil
}

func (s *Server) findFrame(ctx context.Context, a Approver, payload string) (*storage.QRSession, bool, error) {
	f, ok := parseFrame(s.config.Issuer, payload)
	if !ok {
		return nil, false, problemNotFound()
	}
	q, err := s.config.Store.QRSession(ctx, f.id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, false, problemNotFound()
	}
	if err != nil {
		return nil, false, problemServer(err)
	}
	k, err := s.key(q)
	if err != nil {
		return nil, false, problemServer(err)
	}
	if q.Grant != storage.QRGrantCode || !k.genuine(s.config.Issuer, f) {
		s.record(ctx, storage.EventQRFrameRejected, q, a, "tag")
		return nil, false, problemNotFound()
	}
	return q, f.fresh(q, s.config.Now()), nil
}

// scanRefused maps an outcome to its problem. Whoever named the session by a user code
// learns of a session that is not theirs only that the code is unknown.
func (s *Server) scanRefused(ctx context.Context, a Approver, q *storage.QRSession, outcome storage.QRScanOutcome, byCode bool) *Problem {
	switch outcome {
	case storage.QRScanTaken:
		s.record(ctx, storage.EventQRClaimConflict, q, a, "")
		if byCode {
			return problemUnknownCode()
		}
		return problem(http.StatusConflict, "already_claimed", "Another phone has scanned this code.")
	case storage.QRScanDecided:
		return problem(http.StatusConflict, "already_decided", "You have approved this sign-in already.")
	case storage.QRScanRepeatLimit:
		return problemLimited(q.DecisionDeadline().Sub(s.config.Now()))
	case storage.QRScanStale:
		s.record(ctx, storage.EventQRFrameRejected, q, a, "stale")
		return problem(http.StatusConflict, "stale_frame", "The code on the screen has changed. Scan again.")
	case storage.QRScanWrongAccount:
		return problem(http.StatusForbidden, "wrong_account", "This sign-in is for another account.")
	case storage.QRScanStepUp:
		s.record(ctx, storage.EventQRStepUp, q, a, "")
		p := problem(http.StatusUnauthorized, "insufficient_user_authentication", "Sign in again on this phone, then scan again.")
		p.MaxAge = q.MaxAge
		return p
	case storage.QRScanGone, storage.QRScanClaimed, storage.QRScanRepeated:
	}
	if byCode {
		return problemUnknownCode()
	}
	return problemGone()
}

func (s *Server) claimed(ctx context.Context, q *storage.QRSession, handle secret, now time.Time) (*ScanAnswer, error) {
	k, err := s.key(q)
	if err != nil {
		return nil, problemServer(err)
	}
	seen, err := s.context(ctx, k, q, now)
	if err != nil {
		return nil, problemServer(err)
	}
	digest, err := k.digest256(q, seen)
	if err != nil {
		return nil, problemServer(err)
	}
	return &ScanAnswer{
		ConfirmHandle: handle.String(), ExpiresIn: int64(q.DecisionDeadline().Sub(now) / time.Second),
		Context: seen, ContextDigest: digest, CheckCodeRequired: q.CheckCode, UserCodeRequired: q.TypeUserCode,
	}, nil
}

// near reports whether phone and asker share a network prefix.
func near(phone netip.Addr, asked string) bool {
	other, err := netip.ParseAddr(asked)
	return err == nil && phone.IsValid() && prefix(phone) == prefix(other)
}

var checkCodeForm = regexp.MustCompile(`^[1-9][0-9]$`)

// Decide applies the claimer's decision. Its error is a *Problem.
func (s *Server) Decide(ctx context.Context, a Approver, req DecisionRequest) (*DecisionAnswer, error) {
	verdict, ok := map[string]storage.QRVerdict{
		"approve": storage.QRApprove, "deny": storage.QRDeny, "report": storage.QRReport,
	}[req.Decision]
	if !ok {
		return nil, problemInvalid("The decision is none of approve, deny and report.")
	}
	handle, ok := parseSecret(req.ConfirmHandle)
	if !ok {
		return nil, problemNotFound()
	}
	sid, err := newSessionID(s.config.Rand)
	if err != nil {
		return nil, problemServer(err)
	}
	var (
		outcome storage.QRDecideOutcome
		q       *storage.QRSession
		report  bool
	)
	err = s.config.Store.UpdateQRSession(ctx, handle.id, func(stored *storage.QRSession) error {
		d, err := s.decision(ctx, stored, a, verdict, req)
		if err != nil {
			return err
		}
		d.HandleHash, d.Approval.ResultSID = handle.hash(), sid
		reported := stored.Reported
		outcome = stored.Decide(s.config.Now(), d)
		report = stored.Reported && !reported
		q = stored.Clone()
		return nil
	})
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, problemNotFound()
	case err != nil:
		return nil, problemServer(err)
	}
	if report {
		if err := s.reported(ctx, q); err != nil {
			return nil, problemServer(err)
		}
	}
	return s.decided(q, outcome)
}

// decision gathers what the state machine needs, from the record as it stands.
func (s *Server) decision(ctx context.Context, q *storage.QRSession, a Approver, verdict storage.QRVerdict, req DecisionRequest) (storage.QRDecision, error) {
	d := storage.QRDecision{
		Verdict: verdict, Subject: a.Subject, ClientID: a.ClientID, SessionID: a.SessionID, JKT: a.JKT,
		Approval: storage.QRApproval{AuthTime: a.AuthTime, AMR: a.AMR, ACR: a.ACR},
	}
	if verdict != storage.QRApprove || q.State != storage.QRScanned {
		return d, nil
	}
	k, err := s.key(q)
	if err != nil {
		return d, err
	}
	seen, err := s.context(ctx, k, q, s.config.Now())
	if err != nil {
		return d, err
	}
	digest, err := k.digest256(q, seen)
	if err != nil {
		return d, err
	}
	d.DigestEqual = digestsEqual(digest, req.ContextDigest)
	d.Approval.Scopes = seen.scopeNames()
	switch {
	case q.CheckCode:
		d.CodeMalformed = !checkCodeForm.MatchString(req.CheckCode)
		d.CodeEqual = digestsEqual(k.checkCode(q), req.CheckCode)
	case q.TypeUserCode:
		code, ok := normalizeUserCode(req.UserCode)
		hash := k.userCodeHash(code)
		d.CodeMalformed = !ok
		d.CodeEqual = digestsEqual(string(q.UserCodeHash[:]), string(hash[:]))
	default:
		d.CodeEqual = true
	}
	if req.Scope == nil {
		return d, nil
	}
	narrowed := strings.Fields(*req.Scope)
	if slices.ContainsFunc(narrowed, func(scope string) bool { return !slices.Contains(d.Approval.Scopes, scope) }) {
		d.CodeMalformed = true
	}
	d.Approval.Scopes = narrowed
	return d, nil
}

// reported starts the cool-down and takes from the asker what it had of the reporter.
func (s *Server) reported(ctx context.Context, q *storage.QRSession) error {
	s.reports.add(asker{q.ClientID, q.Address}, q.Claim.Subject, s.config.Now())
	if s.config.Report == nil {
		return nil
	}
	return s.config.Report(ctx, q.Claim.Subject, q.ClientID)
}

func (s *Server) decided(q *storage.QRSession, outcome storage.QRDecideOutcome) (*DecisionAnswer, error) {
	switch outcome {
	case storage.QRDecideApproved:
		return &DecisionAnswer{State: "approved", SID: q.Approval.ResultSID}, nil
	case storage.QRDecideDenied:
		s.ended(q)
		return &DecisionAnswer{State: "denied"}, nil
	case storage.QRDecideContextChanged:
		return nil, problem(http.StatusConflict, "context_changed", "What you were shown has changed. Scan again.")
	case storage.QRDecideMalformed:
		return nil, problemInvalid("The code is missing or malformed, or the scope is wider than what was shown.")
	case storage.QRDecideMismatch:
		left := int(q.Claim.TriesLeft)
		p := problem(http.StatusUnprocessableEntity, "check_code_mismatch", "The code does not match the one on the screen.")
		p.TriesLeft = &left
		return nil, p
	case storage.QRDecideGone:
		return nil, problemGone()
	case storage.QRDecideUnknown:
	}
	return nil, problemNotFound()
}
