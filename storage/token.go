package storage

import "time"

// LostAnswerWindow is how long after its rotation a refresh token may be presented once more,
// because the answer that carried its successor was lost.
const LostAnswerWindow = time.Minute

// Succession is what a rotation issued in place of a refresh token.
type Succession struct {
	// Access and Refresh are the tokens that are valid instead; after a re-issue those of
	// the second answer.
	Access  TokenSignature `cbor:"1,keyasint"`
	Refresh TokenSignature `cbor:"2,keyasint"`
	// Credential is SHA-256 of the secret the client authenticated with; zero for a public
	// client. Only the same one may ask again.
	Credential [32]byte `cbor:"3,keyasint,omitzero"`
	// Reissued is set by the one re-issue.
	Reissued bool `cbor:"4,keyasint,omitempty"`
}

// Rotate uses a refresh token up for its successor. ErrConflict: it is not active.
func (t *Token) Rotate(to Succession, now time.Time) error {
	if !t.Active {
		return ErrConflict
	}
	t.Active, t.UsedAt, t.Succession = false, now, &to
	return nil
}

// Reissuable reports whether a used refresh token may have one more successor: within
// LostAnswerWindow, once, for the same credential. Whether the first successor was ever used,
// only that one's record knows (Supersede).
func (t *Token) Reissuable(credential [32]byte, now time.Time) bool {
	return !t.Active && t.Succession != nil && !t.Succession.Reissued &&
		t.Succession.Credential == credential &&
		now.Before(t.ExpiresAt) && now.Before(t.UsedAt.Add(LostAnswerWindow))
}

// Reissue replaces the successor of a used refresh token. ErrConflict: it is not Reissuable.
func (t *Token) Reissue(to Succession, now time.Time) error {
	if !t.Reissuable(to.Credential, now) {
		return ErrConflict
	}
	to.Reissued = true
	t.Succession = &to
	return nil
}

// Unused reports whether a successor is as it was issued: neither revoked, nor rotated, nor
// seen at a resource.
func (t *Token) Unused() bool { return t.Active && t.UsedAt.IsZero() }

// Supersede ends a successor that never arrived. ErrConflict: it is not Unused, so it did.
func (t *Token) Supersede(now time.Time) error {
	if !t.Unused() {
		return ErrConflict
	}
	t.Active, t.UsedAt = false, now
	return nil
}

// WatchedAt reports whether a use of this access token must be recorded before it counts: it
// came of a refresh whose answer may yet be called lost, and nobody has used it.
func (t *Token) WatchedAt(now time.Time) bool {
	return t.Unused() && now.Before(t.WatchUntil)
}

// Arrive records the first use of an access token. ErrConflict: it is not active.
func (t *Token) Arrive(now time.Time) error {
	if !t.Active {
		return ErrConflict
	}
	if t.UsedAt.IsZero() {
		t.UsedAt = now
	}
	return nil
}
