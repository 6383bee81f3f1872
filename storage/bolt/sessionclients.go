package bolt

import (
	"context"

	"go.etcd.io/bbolt"
)

// AddSessionClient implements storage.SessionClients.
func (s *Store) AddSessionClient(ctx context.Context, sessionID, clientID string) error {
	row := indexKey(sessionID, []byte(clientID))
	return s.write(ctx, nil, func(tx *bbolt.Tx) error { return in(tx, bucketSessionClient).Put(row, nil) })
}

// SessionClients implements storage.SessionClients.
func (s *Store) SessionClients(ctx context.Context, sessionID string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var clients []string
	err := s.db.View(func(tx *bbolt.Tx) error {
		for _, id := range indexed(tx, bucketSessionClient, indexKey(sessionID, nil)) {
			clients = append(clients, string(id))
		}
		return nil
	})
	return clients, err
}
