package storage

// The phone's side of the state machine: Scan and Decide.

import (
	"crypto/subtle"
	"slices"
	"time"
)

// QRScan is a phone that wants to claim a session.
type QRScan struct {
	Subject   string
	ClientID  string
	SessionID string
	JKT       string
	// AuthTime is the phone's last real authentication.
	AuthTime time.Time
	// ACR is how the person had signed in on the phone.
	ACR        string
	HandleHash [32]byte
	Entry      QREntry
	// FrameFresh is false for a frame that has rotated away. User codes are always fresh.
	FrameFresh bool
	// ShowAddress says that phone and asker share a network prefix.
	ShowAddress bool
}

// QRScanOutcome is the answer to a scan.
type QRScanOutcome uint8

// The outcomes of Scan, in the order they are checked.
const (
	// QRScanGone: 410; ended or expired.
	QRScanGone QRScanOutcome = iota + 1
	// QRScanTaken: 409 already_claimed, no context.
	QRScanTaken
	// QRScanDecided: 409 already_decided, only to the claimer.
	QRScanDecided
	// QRScanRepeatLimit: 429; the claimer repeated too often.
	QRScanRepeatLimit
	// QRScanRepeated: 200; the claimer got a fresh handle, older ones are dead.
	QRScanRepeated
	// QRScanStale: 409 stale_frame.
	QRScanStale
	// QRScanWrongAccount: 403; another person was asked for.
	QRScanWrongAccount
	// QRScanStepUp: 401; the phone's sign-in is older than max_age allows, or of none of the
	// acr_values.
	QRScanStepUp
	// QRScanClaimed: 200; the session is this phone's.
	QRScanClaimed
)

// Scan claims the session for the first phone and gives the claimer a fresh handle when it
// repeats (protocol §3). Only QRScanClaimed and QRScanRepeated change the record.
func (s *QRSession) Scan(now time.Time, scan QRScan) QRScanOutcome {
	state := s.StateAt(now)
	switch state {
	case QRRedeemed, QRDenied, QRCancelled, QRAborted, QRExpired:
		return QRScanGone
	case QRScanned, QRApproved:
		return s.rescan(state, scan)
	case QRPending:
	}
	switch {
	case !scan.FrameFresh:
		return QRScanStale
	case s.Hinted && (s.HintSubject == "" || s.HintSubject != scan.Subject):
		return QRScanWrongAccount
	case s.MaxAge != nil && s.tooOld(now, scan.AuthTime):
		return QRScanStepUp
	case len(s.ACRValues) > 0 && !slices.Contains(s.ACRValues, scan.ACR):
		return QRScanStepUp
	}
	s.State = QRScanned
	s.Claim = &QRClaim{
		Subject: scan.Subject, ClientID: scan.ClientID, SessionID: scan.SessionID, JKT: scan.JKT,
		At: now, HandleHash: scan.HandleHash, Entry: scan.Entry, TriesLeft: scan.Entry.tries(),
		Version: s.Version + 1, ShowAddress: scan.ShowAddress,
	}
	s.moved(now, EventQRScanned, "")
	return QRScanClaimed
}

// tooOld reports whether a sign-in on the phone is older than max_age allows. One made since
// the opening always serves, or max_age=0 could never be met; it is known to the second. At the
// hosted door it is the authorization request that counts: a renewed QR code asks nothing new.
func (s *QRSession) tooOld(now, authTime time.Time) bool {
	asked := s.OpenedAt
	if s.Hosted != nil && s.Hosted.RequestedAt.Before(asked) {
		asked = s.Hosted.RequestedAt
	}
	return now.Sub(authTime) > time.Duration(*s.MaxAge)*time.Second && authTime.Before(asked.Truncate(time.Second))
}

func (s *QRSession) rescan(state QRState, scan QRScan) QRScanOutcome {
	switch {
	case !s.Claim.by(scan.Subject, scan.ClientID, scan.SessionID, scan.JKT):
		return QRScanTaken
	case state == QRApproved:
		return QRScanDecided
	case s.Claim.Repeats >= maxScanRepeats:
		return QRScanRepeatLimit
	}
	s.Claim.Repeats++
	s.Claim.HandleHash = scan.HandleHash
	s.Version++
	return QRScanRepeated
}

// by reports whether the phone is the claimer: same person, same client, and the same key
// or, for a bearer token, the same sign-in.
func (c *QRClaim) by(subject, clientID, sessionID, jkt string) bool {
	if c.Subject != subject || c.ClientID != clientID || c.JKT != jkt {
		return false
	}
	return c.JKT != "" || c.SessionID == sessionID
}

// tries is how many wrong codes an entry allows; a zero entry counts as typed.
func (e QREntry) tries() uint8 {
	if e == QREntryScanner {
		return scannerTries
	}
	return otherTries
}

// QRVerdict is what the person said.
type QRVerdict uint8

// The verdicts.
const (
	QRApprove QRVerdict = iota + 1
	QRDeny
	QRReport
)

// QRDecision is one call of the claimer.
type QRDecision struct {
	Verdict    QRVerdict
	HandleHash [32]byte
	// Subject, ClientID, SessionID and JKT come from the token; they must be the claimer's.
	Subject   string
	ClientID  string
	SessionID string
	JKT       string
	// DigestEqual says that the person saw the context as it stands; CodeEqual that the
	// check code (or user code) matched or none was asked for.
	DigestEqual bool
	CodeEqual   bool
	// CodeMalformed says that no code of the right form was sent: a bad request, not a try.
	CodeMalformed bool
	// Approval is what an approval grants; At is set by Decide.
	Approval QRApproval
}

// QRDecideOutcome is the answer to a decision.
type QRDecideOutcome uint8

// The outcomes of Decide, in the order they are checked.
const (
	// QRDecideUnknown: 404; no such handle, or it died.
	QRDecideUnknown QRDecideOutcome = iota + 1
	// QRDecideGone: 410; another decision stands, or the session ended or expired.
	QRDecideGone
	// QRDecideContextChanged: 409; what the person saw is no longer what they would approve.
	QRDecideContextChanged
	// QRDecideMalformed: 400; the code is missing or has the wrong form, nothing changed.
	QRDecideMalformed
	// QRDecideMismatch: 422 with tries_left; at none left the session is ABORTED.
	QRDecideMismatch
	// QRDecideApproved: 200 approved, by this call or by the same call before.
	QRDecideApproved
	// QRDecideDenied: 200 denied, by this call or by the same call before.
	QRDecideDenied
)

// Decide applies the claimer's decision (protocol §3 and §6). Until redemption deny and
// report beat approve; the same decision with the same handle gets the same answer without
// a second move.
func (s *QRSession) Decide(now time.Time, d QRDecision) QRDecideOutcome {
	if !s.handleHeld(now, d) {
		return QRDecideUnknown
	}
	switch s.StateAt(now) {
	case QRScanned:
		return s.decide(now, d)
	case QRApproved:
		if d.Verdict != QRApprove {
			return s.deny(now, d.Verdict)
		}
		return QRDecideApproved
	case QRRedeemed:
		if d.Verdict == QRApprove {
			return QRDecideApproved
		}
	case QRDenied:
		if d.Verdict == QRReport && !s.Reported {
			s.Reported = true
			s.moved(now, EventQRReported, QRDenied.String())
		}
		if d.Verdict != QRApprove {
			return QRDecideDenied
		}
	case QRPending, QRCancelled, QRAborted, QRExpired:
	}
	return QRDecideGone
}

func (s *QRSession) decide(now time.Time, d QRDecision) QRDecideOutcome {
	switch {
	case d.Verdict != QRApprove:
		return s.deny(now, d.Verdict)
	case !d.DigestEqual:
		return QRDecideContextChanged
	case d.CodeMalformed:
		return QRDecideMalformed
	case !d.CodeEqual:
		s.codeFailed(now)
		return QRDecideMismatch
	}
	approval := d.Approval
	approval.At = now
	s.State, s.Approval, s.DecidedAt = QRApproved, &approval, now
	s.moved(now, EventQRApproved, "")
	return QRDecideApproved
}

func (s *QRSession) codeFailed(now time.Time) {
	if s.Claim.TriesLeft > 0 {
		s.Claim.TriesLeft--
	}
	if s.Claim.TriesLeft > 0 {
		s.moved(now, EventQRCodeFailed, s.State.String())
		return
	}
	s.end(now, QRAborted, EventQRCodeFailed, QRAborted.String())
}

func (s *QRSession) deny(now time.Time, v QRVerdict) QRDecideOutcome {
	s.DecidedAt = now
	if v == QRReport {
		s.Reported = true
		s.end(now, QRDenied, EventQRReported, "")
		return QRDecideDenied
	}
	s.end(now, QRDenied, EventQRDenied, "")
	return QRDecideDenied
}

// handleHeld reports whether the caller holds the current handle and it has not died: it
// lives until the decision deadline and, once decided, 120 s more. Past the decision
// deadline the right handle of a session nobody decided still learns that it is gone.
func (s *QRSession) handleHeld(now time.Time, d QRDecision) bool {
	if s.Claim == nil || !s.Claim.by(d.Subject, d.ClientID, d.SessionID, d.JKT) {
		return false
	}
	if subtle.ConstantTimeCompare(s.Claim.HandleHash[:], d.HandleHash[:]) != 1 {
		return false
	}
	return s.DecidedAt.IsZero() || now.Before(s.DecidedAt.Add(handleAfterDecision))
}
