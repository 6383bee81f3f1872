package storage

import (
	"context"
	"errors"
	"time"
)

// The sentinel errors of every driver; compare with errors.Is.
var (
	// ErrNotFound: there is no such record, or it has been swept.
	ErrNotFound = errors.New("storage: not found")
	// ErrConflict: a record of that key exists already, or a conditional write found
	// another state than it was conditional on. Nothing was written.
	ErrConflict = errors.New("storage: conflict")
	// ErrFull: a limit of the driver is reached (undecided QR sessions in memory, file
	// size). Nothing was written; the same call may succeed later.
	ErrFull = errors.New("storage: full")
)

// Store is what a driver implements; storagetest.Run is its conformance suite.
//
// Every method looks for a unit of work in ctx first (see Tx) and returns fresh copies: the
// caller may change what it gets and reuse what it gave. A method that returns nil has its
// effect on disk, except where it says otherwise.
type Store interface {
	QRSessions
	Tokens
	Clients
	Users
	Sessions
	SessionClients
	LogoutNotices
	Consents
	Keys
	Audit
	Replays

	// Tx runs fn as one unit of work: what fn writes with the ctx it is given is applied
	// in one durable transaction when fn returns nil, and dropped when it returns an error
	// or panics. A Tx inside a Tx joins it, and its error dooms the whole. Writes are buffered: a read inside the unit sees
	// the store as it was. A conditional write that fails at commit makes Tx return
	// ErrConflict. No driver holds its write transaction open while fn runs.
	Tx(ctx context.Context, fn func(ctx context.Context) error) error
	// Sweep removes at most limit records that are due at now, writes the audit rows of
	// expired sessions, and reports whether more are due. Its cost is that of what is due. It
	// also writes the scans that are not yet on disk.
	Sweep(ctx context.Context, now time.Time, limit int) (removed int, more bool, err error)
	// Health reports whether the store can serve reads and writes.
	Health(ctx context.Context) error
	// Close flushes what is not yet on disk and releases the store.
	Close() error
}

// QRSessions keeps QR sessions, the one record of the grant.
type QRSessions interface {
	// CreateQRSession stores a new session. It may return before the record is on disk
	// (a crash then costs a new QR code). It sets Version and State of s when they are zero.
	// ErrConflict: the id, or the user code of a live session, is taken; ErrFull: too many
	// undecided sessions.
	CreateQRSession(ctx context.Context, s *QRSession) error
	// QRSession returns the session. It takes no lock and never waits for a writer.
	QRSession(ctx context.Context, id QRID) (*QRSession, error)
	// QRSessionByUserCode returns the session that holds this user code, ended or not.
	QRSessionByUserCode(ctx context.Context, code UserCodeHash) (*QRSession, error)
	// UpdateQRSession runs fn on the current record and stores what fn made of it, with
	// the audit events fn caused, as one compare-and-swap. An error of fn is returned as it
	// is and nothing is stored. fn must be pure: it may run again. A scan may be
	// acknowledged before it is on disk (QRSession.Lazy); every other change is durable
	// when the call returns, or inside a unit of work when that commits.
	UpdateQRSession(ctx context.Context, id QRID, fn func(*QRSession) error) error
	// WatchQRSession returns a channel that gets a value after the session changed, and
	// the function that ends the watch. A wake-up is a hint: it may be lost, doubled or
	// late, so the waiter reads the record again and keeps a timer of its own.
	WatchQRSession(id QRID) (hint <-chan struct{}, stop func())
}

// Tokens keeps every artefact of fosite: codes, access tokens and refresh tokens.
type Tokens interface {
	// PutToken stores a new token. ErrConflict: the signature is taken.
	PutToken(ctx context.Context, t *Token) error
	// Token returns the token, active or not; the caller looks at Active and ExpiresAt.
	Token(ctx context.Context, kind TokenKind, sig TokenSignature) (*Token, error)
	// UseToken makes an active token inactive. Exactly one caller wins; the others get
	// ErrConflict (inside a unit of work: from Tx).
	UseToken(ctx context.Context, kind TokenKind, sig TokenSignature, now time.Time) error
	// UpdateToken runs fn on the current record and stores what fn made of it, as one
	// compare-and-swap. An error of fn is returned as it is and nothing is stored; inside a
	// unit of work fn runs when that commits, and Tx returns its error. fn must be pure: it
	// may run again. It must leave what identifies and dates the token alone: Kind,
	// Signature, RequestID, SessionID, Subject, ExpiresAt and KeepUntil.
	UpdateToken(ctx context.Context, kind TokenKind, sig TokenSignature, fn func(*Token) error) error
	// RevokeTokens makes every token that matches the filter inactive and returns how
	// many were active. It writes through at once, even inside a unit of work, because
	// the detection of a replay ends in an error answer and must still be on disk.
	RevokeTokens(ctx context.Context, f TokenFilter, now time.Time) (int, error)
}

// Clients keeps the registered OAuth clients.
type Clients interface {
	// PutClient stores or replaces a client.
	PutClient(ctx context.Context, c *Client) error
	Client(ctx context.Context, id string) (*Client, error)
	// Clients lists every client by id.
	Clients(ctx context.Context) ([]*Client, error)
	// UpdateClient runs fn on the current record and stores what fn made of it, as one
	// compare-and-swap: an operator may switch a client off while its document is read, or while
	// a person grants it something. An error of fn is returned as it is and nothing is stored;
	// inside a unit of work fn runs when that commits, and Tx returns its error. fn must be pure:
	// it may run again. It must leave the ID alone.
	UpdateClient(ctx context.Context, id string, fn func(*Client) error) error
	// DeleteClient removes a client; removing it again changes nothing.
	DeleteClient(ctx context.Context, id string) error
}

// Users keeps the people who can sign in.
type Users interface {
	// PutUser stores or replaces a user. ErrConflict: another user has that login.
	PutUser(ctx context.Context, u *User) error
	User(ctx context.Context, subject string) (*User, error)
	// UserByLogin finds a user by login name, in any case.
	UserByLogin(ctx context.Context, login string) (*User, error)
	// Users lists every user by subject.
	Users(ctx context.Context) ([]*User, error)
}

// Sessions keeps sign-ins (the sid of OpenID Connect), born of a password or of a QR approval.
type Sessions interface {
	// PutSession stores or replaces a session.
	PutSession(ctx context.Context, s *Session) error
	Session(ctx context.Context, id string) (*Session, error)
	// SessionsBySubject lists a person's sessions, newest first, ended ones until swept.
	SessionsBySubject(ctx context.Context, subject string) ([]*Session, error)
	// EndSession marks the session ended and, in the same transaction, makes a LogoutNotice
	// due at now for every client that took part and is to be told (Client.ToldOfLogout).
	// Ending it again changes nothing.
	EndSession(ctx context.Context, id string, now time.Time) error
}

// SessionClients keeps which clients took part in a sign-in: those that want to hear of its
// end. The rows go when the sign-in is swept.
type SessionClients interface {
	// AddSessionClient remembers that the client took part; doing so again changes nothing.
	AddSessionClient(ctx context.Context, sessionID, clientID string) error
	// SessionClients lists the ids of the clients that took part, in their order.
	SessionClients(ctx context.Context, sessionID string) ([]string, error)
}

// LogoutNotices keeps what clients are still to be told of sign-ins that have ended. EndSession
// writes them, so that no end is forgotten by a process that stops; whoever delivers one removes
// it. They outlive the sign-in.
type LogoutNotices interface {
	// LogoutNoticeClients lists the ids of the clients that have notices, each once, in any order.
	LogoutNoticeClients(ctx context.Context) ([]string, error)
	// LogoutNotices lists at most limit notices to a client, in the order in which they are
	// due. One that cannot be read is passed over.
	LogoutNotices(ctx context.Context, clientID string, limit int) ([]*LogoutNotice, error)
	// UpdateLogoutNotice runs fn on the current record and stores what fn made of it, as one
	// compare-and-swap: that is how one of several processes takes a notice. An error of fn is
	// returned as it is and nothing is stored. fn must be pure: it may run again. It must
	// leave SessionID and ClientID alone.
	UpdateLogoutNotice(ctx context.Context, sessionID, clientID string, fn func(*LogoutNotice) error) error
	// DeleteLogoutNotice removes a notice; removing it again changes nothing.
	DeleteLogoutNotice(ctx context.Context, sessionID, clientID string) error
}

// Consents keeps what people allowed clients, one record for each person and client.
type Consents interface {
	// PutConsent stores or replaces a consent.
	PutConsent(ctx context.Context, c *Consent) error
	Consent(ctx context.Context, subject, clientID string) (*Consent, error)
	// ConsentsBySubject lists a person's consents by client id.
	ConsentsBySubject(ctx context.Context, subject string) ([]*Consent, error)
	// DeleteConsent forgets a consent; one that does not exist is no error.
	DeleteConsent(ctx context.Context, subject, clientID string) error
}

// Keys keeps signing keys and server keys.
type Keys interface {
	// PutKey stores a new key. ErrConflict: the id is taken.
	PutKey(ctx context.Context, k *Key) error
	// Keys lists every key, oldest first.
	Keys(ctx context.Context) ([]*Key, error)
	// ReplaceKey stores k in place of the key of that id. ErrNotFound: there is none.
	ReplaceKey(ctx context.Context, k *Key) error
	// DeleteKey removes a key; removing it again changes nothing.
	DeleteKey(ctx context.Context, id string) error
}

// Audit keeps the audit trail. The rows of a QR session's moves are written by the driver
// itself in the transaction of the move.
type Audit interface {
	// RecordEvent adds a row that belongs to no move (a refused frame, a limit). It is
	// written behind and may be dropped when too many wait.
	RecordEvent(ctx context.Context, e AuditEvent)
	// Events returns at most limit rows in order of time, those after the given row key;
	// nil starts at the oldest. It returns the key to go on from.
	Events(ctx context.Context, after []byte, limit int) (events []AuditEvent, next []byte, err error)
}

// Replays keeps what counts once: the identifiers of DPoP proofs (RFC 9449 §11.1) and of client
// assertions (RFC 7523 §3).
type Replays interface {
	// UseOnce marks an identifier, a hash that no one can choose freely, as used until the given
	// time. Exactly one caller wins; the others get ErrConflict. ErrFull: too many are kept. It
	// never joins a unit of work: an identifier stays used whatever becomes of the request. It
	// may return before the row is on disk: a crash may forget the last ones, a clean restart
	// forgets none.
	UseOnce(ctx context.Context, id [32]byte, until, now time.Time) error
}
