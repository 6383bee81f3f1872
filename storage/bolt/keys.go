package bolt

import (
	"context"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
)

// PutKey implements storage.Keys.
func (s *Store) PutKey(ctx context.Context, k *storage.Key) error {
	raw, err := s.codec.encode(k)
	if err != nil {
		return err
	}
	key := []byte(k.ID)
	free := func(tx *bbolt.Tx) error {
		if in(tx, bucketKey).Get(key) != nil {
			return storage.ErrConflict
		}
		return nil
	}
	return s.write(ctx, free, func(tx *bbolt.Tx) error {
		// Again, because the unit itself may have stored it a moment ago.
		if err := free(tx); err != nil {
			return err
		}
		return in(tx, bucketKey).Put(key, raw)
	})
}

// Keys implements storage.Keys.
func (s *Store) Keys(ctx context.Context) ([]*storage.Key, error) {
	keys, err := all[storage.Key](ctx, s, bucketKey)
	slices.SortStableFunc(keys, func(a, b *storage.Key) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return keys, err
}

// ReplaceKey implements storage.Keys.
func (s *Store) ReplaceKey(ctx context.Context, k *storage.Key) error {
	raw, err := s.codec.encode(k)
	if err != nil {
		return err
	}
	key := []byte(k.ID)
	known := func(tx *bbolt.Tx) error {
		if in(tx, bucketKey).Get(key) == nil {
			return storage.ErrNotFound
		}
		return nil
	}
	return s.write(ctx, known, func(tx *bbolt.Tx) error {
		// Again, because the unit itself may have removed it a moment ago.
		if err := known(tx); err != nil {
			return err
		}
		return in(tx, bucketKey).Put(key, raw)
	})
}

// DeleteKey implements storage.Keys.
func (s *Store) DeleteKey(ctx context.Context, id string) error {
	return s.write(ctx, nil, func(tx *bbolt.Tx) error { return in(tx, bucketKey).Delete([]byte(id)) })
}
