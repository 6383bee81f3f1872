package qr

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/storage"
)

// Claim claims a session for the approver, or gives the claimer a fresh handle. Its error is
// a *Problem.
func (s *Server) Claim(ctx context.Context, a Approver, req ScanRequest) (*ScanAnswer, error) {
	now := s.config.Now()
	if wait := s.scans.take(a.Subject, now); wait > 0 {
		s.limited(ctx, a, "scan", a.Subject)
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
	client, policy, err := s.asking(ctx, q)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, s.scanRefused(ctx, a, q, storage.QRScanGone, code != "")
	case err != nil:
		return nil, problemServer(err)
	}
	if wait := s.reports.against(asker{q.ClientID, q.Address}, a.Subject, now); wait > 0 {
		return nil, problemReported(wait)
	}
	fresh = fresh || req.Held && entry == storage.QREntryLink
	handle, err := newSecret(s.config.Rand, q.ID)
	if err != nil {
		return nil, problemServer(err)
	}
	scan := storage.QRScan{
		Subject: a.Subject, ClientID: a.ClientID, SessionID: a.SessionID, JKT: a.JKT, AuthTime: a.AuthTime, ACR: a.ACR,
		HandleHash: handle.hash(), Entry: entry, FrameFresh: fresh, ShowAddress: Near(a.Address, q.Address),
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
	s.claims.add(q, now)
	if code != "" {
		s.personTries.giveBack(a.Subject)
		s.prefixTries.giveBack(prefix(a.Address))
	}
	return s.claimed(q, client, policy, handle, now)
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
		s.limited(ctx, a, "user_code", a.Subject)
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
		return problem(http.StatusConflict, "already_claimed", "Another phone has taken this sign-in.")
	case storage.QRScanDecided:
		return problem(http.StatusConflict, "already_decided", "You have approved this sign-in already.")
	case storage.QRScanRepeatLimit:
		return problemLimited(q.DecisionDeadline().Sub(s.config.Now()))
	case storage.QRScanStale:
		s.record(ctx, storage.EventQRFrameRejected, q, a, "stale")
		return problem(http.StatusConflict, "stale_frame", "The QR code on the screen has changed. Scan again.")
	case storage.QRScanWrongAccount:
		return problem(http.StatusForbidden, "wrong_account", "This sign-in is for another account.")
	case storage.QRScanStepUp:
		s.record(ctx, storage.EventQRStepUp, q, a, "")
		p := problem(http.StatusUnauthorized, "insufficient_user_authentication", "Sign in again on this phone, then scan again.")
		p.MaxAge, p.ACRValues, p.bound = q.MaxAge, q.ACRValues, a.JKT != ""
		return p
	case storage.QRScanGone, storage.QRScanClaimed, storage.QRScanRepeated:
	}
	if byCode {
		return problemUnknownCode()
	}
	return problemGone()
}

func (s *Server) claimed(q *storage.QRSession, client fosite.Client, policy Policy, handle secret, now time.Time) (*ScanAnswer, error) {
	k, err := s.key(q)
	if err != nil {
		return nil, problemServer(err)
	}
	seen, err := s.context(k, q, client, policy, now)
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

// Near reports whether phone and asker share a network prefix, as they must for the full address
// of the one to be shown on the other (protocol §6). What is no address is near to nothing.
func Near(phone netip.Addr, asked string) bool {
	other, err := netip.ParseAddr(asked)
	return err == nil && phone.IsValid() && prefix(phone) == prefix(other)
}
