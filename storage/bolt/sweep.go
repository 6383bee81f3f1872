package bolt

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"time"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
)

// maxSweep is how many rows one transaction of a sweep touches, so that a login never waits
// long behind it.
const maxSweep = 1000

// Sweep implements storage.Store. It also writes the claims that only memory has, so that a
// crash later costs none of them and their rows are in the audit trail. An opened session nobody scanned is forgotten 5 min after
// it expired, counted and not logged. A session whose lock is taken is left for next time. A
// record that cannot be read stays in the file, but no sweep looks at it again.
func (s *Store) Sweep(ctx context.Context, now time.Time, limit int) (removed int, more bool, err error) {
	s.swept.Store(&now)
	left := limit
	for left > 0 {
		if err := ctx.Err(); err != nil {
			return removed, true, err
		}
		handled, gone, err := s.sweepSome(now, min(left, maxSweep))
		removed += gone
		if err != nil {
			return removed, true, err
		}
		if handled == 0 {
			return removed, false, nil
		}
		left -= handled
	}
	more, err = s.anyDue(now)
	return removed, more, err
}

// sweepSome does one transaction's worth of the first kind of work that is due.
func (s *Store) sweepSome(now time.Time, limit int) (handled, removed int, err error) {
	if handled, removed, err = s.sweepMemory(now, limit); handled > 0 || err != nil {
		return handled, removed, err
	}
	if handled, removed, err = s.sweepIndex(now, limit); handled > 0 || err != nil {
		return handled, removed, err
	}
	if handled, removed, err = s.sweepReplays(now, limit); handled > 0 || err != nil {
		return handled, removed, err
	}
	return s.sweepAudit(now, limit)
}

func (s *Store) anyDue(now time.Time) (bool, error) {
	if s.memory.expiry.any(now) {
		return true, nil
	}
	rows, err := s.dueRows(now, 1)
	if err != nil || len(rows) > 0 {
		return len(rows) > 0, err
	}
	if keys, err := s.dueReplays(now, 1); err != nil || len(keys) > 0 {
		return len(keys) > 0, err
	}
	old, err := s.oldEvents(now, 1)
	return len(old) > 0, err
}

// sweepMemory forgets opened sessions and writes the claims that memory alone has, expired or
// not; from then on the index on disk knows them.
func (s *Store) sweepMemory(now time.Time, limit int) (handled, removed int, err error) {
	u := &unit{}
	defer s.end(u)
	ids := s.memory.expiry.due(now, limit)
	for _, id := range ids {
		if _, ok := s.memory.get(id); !ok || u.sessions[id] != nil {
			continue
		}
		st, err := s.tryStage(u, id)
		if errors.Is(err, errUnreadable) {
			s.skipped("memory", err)
			s.memory.drop(id, storage.UserCodeHash{})
			continue
		}
		if err != nil {
			return len(ids), removed, err
		}
		if st == nil {
			s.memory.expiry.add(now, id)
			continue
		}
		gone, err := s.expire(st, now)
		if err != nil {
			return len(ids), removed, err
		}
		removed += gone
	}
	if err := s.commit(u); err != nil {
		// They stay in memory; without this no sweep would see them again.
		for _, st := range u.order {
			s.memory.expiry.add(now, st.id)
		}
		return len(ids), removed, err
	}
	return len(ids), removed, nil
}

// expire forgets an unscanned session whose time is over and has a claimed one written, with
// its expiry if that has come. It returns how many were forgotten.
func (s *Store) expire(st *staged, now time.Time) (forgotten int, err error) {
	if st.current.State == storage.QRPending {
		if now.Before(st.current.ExpiresAt().Add(forgetAfter)) {
			return 0, nil
		}
		s.memory.drop(st.id, st.code)
		s.memory.unscanned.Add(1)
		return 1, nil
	}
	st.flush = true
	return 0, s.logExpiry(st, now)
}

func (s *Store) logExpiry(st *staged, now time.Time) error {
	return s.change(st, func(qs *storage.QRSession) error {
		qs.LogExpiry(now)
		return nil
	})
}

// tryStage takes a session into the unit if its lock is free and it still exists.
func (s *Store) tryStage(u *unit, id storage.QRID) (*staged, error) {
	if st := u.sessions[id]; st != nil {
		return st, nil
	}
	if !s.locks.try(id) {
		return nil, nil
	}
	st, err := s.load(u, id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	return st, err
}

// sweepIndex does what is due on disk, in one unit.
func (s *Store) sweepIndex(now time.Time, limit int) (handled, removed int, err error) {
	rows, err := s.dueRows(now, limit)
	if err != nil || len(rows) == 0 {
		return 0, 0, err
	}
	u := &unit{}
	defer s.end(u)
	for _, row := range rows {
		kind, key := row[timeLen], row[timeLen+1:]
		if kind == expiryQR {
			done, gone, err := s.sweepSession(u, storage.QRID(key), row, now)
			if err != nil {
				return handled, 0, err
			}
			handled += done
			removed += gone
			continue
		}
		u.writes = append(u.writes, s.removeDue(kind, key, row))
		handled++
		removed++
	}
	if err := s.commit(u); err != nil {
		return handled, 0, err
	}
	return handled, removed, nil
}

// skipped tells the operator of a record that is passed over.
func (s *Store) skipped(where string, err error) {
	s.logger.Error("a record cannot be read and is passed over", slog.String("bucket", where), slog.Any("error", err))
}

// sweepSession logs the expiry of a session or removes it, whatever its record asks for.
func (s *Store) sweepSession(u *unit, id storage.QRID, row []byte, now time.Time) (handled, removed int, err error) {
	forget := func(tx *bbolt.Tx) error { return in(tx, bucketExpiry).Delete(row) }
	st, err := s.tryStage(u, id)
	if errors.Is(err, errUnreadable) {
		s.skipped(bucketQR, err)
		u.writes = append(u.writes, forget)
		return 1, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	if st == nil {
		_, err := s.rawSession(id)
		if !errors.Is(err, storage.ErrNotFound) {
			return 0, 0, err
		}
		u.writes = append(u.writes, forget)
		return 1, 0, nil
	}
	if _, newer := s.memory.get(id); newer {
		return 0, 0, nil
	}
	if err := s.logExpiry(st, now); err != nil {
		return 0, 0, err
	}
	if st.changed() {
		return 1, 0, nil
	}
	if now.Before(st.current.SweepAt()) {
		return 0, 0, nil
	}
	u.writes = append(u.writes, func(tx *bbolt.Tx) error { return removeSession(tx, st.current) })
	return 1, 1, nil
}

// removeDue removes a token or a sign-in that is due, with its index rows.
func (s *Store) removeDue(kind byte, key, row []byte) operation {
	return func(tx *bbolt.Tx) error {
		bucket, remove := bucketToken, s.removeIf
		if kind != expiryToken {
			bucket, remove = bucketSession, s.removeSignInIf
		}
		err := remove(tx, key, row)
		switch {
		case errors.Is(err, errUnreadable):
			s.skipped(bucket, err)
		case !errors.Is(err, storage.ErrNotFound):
			return err
		}
		return in(tx, bucketExpiry).Delete(row)
	}
}

// removeIf removes the token if row is still the row of its expiry.
func (s *Store) removeIf(tx *bbolt.Tx, key, row []byte) error {
	t, err := fetch[storage.Token](s, tx, bucketToken, key)
	if err != nil || !bytes.Equal(row, expiryKey(keepUntil(t), expiryToken, key)) {
		return err
	}
	return removeToken(tx, t)
}

func (s *Store) removeSignInIf(tx *bbolt.Tx, key, row []byte) error {
	session, err := fetch[storage.Session](s, tx, bucketSession, key)
	if err != nil || !bytes.Equal(row, expiryKey(sessionDue(session), expirySession, key)) {
		return err
	}
	for _, client := range indexed(tx, bucketSessionClient, indexKey(session.ID, nil)) {
		if err := in(tx, bucketSessionClient).Delete(indexKey(session.ID, client)); err != nil {
			return err
		}
	}
	return s.removeSignIn(tx, session)
}

// dueRows returns the first rows of the expiry index that are due.
func (s *Store) dueRows(now time.Time, limit int) ([][]byte, error) {
	var rows [][]byte
	end := appendTime(nil, now)
	err := s.db.View(func(tx *bbolt.Tx) error {
		cursor := in(tx, bucketExpiry).Cursor()
		for row, _ := cursor.First(); row != nil && len(rows) < limit && bytes.Compare(row[:timeLen], end) <= 0; row, _ = cursor.Next() {
			rows = append(rows, bytes.Clone(row))
		}
		return nil
	})
	return rows, err
}

// sweepAudit removes audit rows past their retention.
func (s *Store) sweepAudit(now time.Time, limit int) (handled, removed int, err error) {
	keys, err := s.oldEvents(now, limit)
	if err != nil || len(keys) == 0 {
		return 0, 0, err
	}
	err = s.committer.do(nil, []operation{func(tx *bbolt.Tx) error {
		for _, key := range keys {
			if err := in(tx, bucketAudit).Delete(key); err != nil {
				return err
			}
		}
		return nil
	}})
	if err != nil {
		return 0, 0, err
	}
	return len(keys), len(keys), nil
}

// oldEvents returns the keys of the first audit rows past their retention.
func (s *Store) oldEvents(now time.Time, limit int) ([][]byte, error) {
	var keys [][]byte
	end := appendTime(nil, now.Add(-s.retention))
	err := s.db.View(func(tx *bbolt.Tx) error {
		cursor := in(tx, bucketAudit).Cursor()
		for key, _ := cursor.First(); key != nil && len(keys) < limit && bytes.Compare(key[:timeLen], end) < 0; key, _ = cursor.Next() {
			keys = append(keys, bytes.Clone(key))
		}
		return nil
	})
	return keys, err
}
