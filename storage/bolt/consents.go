package bolt

import (
	"bytes"
	"context"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
)

// PutConsent implements storage.Consents.
func (s *Store) PutConsent(ctx context.Context, c *storage.Consent) error {
	raw, err := s.codec.encode(c)
	if err != nil {
		return err
	}
	key := indexKey(c.Subject, []byte(c.ClientID))
	return s.write(ctx, nil, func(tx *bbolt.Tx) error { return in(tx, bucketConsent).Put(key, raw) })
}

// Consent implements storage.Consents.
func (s *Store) Consent(ctx context.Context, subject, clientID string) (*storage.Consent, error) {
	return read[storage.Consent](ctx, s, bucketConsent, indexKey(subject, []byte(clientID)))
}

// ConsentsBySubject implements storage.Consents.
func (s *Store) ConsentsBySubject(ctx context.Context, subject string) ([]*storage.Consent, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var consents []*storage.Consent
	prefix := indexKey(subject, nil)
	err := s.db.View(func(tx *bbolt.Tx) error {
		cursor := in(tx, bucketConsent).Cursor()
		for key, raw := cursor.Seek(prefix); bytes.HasPrefix(key, prefix); key, raw = cursor.Next() {
			consent, err := decode[storage.Consent](s.codec, raw)
			if err != nil {
				return fmt.Errorf("storage/bolt: list consents: %w", err)
			}
			consents = append(consents, consent)
		}
		return nil
	})
	return consents, err
}

// DeleteConsent implements storage.Consents.
func (s *Store) DeleteConsent(ctx context.Context, subject, clientID string) error {
	key := indexKey(subject, []byte(clientID))
	return s.write(ctx, nil, func(tx *bbolt.Tx) error { return in(tx, bucketConsent).Delete(key) })
}
