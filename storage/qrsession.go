package storage

import (
	"crypto/sha256"
	"encoding/base32"
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
	// The redemption window: max(minRedeemWindow, 2 × interval + 5 s), at most maxRedeemWindow;
	// at the hosted door hostedRedeemWindow, within the same limit.
	minRedeemWindow    = 30 * time.Second
	maxRedeemWindow    = 125 * time.Second
	hostedRedeemWindow = 120 * time.Second
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

// QRDoor says who opened a session, and so how it ends (protocol §1).
type QRDoor uint8

// The two doors.
const (
	// QRDoorDirect: a client opened it, polls the token endpoint and receives tokens.
	QRDoorDirect QRDoor = iota
	// QRDoorHosted: the sign-in page opened it for a browser, which holds a cookie in place
	// of a device_code; the redemption makes a browser session.
	QRDoorHosted
)

// QRHosted is what a session of the hosted door knows of its browser and of the authorization
// request that waits behind the sign-in page.
type QRHosted struct {
	// CookieHash is SHA-256 of the cookie's secret; it stands in place of DeviceCodeHash.
	CookieHash [32]byte `cbor:"1,keyasint"`
	// Browser is a hash of what tells this browser from others; its opening limits count there.
	Browser string `cbor:"2,keyasint,omitempty"`
	// Request is SHA-256 of the authorization request: no other one is answered with it.
	Request [32]byte `cbor:"3,keyasint"`
	// RequestedAt is when that request came. A renewed session keeps it.
	RequestedAt time.Time `cbor:"4,keyasint"`
	// RelyingParty and Origin are the asking client's name and the origin of its redirect.
	RelyingParty string `cbor:"5,keyasint,omitempty"`
	Origin       string `cbor:"6,keyasint,omitempty"`
}

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
// CreateQRSession's caller up to Hosted; from there on only the methods change them.
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
	// Door is the direct one when zero; Hosted belongs to the hosted one.
	Door   QRDoor    `cbor:"28,keyasint,omitempty"`
	Hosted *QRHosted `cbor:"29,keyasint,omitempty"`

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
	// Audience is what the tokens are to be for, of the resources that the opening asked for
	// (RFC 8707); empty for none. It is set by CreateQRSession's caller.
	Audience []string `cbor:"38,keyasint,omitempty"`

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
	// Revoked is set once a replay has ended the family.
	Revoked bool `cbor:"4,keyasint,omitempty"`
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

// RedeemDeadline is when an APPROVED session expires. It needs an approval. At the direct door
// a client polls and takes up the approval by itself; at the hosted one a person has to.
func (s *QRSession) RedeemDeadline() time.Time {
	if s.Door == QRDoorHosted {
		return s.Approval.At.Add(hostedRedeemWindow)
	}
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
	c.Scopes, c.Audience = slices.Clone(s.Scopes), slices.Clone(s.Audience)
	c.ACRValues = slices.Clone(s.ACRValues)
	c.events = slices.Clone(s.events)
	if s.MaxAge != nil {
		age := *s.MaxAge
		c.MaxAge = &age
	}
	if s.Hosted != nil {
		hosted := *s.Hosted
		c.Hosted = &hosted
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
