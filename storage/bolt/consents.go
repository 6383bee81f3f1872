package bolt

import (
	"context"

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

// DeleteConsent implements storage.Consents.
func (s *Store) DeleteConsent(ctx context.Context, subject, clientID string) error {
	key := indexKey(subject, []byte(clientID))
	return s.write(ctx, nil, func(tx *bbolt.Tx) error { return in(tx, bucketConsent).Delete(key) })
}
