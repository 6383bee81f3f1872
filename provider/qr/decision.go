package qr

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/qrgrant/qrgrant/storage"
)

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
	)
	err = s.config.Store.UpdateQRSession(ctx, handle.id, func(stored *storage.QRSession) error {
		d, err := s.decision(ctx, stored, a, verdict, req)
		if err != nil {
			return err
		}
		d.HandleHash, d.Approval.ResultSID = handle.hash(), sid
		outcome = stored.Decide(s.config.Now(), d)
		q = stored.Clone()
		return nil
	})
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, problemNotFound()
	case err != nil:
		return nil, problemServer(err)
	}
	// Also when the report is repeated: the first one may have failed after the denial.
	if verdict == storage.QRReport && outcome == storage.QRDecideDenied {
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
	client, policy, err := s.asking(ctx, q)
	if err != nil {
		return d, err
	}
	seen, err := s.context(k, q, client, policy, s.config.Now())
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
	narrowed := slices.Compact(slices.Sorted(slices.Values(strings.Fields(*req.Scope))))
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
	// The denial is stored; the revocation must not fail because the phone has hung up.
	return s.config.Report(context.WithoutCancel(ctx), q.Claim.Subject, q.ClientID, q.Address)
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
		return nil, problemInvalid("The number or code is missing or malformed, or the scope is wider than what was shown.")
	case storage.QRDecideMismatch:
		left := int(q.Claim.TriesLeft)
		if left == 0 {
			s.ended(q)
		}
		p := problem(http.StatusUnprocessableEntity, "check_code_mismatch", "That is not what the other screen shows.")
		p.TriesLeft = &left
		return nil, p
	case storage.QRDecideGone:
		return nil, problemGone()
	case storage.QRDecideUnknown:
	}
	return nil, problemNotFound()
}
