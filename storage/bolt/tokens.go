package bolt

import (
	"bytes"
	"context"
	"errors"
	"time"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
)

func tokenKey(kind storage.TokenKind, sig storage.TokenSignature) []byte {
	return append([]byte{byte(kind)}, sig[:]...)
}

// keepUntil is when the sweep may remove the token.
func keepUntil(t *storage.Token) time.Time {
	if t.KeepUntil.IsZero() {
		return t.ExpiresAt
	}
	return t.KeepUntil
}

// The kinds of rows in the token index. A person's tokens are found through the sign-ins that
// they belong to, so that the tokens of one sign-in need one row of the person.
const (
	indexRequest byte = iota + 1 // request id, token key
	indexSession                 // session id, subject, token key
	indexSubject                 // subject, token key, for a token without a session
	indexOwner                   // subject, session id
)

// tokenKeyLen is the length of tokenKey's result.
const tokenKeyLen = 1 + len(storage.TokenSignature{})

func tokenIndexKey(kind byte, id string, key []byte) []byte {
	return append([]byte{kind}, indexKey(id, key)...)
}

// sessionIndexKey is the key of the row of a session's token. Without the token key it is the
// start of those of all tokens a person has by the session.
func sessionIndexKey(sessionID, subject string, key []byte) []byte {
	return tokenIndexKey(indexSession, sessionID, indexKey(subject, key))
}

// tokenIndexes lists the index rows of a token alone.
func tokenIndexes(t *storage.Token, key []byte) [][]byte {
	rows := make([][]byte, 0, 3)
	if t.RequestID != "" {
		rows = append(rows, tokenIndexKey(indexRequest, t.RequestID, key))
	}
	switch {
	case t.SessionID != "":
		rows = append(rows, sessionIndexKey(t.SessionID, t.Subject, key))
	case t.Subject != "":
		rows = append(rows, tokenIndexKey(indexSubject, t.Subject, key))
	}
	return rows
}

// ownerIndex is the row that the token shares with the others of its sign-in; nil for none.
func ownerIndex(t *storage.Token) []byte {
	if t.SessionID == "" || t.Subject == "" {
		return nil
	}
	return tokenIndexKey(indexOwner, t.Subject, []byte(t.SessionID))
}

// PutToken implements storage.Tokens.
func (s *Store) PutToken(ctx context.Context, t *storage.Token) error {
	key := tokenKey(t.Kind, t.Signature)
	raw, err := s.codec.encode(t)
	if err != nil {
		return err
	}
	due, indexes, owner := keepUntil(t), tokenIndexes(t, key), ownerIndex(t)
	free := func(tx *bbolt.Tx) error {
		if in(tx, bucketToken).Get(key) != nil {
			return storage.ErrConflict
		}
		return nil
	}
	return s.write(ctx, free, func(tx *bbolt.Tx) error {
		// Again, because the unit itself may have stored it a moment ago.
		if err := free(tx); err != nil {
			return err
		}
		index := in(tx, bucketTokenIndex)
		for _, row := range indexes {
			if err := index.Put(row, nil); err != nil {
				return err
			}
		}
		if owner != nil && index.Get(owner) == nil {
			if err := index.Put(owner, nil); err != nil {
				return err
			}
		}
		if err := putExpiry(tx, due, expiryToken, key); err != nil {
			return err
		}
		return in(tx, bucketToken).Put(key, raw)
	})
}

// Token implements storage.Tokens.
func (s *Store) Token(ctx context.Context, kind storage.TokenKind, sig storage.TokenSignature) (*storage.Token, error) {
	return read[storage.Token](ctx, s, bucketToken, tokenKey(kind, sig))
}

// UseToken implements storage.Tokens.
func (s *Store) UseToken(ctx context.Context, kind storage.TokenKind, sig storage.TokenSignature, now time.Time) error {
	return s.UpdateToken(ctx, kind, sig, func(t *storage.Token) error {
		if !t.Active {
			return storage.ErrConflict
		}
		t.Active, t.UsedAt = false, now
		return nil
	})
}

// UpdateToken implements storage.Tokens.
func (s *Store) UpdateToken(ctx context.Context, kind storage.TokenKind, sig storage.TokenSignature, fn func(*storage.Token) error) error {
	return update(ctx, s, bucketToken, tokenKey(kind, sig), func(_ *bbolt.Tx, t *storage.Token) error { return fn(t) })
}

func (s *Store) deactivate(tx *bbolt.Tx, t *storage.Token, now time.Time) error {
	t.Active, t.UsedAt = false, now
	return put(s, tx, bucketToken, tokenKey(t.Kind, t.Signature), t)
}

// RevokeTokens implements storage.Tokens. It looks neither at a unit of work nor at the end
// of ctx: a thief who hangs up must not stop the revocation of what was stolen.
func (s *Store) RevokeTokens(_ context.Context, f storage.TokenFilter, now time.Time) (int, error) {
	if f.RequestID == "" && f.SessionID == "" && f.Subject == "" {
		return 0, nil
	}
	var found []*storage.Token
	find := func(tx *bbolt.Tx) error {
		found = nil
		for _, key := range candidates(tx, f) {
			t, err := fetch[storage.Token](s, tx, bucketToken, key)
			if err != nil {
				return err
			}
			if t.Active && selects(f, t) {
				found = append(found, t)
			}
		}
		if len(found) == 0 {
			// Whoever ends a client asks for each person, and most have nothing of it: that
			// costs no commit.
			return errNothing
		}
		return nil
	}
	err := s.committer.do([]operation{find}, []operation{func(tx *bbolt.Tx) error {
		for _, t := range found {
			if err := s.deactivate(tx, t, now); err != nil {
				return err
			}
		}
		return nil
	}})
	switch {
	case errors.Is(err, errNothing):
		return 0, nil
	case err != nil:
		return 0, err
	}
	return len(found), nil
}

// candidates returns the keys of the tokens that the most selective field of the filter finds.
func candidates(tx *bbolt.Tx, f storage.TokenFilter) [][]byte {
	switch {
	case f.RequestID != "":
		return indexed(tx, bucketTokenIndex, tokenIndexKey(indexRequest, f.RequestID, nil))
	case f.SessionID != "":
		keys := indexed(tx, bucketTokenIndex, tokenIndexKey(indexSession, f.SessionID, nil))
		for i, key := range keys {
			keys[i] = key[len(key)-tokenKeyLen:]
		}
		return keys
	}
	keys := indexed(tx, bucketTokenIndex, tokenIndexKey(indexSubject, f.Subject, nil))
	for _, session := range indexed(tx, bucketTokenIndex, tokenIndexKey(indexOwner, f.Subject, nil)) {
		keys = append(keys, indexed(tx, bucketTokenIndex, sessionIndexKey(string(session), f.Subject, nil))...)
	}
	return keys
}

// indexed returns copies of what follows the prefix in the rows of an index.
func indexed(tx *bbolt.Tx, bucket string, prefix []byte) [][]byte {
	var keys [][]byte
	cursor := in(tx, bucket).Cursor()
	for row, _ := cursor.Seek(prefix); bytes.HasPrefix(row, prefix); row, _ = cursor.Next() {
		keys = append(keys, bytes.Clone(row[len(prefix):]))
	}
	return keys
}

func selects(f storage.TokenFilter, t *storage.Token) bool {
	return (f.RequestID == "" || f.RequestID == t.RequestID) &&
		(f.SessionID == "" || f.SessionID == t.SessionID) &&
		(f.Subject == "" || f.Subject == t.Subject) &&
		(f.ClientID == "" || f.ClientID == t.ClientID) &&
		(f.Kind == 0 || f.Kind == t.Kind)
}

// removeToken removes a token and its index rows, with the last of a sign-in also the row that
// they shared.
func removeToken(tx *bbolt.Tx, t *storage.Token) error {
	key := tokenKey(t.Kind, t.Signature)
	index := in(tx, bucketTokenIndex)
	for _, row := range tokenIndexes(t, key) {
		if err := index.Delete(row); err != nil {
			return err
		}
	}
	if owner := ownerIndex(t); owner != nil {
		others := sessionIndexKey(t.SessionID, t.Subject, nil)
		if row, _ := index.Cursor().Seek(others); !bytes.HasPrefix(row, others) {
			if err := index.Delete(owner); err != nil {
				return err
			}
		}
	}
	if err := removeExpiry(tx, keepUntil(t), expiryToken, key); err != nil {
		return err
	}
	return in(tx, bucketToken).Delete(key)
}
