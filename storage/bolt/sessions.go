package bolt

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
)

// sessionKept is how long an ended or expired sign-in is still listed.
const sessionKept = 24 * time.Hour

// sessionDue is when the sweep may remove the sign-in.
func sessionDue(s *storage.Session) time.Time {
	if !s.EndedAt.IsZero() {
		return s.EndedAt.Add(sessionKept)
	}
	return s.ExpiresAt.Add(sessionKept)
}

// PutSession implements storage.Sessions.
func (s *Store) PutSession(ctx context.Context, session *storage.Session) error {
	// A copy, because the write may run after the caller has reused its own.
	record := cloneSession(session)
	return s.write(ctx, nil, func(tx *bbolt.Tx) error { return s.replaceSession(tx, record) })
}

func (s *Store) replaceSession(tx *bbolt.Tx, session *storage.Session) error {
	key := []byte(session.ID)
	was, err := fetch[storage.Session](s, tx, bucketSession, key)
	if err == nil {
		err = s.removeSignIn(tx, was)
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	if err := in(tx, bucketSessionSubject).Put(indexKey(session.Subject, key), nil); err != nil {
		return err
	}
	if err := putExpiry(tx, sessionDue(session), expirySession, key); err != nil {
		return err
	}
	s.signIns.forgetOnCommit(tx, key)
	return put(s, tx, bucketSession, key, session)
}

// removeSignIn removes a sign-in and its index rows.
func (s *Store) removeSignIn(tx *bbolt.Tx, session *storage.Session) error {
	key := []byte(session.ID)
	s.signIns.forgetOnCommit(tx, key)
	if err := in(tx, bucketSessionSubject).Delete(indexKey(session.Subject, key)); err != nil {
		return err
	}
	if err := removeExpiry(tx, sessionDue(session), expirySession, key); err != nil {
		return err
	}
	return in(tx, bucketSession).Delete(key)
}

// Session implements storage.Sessions.
func (s *Store) Session(ctx context.Context, id string) (*storage.Session, error) {
	return readCached(ctx, s, s.signIns, bucketSession, id)
}

// SessionsBySubject implements storage.Sessions.
func (s *Store) SessionsBySubject(ctx context.Context, subject string) ([]*storage.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var sessions []*storage.Session
	err := s.db.View(func(tx *bbolt.Tx) error {
		for _, key := range indexed(tx, bucketSessionSubject, indexKey(subject, nil)) {
			session, err := fetch[storage.Session](s, tx, bucketSession, key)
			if err != nil {
				return err
			}
			sessions = append(sessions, session)
		}
		return nil
	})
	slices.SortStableFunc(sessions, func(a, b *storage.Session) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return sessions, err
}

// EndSession implements storage.Sessions.
func (s *Store) EndSession(ctx context.Context, id string, now time.Time) error {
	key := []byte(id)
	known := func(tx *bbolt.Tx) error {
		_, err := fetch[storage.Session](s, tx, bucketSession, key)
		return err
	}
	return s.write(ctx, known, func(tx *bbolt.Tx) error {
		session, err := fetch[storage.Session](s, tx, bucketSession, key)
		if err != nil || !session.EndedAt.IsZero() {
			return err
		}
		if err := s.removeSignIn(tx, session); err != nil {
			return err
		}
		session.EndedAt = now
		if err := s.putNotices(tx, session); err != nil {
			return err
		}
		return s.replaceSession(tx, session)
	})
}
