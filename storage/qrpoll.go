package storage

// The consumption device's side of the state machine: Poll, Redeem, Cancel, Abort.

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"
	"time"
)

// QRProof is what a consumption device proves when it fetches the result: at the token endpoint
// a verifier and a key, at the sign-in page its cookie.
type QRProof struct {
	// Verifier is the code_verifier as sent; empty when absent.
	Verifier string
	// JKT is the thumbprint of the DPoP proof's key; empty without a proof.
	JKT string
	// CookieHash is SHA-256 of the cookie's secret; nil without one.
	CookieHash *[32]byte
}

// Bound reports whether the opening bound the session to a verifier, a key or a cookie.
func (s *QRSession) Bound() bool { return s.Challenge != "" || s.JKT != "" || s.Hosted != nil }

// Proves reports whether p is what the opening bound: a missing, wrong or unexpected
// verifier, key or cookie does not. The comparison takes constant time.
func (s *QRSession) Proves(p QRProof) bool {
	if s.Hosted != nil {
		return p.Verifier == "" && p.JKT == "" && s.OpenedBy(p.CookieHash)
	}
	if p.CookieHash != nil {
		return false
	}
	if (s.Challenge == "") != (p.Verifier == "") || (s.JKT == "") != (p.JKT == "") {
		return false
	}
	ok := subtle.ConstantTimeCompare([]byte(s.JKT), []byte(p.JKT))
	return ok == 1 && (s.Challenge == "" || VerifierMatches(s.Challenge, p.Verifier))
}

// OpenedBy reports whether the cookie is the one the session was opened for. No cookie opens
// a session of the direct door. The comparison takes constant time.
func (s *QRSession) OpenedBy(cookieHash *[32]byte) bool {
	if s.Hosted == nil || cookieHash == nil {
		return false
	}
	return subtle.ConstantTimeCompare(s.Hosted.CookieHash[:], cookieHash[:]) == 1
}

const (
	// The length of a code_verifier (RFC 7636 §4.1).
	minVerifier, maxVerifier = 43, 128

	unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
)

// VerifierMatches reports whether a code_verifier is well-formed and the one behind an S256
// code_challenge (RFC 7636 §4.6). The comparison takes constant time.
func VerifierMatches(challenge, verifier string) bool {
	if len(verifier) < minVerifier || len(verifier) > maxVerifier || strings.Trim(verifier, unreserved) != "" {
		return false
	}
	sum := sha256.Sum256([]byte(verifier))
	got := base64.RawURLEncoding.EncodeToString(sum[:])
	return subtle.ConstantTimeCompare([]byte(challenge), []byte(got)) == 1
}

// QRPollOutcome is the answer of the token endpoint to one poll.
type QRPollOutcome uint8

// The outcomes of Poll and Redeem.
const (
	// QRPollPending: 400 authorization_pending.
	QRPollPending QRPollOutcome = iota + 1
	// QRPollSlowDown: 400 slow_down; Interval was raised unless it is at its cap.
	QRPollSlowDown
	// QRPollReady: Poll: redeem now. Redeem: this call, and no other, redeemed.
	QRPollReady
	// QRPollDenied: 400 access_denied.
	QRPollDenied
	// QRPollExpired: 400 expired_token.
	QRPollExpired
	// QRPollUsed: 400 invalid_grant; a lost answer, or a replay of what is revoked already.
	QRPollUsed
	// QRPollReplayed: 400 invalid_grant, and the caller revokes the whole family, then calls Revoked.
	QRPollReplayed
	// QRPollUnproved: 400 invalid_grant; the verifier or key was missing, wrong or unexpected.
	QRPollUnproved
)

// Poll answers a poll of the right client with the right grant (protocol §3, order at
// /token: binding, state and clock, interval). early says that the poll came before the
// interval was over. Only a failed binding and an early poll change the record;
// the caller compares Version to see whether there is something to store.
func (s *QRSession) Poll(now time.Time, p QRProof, early bool) QRPollOutcome {
	if outcome := s.polled(now, p); outcome != QRPollPending {
		return outcome
	}
	if !early {
		return QRPollPending
	}
	if s.Interval < intervalCap {
		s.Interval = min(s.Interval+intervalStep, intervalCap)
		s.Version++
	}
	return QRPollSlowDown
}

// Redeem takes the approval, once. It returns QRPollReady to exactly one caller; r says
// which family that caller mints in the same transaction. Whoever lost the race gets
// QRPollUsed: it had read APPROVED, so it is no replay.
func (s *QRSession) Redeem(now time.Time, p QRProof, r QRRedeeming) QRPollOutcome {
	outcome := s.polled(now, p)
	switch outcome {
	case QRPollReady:
		r.At = now
		s.Redemption = &r
		s.end(now, QRRedeemed, EventQRRedeemed, "")
	case QRPollReplayed:
		return QRPollUsed
	case QRPollPending, QRPollSlowDown, QRPollDenied, QRPollExpired, QRPollUsed, QRPollUnproved:
	}
	return outcome
}

// polled is the part that Poll and Redeem share.
func (s *QRSession) polled(now time.Time, p QRProof) QRPollOutcome {
	state, proved := s.StateAt(now), s.Proves(p)
	if state == QRRedeemed {
		lostAnswer := s.Bound() && proved && now.Before(s.Redemption.At.Add(lostAnswerWindow))
		if lostAnswer || s.Redemption.Revoked {
			return QRPollUsed
		}
		return QRPollReplayed
	}
	if !proved {
		s.bindingFailed(now)
		return QRPollUnproved
	}
	switch state {
	case QRPending, QRScanned:
		return QRPollPending
	case QRApproved:
		return QRPollReady
	case QRExpired:
		return QRPollExpired
	case QRDenied, QRCancelled, QRAborted, QRRedeemed:
	}
	return QRPollDenied
}

// bindingFailed counts a wrong verifier or key; the fifth ends a live session.
func (s *QRSession) bindingFailed(now time.Time) {
	if !s.Live(now) {
		return
	}
	s.BindingFailures++
	if s.BindingFailures < maxBindingFailures {
		s.moved(now, EventQRBindingFailed, s.State.String())
		return
	}
	s.end(now, QRAborted, EventQRBindingFailed, QRAborted.String())
}

// Revoked notes that the family of a replayed redemption was revoked, so that the next replay
// costs nothing. It reports whether there was anything to note.
func (s *QRSession) Revoked(now time.Time) bool {
	if s.State != QRRedeemed || s.Redemption.Revoked {
		return false
	}
	s.Redemption.Revoked = true
	s.moved(now, EventQRReplayed, "")
	return true
}

// QRCancelOutcome is the answer to a cancellation by the consumption device.
type QRCancelOutcome uint8

// The outcomes of Cancel.
const (
	// QRCancelDone: 200; cancelled now, or ended before.
	QRCancelDone QRCancelOutcome = iota + 1
	// QRCancelRedeemed: 409 already_redeemed.
	QRCancelRedeemed
)

// Cancel ends a live session at the wish of the consumption device.
func (s *QRSession) Cancel(now time.Time) QRCancelOutcome {
	switch s.StateAt(now) {
	case QRRedeemed:
		return QRCancelRedeemed
	case QRPending, QRScanned, QRApproved:
		s.end(now, QRCancelled, EventQRCancelled, "")
	case QRDenied, QRCancelled, QRAborted, QRExpired:
	}
	return QRCancelDone
}

// Abort ends a live session because the person, a client or the approving session is no
// longer active at redemption. From any other state it is a *TransitionError.
func (s *QRSession) Abort(now time.Time, reason string) error {
	if !s.Live(now) {
		return &TransitionError{From: s.StateAt(now), Event: "abort"}
	}
	s.end(now, QRAborted, EventQRRevoked, reason)
	return nil
}
