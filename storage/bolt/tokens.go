package bolt

import (
	"bytes"
	"context"
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

// tokenIndexes lists the index rows of a token, by bucket.
func tokenIndexes(t *storage.Token, key []byte) map[string][]byte {
	rows := map[string][]byte{}
	for bucket, id := range map[string]string{
		bucketTokenRequest: t.RequestID,
		bucketTokenSession: t.SessionID,
		bucketTokenSubject: t.Subject,
	} {
		if id != "" {
			rows[bucket] = indexKey(id, key)
		}
	}
	return rows
}

// PutToken implements storage.Tokens.
func (s *Store) PutToken(ctx context.Context, t *storage.Token) error {
	key := tokenKey(t.Kind, t.Signature)
	raw, err := s.codec.encode(t)
	if err != nil {
		return err
	}
	due, indexes := keepUntil(t), tokenIndexes(t, key)
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
		for bucket, row := range indexes {
			if err := in(tx, bucket).Put(row, nil); err != nil {
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
	key := tokenKey(kind, sig)
	updated := func(tx *bbolt.Tx) (*storage.Token, error) {
		t, err := fetch[storage.Token](s, tx, bucketToken, key)
		if err == nil {
			err = fn(t)
		}
		return t, err
	}
	check := func(tx *bbolt.Tx) error {
		_, err := updated(tx)
		return err
	}
	return s.write(ctx, check, func(tx *bbolt.Tx) error {
		// Again, because the unit itself may have changed it a moment ago.
		t, err := updated(tx)
		if err != nil {
			return err
		}
		return put(s, tx, bucketToken, key, t)
	})
}

func (s *Store) deactivate(tx *bbolt.Tx, t *storage.Token, now time.Time) error {
	t.Active, t.UsedAt = false, now
	return put(s, tx, bucketToken, tokenKey(t.Kind, t.Signature), t)
}

// RevokeTokens implements storage.Tokens. It looks neither at a unit of work nor at the end
// of ctx: a thief who hangs up must not stop the revocation of what was stolen.
func (s *Store) RevokeTokens(_ context.Context, f storage.TokenFilter, now time.Time) (int, error) {
	bucket, id := bucketTokenRequest, f.RequestID
	if id == "" {
		bucket, id = bucketTokenSession, f.SessionID
	}
	if id == "" {
		bucket, id = bucketTokenSubject, f.Subject
	}
	if id == "" {
		return 0, nil
	}
	revoked := 0
	err := s.committer.do(nil, []operation{func(tx *bbolt.Tx) error {
		revoked = 0
		for _, key := range indexed(tx, bucket, id) {
			t, err := fetch[storage.Token](s, tx, bucketToken, key)
			if err != nil {
				return err
			}
			if !t.Active || !selects(f, t) {
				continue
			}
			if err := s.deactivate(tx, t, now); err != nil {
				return err
			}
			revoked++
		}
		return nil
	}})
	if err != nil {
		return 0, err
	}
	return revoked, nil
}

// indexed returns copies of the record keys under id in an index.
func indexed(tx *bbolt.Tx, bucket string, id string) [][]byte {
	var keys [][]byte
	prefix := indexKey(id, nil)
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

// removeToken removes a token and its index rows.
func removeToken(tx *bbolt.Tx, t *storage.Token) error {
	key := tokenKey(t.Kind, t.Signature)
	for bucket, row := range tokenIndexes(t, key) {
		if err := in(tx, bucket).Delete(row); err != nil {
			return err
		}
	}
	if err := removeExpiry(tx, keepUntil(t), expiryToken, key); err != nil {
		return err
	}
	return in(tx, bucketToken).Delete(key)
}
