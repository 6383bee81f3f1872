package storage

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"time"
)

// The clock of the grant (protocol §3).
const (
	// QRLifetime and DeviceLifetime are expires_in when the client has no policy of its own.
	QRLifetime     = 240 * time.Second
	DeviceLifetime = 600 * time.Second
	// MinLifetime is the shortest lifetime a configuration may set.
	MinLifetime = 120 * time.Second
	// claimMargin before expires_in the last claim is possible.
	claimMargin = 60 * time.Second
	// decisionWindow after the scan ends the time to decide; for device_code it also ends
	// deviceDecisionMargin before expires_in, so that a poller still fetches the result.
	decisionWindow       = 120 * time.Second
	deviceDecisionMargin = 15 * time.Second
	// The redemption window: max(minRedeemWindow, 2 × interval + 5 s), at most maxRedeemWindow.
	minRedeemWindow = 30 * time.Second
	maxRedeemWindow = 125 * time.Second
	// handleAfterDecision is how long a decided handle still repeats, denies or reports.
	handleAfterDecision = 120 * time.Second
	// lostAnswerWindow is how long a second redemption counts as a lost answer.
	lostAnswerWindow = 10 * time.Second
	// tombstone is how long an ended session still answers as its state says.
	tombstone = 24 * time.Hour

	// PollInterval is the first interval; each slow_down adds intervalStep up to intervalCap.
	PollInterval = 5 * time.Second
	intervalStep = 5 * time.Second
	intervalCap  = 60 * time.Second

	maxBindingFailures = 5
	maxScanRepeats     = 5
	scannerTries       = 3
	otherTries         = 1
)

// QRID is the public 128-bit reference (txn_ref) of a QR session.
type QRID [16]byte

// refEncoding is RFC 4648 §6 without padding.
func refEncoding() *base32.Encoding { return base32.StdEncoding.WithPadding(base32.NoPadding) }

// String returns the 26 upper-case base32 characters that stand in the QR code.
func (id QRID) String() string { return refEncoding().EncodeToString(id[:]) }

// Hash returns the short hash under which the session appears in logs and audit rows.
func (id QRID) Hash() string {
	sum := sha256.Sum256(id[:])
	return hex.EncodeToString(sum[:8])
}

// ParseQRID reads what String wrote; it refuses anything but the canonical spelling.
func ParseQRID(s string) (QRID, error) {
	var id QRID
	raw, err := refEncoding().DecodeString(s)
	if err != nil || len(raw) != len(id) {
		return QRID{}, fmt.Errorf("storage: malformed reference: %w", ErrNotFound)
	}
	copy(id[:], raw)
	if id.String() != s {
		return QRID{}, fmt.Errorf("storage: non-canonical reference: %w", ErrNotFound)
	}
	return id, nil
}

// UserCodeHash is the keyed hash under which a user code is looked up.
type UserCodeHash [16]byte

// QRGrant is the grant type a session was opened for.
type QRGrant uint8

// The two grants of the direct door (protocol §1).
const (
	// QRGrantCode is urn:qrgrant:params:oauth:grant-type:qr_code.
	QRGrantCode QRGrant = iota + 1
	// QRGrantDevice is urn:ietf:params:oauth:grant-type:device_code (RFC 8628).
	QRGrantDevice
)

// QRState is where a session stands.
type QRState uint8

// The states (protocol §3). QRExpired is derived from the clock and never stored.
const (
	// QRPending: shown, not yet claimed.
	QRPending QRState = iota + 1
	// QRScanned: claimed by one phone, which is looking at the context.
	QRScanned
	// QRApproved: decided; the consumption device may redeem once.
	QRApproved
	// QRRedeemed: tokens were issued. An end.
	QRRedeemed
	// QRDenied: the person denied or reported. An end.
	QRDenied
	// QRCancelled: the consumption device gave up. An end.
	QRCancelled
	// QRAborted: too many wrong codes or verifiers, or an account gone at redemption. An end.
	QRAborted
	// QRExpired: a live state past its deadline.
	QRExpired
)

// String returns the state in lower case.
func (s QRState) String() string {
	names := [...]string{"none", "pending", "scanned", "approved", "redeemed", "denied", "cancelled", "aborted", "expired"}
	if int(s) >= len(names) {
		return names[0]
	}
	return names[s]
}

// QREntry is how the reference came to the phone; it fixes the number of tries.
type QREntry uint8

// The entries: a camera in the app gets three tries, a link or a typed code one.
const (
	QREntryScanner QREntry = iota + 1
	QREntryLink
	QREntryTyped
)

// QRSession is one attempt of a consumption device to sign in. Its fields are set by
// CreateQRSession's caller up to Interval; from there on only the methods change them.
type QRSession struct {
	ID QRID `cbor:"1,keyasint"`
	// Version counts every stored change from 1; it is qr_seq on the wire.
	Version uint64  `cbor:"2,keyasint"`
	State   QRState `cbor:"3,keyasint"`
	Grant   QRGrant `cbor:"4,keyasint"`
	// ClientID is the asking client.
	ClientID string `cbor:"5,keyasint"`
	// KeyID names the server key behind every HMAC and seal of this session.
	KeyID    string        `cbor:"6,keyasint"`
	OpenedAt time.Time     `cbor:"7,keyasint"`
	Lifetime time.Duration `cbor:"8,keyasint"`
	// DeviceCodeHash is SHA-256 of the device_code's secret half.
	DeviceCodeHash [32]byte `cbor:"9,keyasint"`
	// UserCodeHash finds the session by its user code; UserCodeSealed shows it again.
	UserCodeHash   UserCodeHash `cbor:"10,keyasint"`
	UserCodeSealed []byte       `cbor:"11,keyasint"`
	// Challenge is the S256 code_challenge; empty when the client sent none.
	Challenge string `cbor:"12,keyasint,omitempty"`
	// JKT is the thumbprint of the DPoP key the session is bound to; empty when unbound.
	JKT    string   `cbor:"13,keyasint,omitempty"`
	Scopes []string `cbor:"14,keyasint,omitempty"`
	Nonce  string   `cbor:"15,keyasint,omitempty"`
	// MaxAge asks for a phone sign-in at most this old in seconds; nil asks nothing.
	MaxAge    *int64   `cbor:"16,keyasint,omitempty"`
	ACRValues []string `cbor:"17,keyasint,omitempty"`
	// Hinted sessions can only be claimed by HintSubject; an empty one is nobody.
	Hinted      bool   `cbor:"18,keyasint,omitempty"`
	HintSubject string `cbor:"19,keyasint,omitempty"`
	// BindingMessage and DeviceName are client text, cleaned; DeviceName is untrusted.
	BindingMessage string `cbor:"20,keyasint,omitempty"`
	DeviceName     string `cbor:"21,keyasint,omitempty"`
	// Device is the user agent in words; Address the asker's network address.
	Device  string `cbor:"22,keyasint,omitempty"`
	Address string `cbor:"23,keyasint,omitempty"`
	// Image is the picture format asked for at the start: svg, png or empty.
	Image string `cbor:"24,keyasint,omitempty"`
	// CheckCode asks for the check code, TypeUserCode for the user code, at the decision.
	CheckCode    bool `cbor:"25,keyasint,omitempty"`
	TypeUserCode bool `cbor:"26,keyasint,omitempty"`
	// Interval is the current polling interval.
	Interval time.Duration `cbor:"27,keyasint"`

	// BindingFailures counts redemption attempts without the right verifier or key.
	BindingFailures uint8        `cbor:"30,keyasint,omitempty"`
	Claim           *QRClaim     `cbor:"31,keyasint,omitempty"`
	Approval        *QRApproval  `cbor:"32,keyasint,omitempty"`
	Redemption      *QRRedeeming `cbor:"33,keyasint,omitempty"`
	// EndedAt is when an end was reached; Reported marks a denial that was a report.
	EndedAt  time.Time `cbor:"34,keyasint,omitzero"`
	Reported bool      `cbor:"35,keyasint,omitempty"`
	// DecidedAt is when the person last decided; it starts the handle's last 120 s.
	DecidedAt time.Time `cbor:"36,keyasint,omitzero"`
	// ExpiryLogged is set once Sweep has written the qr.expired row.
	ExpiryLogged bool `cbor:"37,keyasint,omitempty"`

	events []AuditEvent
}

// QRClaim is the phone that scanned first; it never changes hands.
type QRClaim struct {
	Subject  string `cbor:"1,keyasint"`
	ClientID string `cbor:"2,keyasint"`
	// SessionID or JKT binds the claim to one sign-in or one key of the phone.
	SessionID string    `cbor:"3,keyasint,omitempty"`
	JKT       string    `cbor:"4,keyasint,omitempty"`
	At        time.Time `cbor:"5,keyasint"`
	// HandleHash is SHA-256 of the current confirm_handle's secret half.
	HandleHash [32]byte `cbor:"6,keyasint"`
	Entry      QREntry  `cbor:"7,keyasint"`
	TriesLeft  uint8    `cbor:"8,keyasint"`
	Repeats    uint8    `cbor:"9,keyasint,omitempty"`
	// Version is the session's version at the first claim; the check code derives from it.
	Version uint64 `cbor:"10,keyasint"`
	// ShowAddress says that the phone was near enough to be shown the asker's address.
	ShowAddress bool `cbor:"11,keyasint,omitempty"`
}

// QRApproval is what the person said yes to, and how they had signed in on the phone.
type QRApproval struct {
	At time.Time `cbor:"1,keyasint"`
	// Scopes are requested ∩ client ∩ QR-allowed ∩ ticked.
	Scopes   []string  `cbor:"2,keyasint,omitempty"`
	AuthTime time.Time `cbor:"3,keyasint"`
	AMR      []string  `cbor:"4,keyasint,omitempty"`
	ACR      string    `cbor:"5,keyasint,omitempty"`
	// ResultSID is the sid the redemption will sign in under; the phone learns it at once.
	ResultSID string `cbor:"6,keyasint"`
}

// QRRedeeming says which token family the redemption made.
type QRRedeeming struct {
	At        time.Time `cbor:"1,keyasint"`
	RequestID string    `cbor:"2,keyasint"`
	SessionID string    `cbor:"3,keyasint"`
}

// TransitionError reports a step that the session's state does not allow.
type TransitionError struct {
	From  QRState
	Event string
}

func (e *TransitionError) Error() string {
	return fmt.Sprintf("storage: %s is not possible from %s", e.Event, e.From)
}

// ExpiresAt is the end of expires_in.
func (s *QRSession) ExpiresAt() time.Time { return s.OpenedAt.Add(s.Lifetime) }

// ClaimDeadline is when a PENDING session expires.
func (s *QRSession) ClaimDeadline() time.Time { return s.ExpiresAt().Add(-claimMargin) }

// DecisionDeadline is when a SCANNED session expires. It needs a claim.
func (s *QRSession) DecisionDeadline() time.Time {
	last := s.ExpiresAt()
	if s.Grant == QRGrantDevice {
		last = last.Add(-deviceDecisionMargin)
	}
	if byScan := s.Claim.At.Add(decisionWindow); byScan.Before(last) {
		return byScan
	}
	return last
}

// RedeemDeadline is when an APPROVED session expires. It needs an approval.
func (s *QRSession) RedeemDeadline() time.Time {
	window := max(minRedeemWindow, 2*s.Interval+intervalStep)
	return s.Approval.At.Add(min(window, maxRedeemWindow))
}

// StateAt is the state at now: the stored one, or QRExpired past its deadline. A deadline
// itself is already past, and an expiry that was logged stands whatever now is: a request
// that read its clock before the sweep did must not revive the session.
func (s *QRSession) StateAt(now time.Time) QRState {
	if s.ExpiryLogged {
		return QRExpired
	}
	var deadline time.Time
	switch s.State {
	case QRPending:
		deadline = s.ClaimDeadline()
	case QRScanned:
		deadline = s.DecisionDeadline()
	case QRApproved:
		deadline = s.RedeemDeadline()
	case QRRedeemed, QRDenied, QRCancelled, QRAborted, QRExpired:
		return s.State
	}
	if now.Before(deadline) {
		return s.State
	}
	return QRExpired
}

// Live reports whether the session can still move at now.
func (s *QRSession) Live(now time.Time) bool {
	switch s.StateAt(now) {
	case QRPending, QRScanned, QRApproved:
		return true
	case QRRedeemed, QRDenied, QRCancelled, QRAborted, QRExpired:
	}
	return false
}

// Lazy reports whether the record may be acknowledged before it is on disk: nothing but an
// opening and a claim is in it, and losing it costs a new QR code (architecture, durability).
func (s *QRSession) Lazy() bool {
	if s.ExpiryLogged {
		return false
	}
	switch s.State {
	case QRPending:
		return s.BindingFailures == 0 && s.Interval == PollInterval
	case QRScanned:
		return s.BindingFailures == 0 && s.Interval == PollInterval && s.Claim.TriesLeft == s.Claim.Entry.tries()
	case QRApproved, QRRedeemed, QRDenied, QRCancelled, QRAborted, QRExpired:
	}
	return false
}

// SweepAt is when the sweep has something to do for the record: at its deadline to log the
// expiry of a claimed session, and a day after its end to remove it.
func (s *QRSession) SweepAt() time.Time {
	switch {
	case !s.EndedAt.IsZero():
		return s.EndedAt.Add(tombstone)
	case s.ExpiryLogged || s.State == QRPending:
		return s.ExpiresAt().Add(tombstone)
	case s.State == QRApproved:
		return s.RedeemDeadline()
	default:
		return s.DecisionDeadline()
	}
}

// LogExpiry is the sweep's step for a claimed session past its deadline: it writes the
// qr.expired row and keeps the record as a tombstone. It reports whether there was one to write.
func (s *QRSession) LogExpiry(now time.Time) bool {
	if s.ExpiryLogged || s.Claim == nil || s.StateAt(now) != QRExpired {
		return false
	}
	s.ExpiryLogged = true
	s.moved(now, EventQRExpired, s.State.String())
	return true
}

// OpenedEvent is the audit row of the opening. A driver writes it with the record's first
// write to disk; a session that expires unscanned is counted, not logged.
func (s *QRSession) OpenedEvent() AuditEvent {
	return AuditEvent{At: s.OpenedAt, Type: EventQROpened, QRSession: s.ID.Hash(), ClientID: s.ClientID}
}

// TakeEvents returns the audit rows the steps since the record was read have caused, and
// forgets them. Drivers store them in the transaction of the record.
func (s *QRSession) TakeEvents() []AuditEvent {
	events := s.events
	s.events = nil
	return events
}

// Clone returns a deep copy, with the events not yet taken.
func (s *QRSession) Clone() *QRSession {
	c := *s
	c.UserCodeSealed = slices.Clone(s.UserCodeSealed)
	c.Scopes = slices.Clone(s.Scopes)
	c.ACRValues = slices.Clone(s.ACRValues)
	c.events = slices.Clone(s.events)
	if s.MaxAge != nil {
		age := *s.MaxAge
		c.MaxAge = &age
	}
	if s.Claim != nil {
		claim := *s.Claim
		c.Claim = &claim
	}
	if s.Approval != nil {
		approval := *s.Approval
		approval.Scopes = slices.Clone(approval.Scopes)
		approval.AMR = slices.Clone(approval.AMR)
		c.Approval = &approval
	}
	if s.Redemption != nil {
		redemption := *s.Redemption
		c.Redemption = &redemption
	}
	return &c
}

// moved bumps the version and adds the move's one audit row.
func (s *QRSession) moved(now time.Time, event, detail string) {
	s.Version++
	e := AuditEvent{At: now, Type: event, QRSession: s.ID.Hash(), ClientID: s.ClientID, Detail: detail}
	if s.Claim != nil {
		e.Subject, e.ApproverID, e.SessionID = s.Claim.Subject, s.Claim.ClientID, s.Claim.SessionID
	}
	s.events = append(s.events, e)
}

func (s *QRSession) end(now time.Time, state QRState, event, detail string) {
	s.State, s.EndedAt = state, now
	s.moved(now, event, detail)
}

// QRProof is what a consumption device proves at the token endpoint.
type QRProof struct {
	// Verifier is the code_verifier as sent; empty when absent.
	Verifier string
	// JKT is the thumbprint of the DPoP proof's key; empty without a proof.
	JKT string
}

// Bound reports whether the opening bound the session to a verifier or a key.
func (s *QRSession) Bound() bool { return s.Challenge != "" || s.JKT != "" }

// Proves reports whether p is what the opening bound: a missing, wrong or unexpected
// verifier or key does not. The comparison takes constant time.
func (s *QRSession) Proves(p QRProof) bool {
	if (s.Challenge == "") != (p.Verifier == "") || (s.JKT == "") != (p.JKT == "") {
		return false
	}
	ok := subtle.ConstantTimeCompare([]byte(s.JKT), []byte(p.JKT))
	if s.Challenge != "" {
		sum := sha256.Sum256([]byte(p.Verifier))
		got := base64.RawURLEncoding.EncodeToString(sum[:])
		ok &= subtle.ConstantTimeCompare([]byte(s.Challenge), []byte(got))
	}
	return ok == 1
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
	// QRPollUsed: 400 invalid_grant; a lost answer, nothing is revoked.
	QRPollUsed
	// QRPollReplayed: 400 invalid_grant, and the caller revokes the whole family.
	QRPollReplayed
	// QRPollUnproved: 400 invalid_grant; the verifier or key was missing, wrong or unexpected.
	QRPollUnproved
)

// Poll answers a poll of the right client with the right grant (protocol §3, order at
// /token: binding, state and clock, interval). early says that the poll came before the
// interval was over. Only a failed binding, an early poll and a replay change the record;
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
		if lostAnswer {
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

// QRScan is a phone that wants to claim a session.
type QRScan struct {
	Subject   string
	ClientID  string
	SessionID string
	JKT       string
	// AuthTime is the phone's last real authentication.
	AuthTime   time.Time
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
	// QRScanStepUp: 401; the phone's sign-in is older than max_age allows.
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
	case s.MaxAge != nil && now.Sub(scan.AuthTime) > time.Duration(*s.MaxAge)*time.Second:
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
