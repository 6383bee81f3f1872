package bolt

import (
	"context"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
)

// PutClient implements storage.Clients.
func (s *Store) PutClient(ctx context.Context, c *storage.Client) error {
	raw, err := s.codec.encode(c)
	if err != nil {
		return err
	}
	key := []byte(c.ID)
	return s.write(ctx, nil, func(tx *bbolt.Tx) error {
		s.clients.forgetOnCommit(tx, key)
		return in(tx, bucketClient).Put(key, raw)
	})
}

// Client implements storage.Clients.
func (s *Store) Client(ctx context.Context, id string) (*storage.Client, error) {
	return readCached(ctx, s, s.clients, bucketClient, id)
}

// Clients implements storage.Clients.
func (s *Store) Clients(ctx context.Context) ([]*storage.Client, error) {
	return all[storage.Client](ctx, s, bucketClient)
}

// UpdateClient implements storage.Clients.
func (s *Store) UpdateClient(ctx context.Context, id string, fn func(*storage.Client) error) error {
	key := []byte(id)
	return update(ctx, s, bucketClient, key, func(tx *bbolt.Tx, c *storage.Client) error {
		s.clients.forgetOnCommit(tx, key)
		return fn(c)
	})
}

// DeleteClient implements storage.Clients.
func (s *Store) DeleteClient(ctx context.Context, id string) error {
	key := []byte(id)
	return s.write(ctx, nil, func(tx *bbolt.Tx) error {
		s.clients.forgetOnCommit(tx, key)
		return in(tx, bucketClient).Delete(key)
	})
}

// all decodes every record of a bucket, by key.
func all[T any](ctx context.Context, s *Store, bucket string) ([]*T, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var records []*T
	err := s.db.View(func(tx *bbolt.Tx) error {
		return in(tx, bucket).ForEach(func(_, raw []byte) error {
			record, err := decode[T](s.codec, raw)
			records = append(records, record)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("storage/bolt: list: %w", err)
	}
	return records, nil
}
