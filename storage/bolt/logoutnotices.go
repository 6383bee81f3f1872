package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
)

func noticeKey(sessionID, clientID string) []byte { return indexKey(clientID, []byte(sessionID)) }

func noticeDueKey(n *storage.LogoutNotice) []byte {
	return indexKey(n.ClientID, append(appendTime(nil, n.DueAt), n.SessionID...))
}

// putNotices makes the notices of a sign-in that has just ended.
func (s *Store) putNotices(tx *bbolt.Tx, session *storage.Session) error {
	for _, id := range indexed(tx, bucketSessionClient, indexKey(session.ID, nil)) {
		client, err := fetch[storage.Client](s, tx, bucketClient, id)
		switch {
		case errors.Is(err, storage.ErrNotFound):
			continue
		case errors.Is(err, errUnreadable):
			// The sign-in must end all the same.
			s.skipped(bucketClient, err)
			continue
		case err != nil:
			return err
		case !client.ToldOfLogout():
			continue
		}
		notice := &storage.LogoutNotice{
			SessionID: session.ID, ClientID: client.ID, Subject: session.Subject, EndedAt: session.EndedAt, DueAt: session.EndedAt,
		}
		if err := s.putNotice(tx, notice); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) putNotice(tx *bbolt.Tx, n *storage.LogoutNotice) error {
	if err := in(tx, bucketLogoutDue).Put(noticeDueKey(n), nil); err != nil {
		return err
	}
	return put(s, tx, bucketLogout, noticeKey(n.SessionID, n.ClientID), n)
}

// removeNotice removes a notice and its index row.
func removeNotice(tx *bbolt.Tx, n *storage.LogoutNotice) error {
	if err := in(tx, bucketLogoutDue).Delete(noticeDueKey(n)); err != nil {
		return err
	}
	return in(tx, bucketLogout).Delete(noticeKey(n.SessionID, n.ClientID))
}

// LogoutNoticeClients implements storage.LogoutNotices. It costs as many steps as there are
// clients, however many notices they have.
func (s *Store) LogoutNoticeClients(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var clients []string
	err := s.db.View(func(tx *bbolt.Tx) error {
		cursor := in(tx, bucketLogoutDue).Cursor()
		for row, _ := cursor.First(); len(row) > 2; {
			end := min(len(row), 2+int(binary.BigEndian.Uint16(row)))
			clients = append(clients, string(row[2:end]))
			row, _ = cursor.Seek(behind(row[:end]))
		}
		return nil
	})
	return clients, err
}

// behind is the first key after all that begin with prefix.
func behind(prefix []byte) []byte {
	next := bytes.Clone(prefix)
	for i := len(next) - 1; i >= 0; i-- {
		next[i]++
		if next[i] != 0 {
			return next[:i+1]
		}
	}
	// Nothing but 0xff: no client id is that long.
	return append(bytes.Clone(prefix), 0xff)
}

// LogoutNotices implements storage.LogoutNotices.
func (s *Store) LogoutNotices(ctx context.Context, clientID string, limit int) ([]*storage.LogoutNotice, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var notices []*storage.LogoutNotice
	err := s.db.View(func(tx *bbolt.Tx) error {
		cursor, prefix := in(tx, bucketLogoutDue).Cursor(), indexKey(clientID, nil)
		for row, _ := cursor.Seek(prefix); bytes.HasPrefix(row, prefix) && len(notices) < limit; row, _ = cursor.Next() {
			if len(row) < len(prefix)+timeLen {
				continue
			}
			notice, err := fetch[storage.LogoutNotice](s, tx, bucketLogout, indexKey(clientID, row[len(prefix)+timeLen:]))
			switch {
			case errors.Is(err, errUnreadable), errors.Is(err, storage.ErrNotFound):
				s.skipped(bucketLogout, err)
			case err != nil:
				return err
			default:
				notices = append(notices, notice)
			}
		}
		return nil
	})
	return notices, err
}

// UpdateLogoutNotice implements storage.LogoutNotices.
func (s *Store) UpdateLogoutNotice(ctx context.Context, sessionID, clientID string, fn func(*storage.LogoutNotice) error) error {
	key := noticeKey(sessionID, clientID)
	known := func(tx *bbolt.Tx) error {
		notice, err := fetch[storage.LogoutNotice](s, tx, bucketLogout, key)
		if err != nil {
			return err
		}
		return fn(notice)
	}
	return s.write(ctx, known, func(tx *bbolt.Tx) error {
		notice, err := fetch[storage.LogoutNotice](s, tx, bucketLogout, key)
		if err != nil {
			return err
		}
		was := *notice
		if err := fn(notice); err != nil {
			return err
		}
		if notice.SessionID != sessionID || notice.ClientID != clientID {
			return errors.New("storage/bolt: an update must keep SessionID and ClientID")
		}
		if err := removeNotice(tx, &was); err != nil {
			return err
		}
		return s.putNotice(tx, notice)
	})
}

// DeleteLogoutNotice implements storage.LogoutNotices.
func (s *Store) DeleteLogoutNotice(ctx context.Context, sessionID, clientID string) error {
	key := noticeKey(sessionID, clientID)
	return s.write(ctx, nil, func(tx *bbolt.Tx) error {
		notice, err := fetch[storage.LogoutNotice](s, tx, bucketLogout, key)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return removeNotice(tx, notice)
	})
}
