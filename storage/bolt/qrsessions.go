package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
)

// forgetAfter is how long an unscanned session is still known after it expired, so that a
// slow poller learns that it expired.
const forgetAfter = 5 * time.Minute

// CreateQRSession implements storage.QRSessions. It sets Version and State of qs when zero.
func (s *Store) CreateQRSession(ctx context.Context, qs *storage.QRSession) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if qs.Version == 0 {
		qs.Version = 1
	}
	if qs.State == 0 {
		qs.State = storage.QRPending
	}
	return s.inUnit(ctx, func(u *unit) error { return s.create(ctx, u, qs) })
}

// inUnit runs fn in the unit of ctx, or in one of its own that it commits.
func (s *Store) inUnit(ctx context.Context, fn func(u *unit) error) error {
	if u := s.unitIn(ctx); u != nil {
		if u.over {
			return errOver
		}
		return fn(u)
	}
	u := &unit{}
	defer s.end(u)
	if err := fn(u); err != nil {
		return err
	}
	return s.commit(u)
}

func (s *Store) create(ctx context.Context, u *unit, qs *storage.QRSession) error {
	if u.sessions[qs.ID] != nil {
		return storage.ErrConflict
	}
	current := qs.Clone()
	events := current.TakeEvents()
	raw, err := s.codec.encode(current)
	if err != nil {
		return err
	}
	if err := s.lock(ctx, u, qs.ID); err != nil {
		return err
	}
	if err := s.claim(current); err != nil {
		s.locks.release(qs.ID)
		return err
	}
	u.add(&staged{
		id: qs.ID, code: qs.UserCodeHash, after: raw, current: current,
		rows: appendRows(nil, qs.Version, events), created: true,
	})
	return nil
}

// claim reserves a place and the user code for a new session whose lock is held.
func (s *Store) claim(qs *storage.QRSession) error {
	_, err := s.rawSession(qs.ID)
	switch {
	case err == nil:
		return storage.ErrConflict
	case !errors.Is(err, storage.ErrNotFound):
		return err
	}
	if !s.memory.reserve() {
		return fmt.Errorf("storage/bolt: %d undecided sessions: %w", s.memory.max, storage.ErrFull)
	}
	err = s.memory.takeCode(qs.UserCodeHash, qs.ID, func(holder storage.QRID, known bool) error {
		return s.codeFree(qs, holder, known)
	})
	if err != nil {
		s.memory.count.Add(-1)
	}
	return err
}

// codeFree reports ErrConflict while the holder of the user code of qs still needs it.
func (s *Store) codeFree(qs *storage.QRSession, holder storage.QRID, known bool) error {
	if !known {
		var err error
		holder, err = s.codeHolderOnDisk(qs.UserCodeHash)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	other, err := s.readSession(holder)
	if errors.Is(err, storage.ErrNotFound) {
		// A holder in memory without a record is an opening whose unit has not ended.
		if known {
			return storage.ErrConflict
		}
		return nil
	}
	if err != nil {
		return err
	}
	if other.EndedAt.IsZero() && other.ExpiresAt().After(qs.OpenedAt) {
		return fmt.Errorf("storage/bolt: user code is taken: %w", storage.ErrConflict)
	}
	return nil
}

// QRSession implements storage.QRSessions.
func (s *Store) QRSession(ctx context.Context, id storage.QRID) (*storage.QRSession, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.readSession(id)
}

// QRSessionByUserCode implements storage.QRSessions.
func (s *Store) QRSessionByUserCode(ctx context.Context, code storage.UserCodeHash) (*storage.QRSession, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if id, ok := s.memory.holder(code); ok {
		qs, err := s.readSession(id)
		if !errors.Is(err, storage.ErrNotFound) {
			return qs, err
		}
	}
	id, err := s.codeHolderOnDisk(code)
	if err != nil {
		return nil, err
	}
	return s.readSession(id)
}

// UpdateQRSession implements storage.QRSessions.
func (s *Store) UpdateQRSession(ctx context.Context, id storage.QRID, fn func(*storage.QRSession) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.inUnit(ctx, func(u *unit) error {
		st, err := s.stage(ctx, u, id)
		if err != nil {
			return err
		}
		return s.change(st, fn)
	})
}

// change runs fn on a copy of the staged session and keeps what it made of it.
func (s *Store) change(st *staged, fn func(*storage.QRSession) error) error {
	next := st.current.Clone()
	version := next.Version
	if err := fn(next); err != nil {
		return err
	}
	events := next.TakeEvents()
	raw, err := s.codec.encode(next)
	if err != nil {
		return err
	}
	if bytes.Equal(raw, st.after) {
		return nil
	}
	if next.Version <= version || next.ID != st.id || next.UserCodeHash != st.code {
		return errors.New("storage/bolt: an update must raise Version and keep ID and UserCodeHash")
	}
	st.after, st.current = raw, next
	st.rows = appendRows(st.rows, next.Version, events)
	return nil
}

// appendRows returns a new slice: the old one may be read by a write on its way to disk.
func appendRows(rows []row, version uint64, events []storage.AuditEvent) []row {
	rows = slices.Clip(rows)
	for _, e := range events {
		rows = append(rows, row{version: version, event: e})
	}
	return rows
}

// publishLazily makes the change visible before it is on disk. An opening waits for a durable
// change or for Close, and most never get either; a claim also waits for the next sweep.
func (s *Store) publishLazily(st *staged) {
	st.published = true
	due := st.current.ExpiresAt().Add(forgetAfter)
	if st.current.State != storage.QRPending {
		due = st.current.Claim.At
	}
	s.memory.put(st.id, st.after, st.rows, due, st.created)
	s.hub.wake(st.id)
}

// trailerLen is what follows the record of a session on disk: its version, and when its row of
// the expiry index is due. A write needs no more of the record that it replaces.
const trailerLen = 8 + timeLen

func withTrailer(raw []byte, qs *storage.QRSession) []byte {
	stored := make([]byte, 0, len(raw)+trailerLen)
	stored = append(stored, raw...)
	stored = binary.BigEndian.AppendUint64(stored, qs.Version)
	return appendTime(stored, qs.SweepAt())
}

// cutTrailer returns the record of a session as memory has it. The due time is that of
// appendTime.
func cutTrailer(stored []byte) (raw []byte, version uint64, due []byte, err error) {
	at := len(stored) - trailerLen
	if at < 1 {
		return nil, 0, nil, fmt.Errorf("%w: a session is cut off", errUnreadable)
	}
	return stored[:at:at], binary.BigEndian.Uint64(stored[at:]), stored[at+8:], nil
}

// storedSession decodes a session as it is on disk.
func (s *Store) storedSession(stored []byte) (*storage.QRSession, error) {
	raw, _, _, err := cutTrailer(stored)
	if err != nil {
		return nil, err
	}
	return decode[storage.QRSession](s.codec, raw)
}

// sessionWrite is a session on its way to disk.
type sessionWrite struct {
	qs     *storage.QRSession
	stored []byte
	expiry []byte
	rows   []row
	// codeless: another session has the user code.
	codeless bool
}

func newSessionWrite(raw []byte, qs *storage.QRSession, rows []row) *sessionWrite {
	return &sessionWrite{
		qs: qs, stored: withTrailer(raw, qs), expiry: expiryKey(qs.SweepAt(), expiryQR, qs.ID[:]), rows: rows,
	}
}

// putSession is storeSession as an operation of a unit.
func (s *Store) putSession(raw []byte, qs *storage.QRSession, rows []row) operation {
	w := newSessionWrite(raw, qs, rows)
	return func(tx *bbolt.Tx) error { return s.storeSession(tx, direct(tx), w) }
}

// storeSession writes a session, its index rows and the audit rows that disk does not have. An
// older version than the one on disk is left alone.
func (s *Store) storeSession(tx *bbolt.Tx, put putter, w *sessionWrite) error {
	onDisk, due := s.versionOnDisk(tx, w.qs.ID)
	if onDisk >= w.qs.Version {
		return nil
	}
	if onDisk == 0 {
		if err := s.putCode(tx, put, w); err != nil {
			return err
		}
		if err := s.putEvent(tx, put, w.qs.OpenedEvent()); err != nil {
			return err
		}
	}
	for _, r := range w.rows {
		if r.version > onDisk {
			if err := s.putEvent(tx, put, r.event); err != nil {
				return err
			}
		}
	}
	if err := moveExpiry(tx, put, due, w.expiry); err != nil {
		return err
	}
	return put(bucketQR, w.qs.ID[:], w.stored)
}

// versionOnDisk returns the version of the session in the file and when its index row is due,
// or nothing when there is no session that can be read: the sweep then removes its index row.
func (s *Store) versionOnDisk(tx *bbolt.Tx, id storage.QRID) (version uint64, due []byte) {
	stored := in(tx, bucketQR).Get(id[:])
	if stored == nil {
		return 0, nil
	}
	_, version, due, err := cutTrailer(stored)
	if err != nil {
		// Memory has what the file has lost.
		s.skipped(bucketQR, err)
	}
	return version, due
}

// moveExpiry puts a row into the expiry index in place of the one of an earlier due time, if
// there is one and it is another.
func moveExpiry(tx *bbolt.Tx, put putter, due, row []byte) error {
	if due != nil {
		if bytes.Equal(due, row[:timeLen]) {
			return nil
		}
		if err := in(tx, bucketExpiry).Delete(append(bytes.Clone(due), row[timeLen:]...)); err != nil {
			return err
		}
	}
	return put(bucketExpiry, row, nil)
}

// putCode gives the user code to the session unless a newer one has it: an expired session
// may reach the disk after the one that took over its code.
func (s *Store) putCode(tx *bbolt.Tx, put putter, w *sessionWrite) error {
	if w.codeless {
		return nil
	}
	qs := w.qs
	if holder := in(tx, bucketQRCode).Get(qs.UserCodeHash[:]); holder != nil {
		if was := in(tx, bucketQR).Get(holder); was != nil {
			other, err := s.storedSession(was)
			if err == nil && other.OpenedAt.After(qs.OpenedAt) {
				return nil
			}
		}
	}
	return put(bucketQRCode, qs.UserCodeHash[:], qs.ID[:])
}

// removeSession removes a session and its index rows.
func removeSession(tx *bbolt.Tx, qs *storage.QRSession) error {
	codes := in(tx, bucketQRCode)
	if bytes.Equal(codes.Get(qs.UserCodeHash[:]), qs.ID[:]) {
		if err := codes.Delete(qs.UserCodeHash[:]); err != nil {
			return err
		}
	}
	if err := removeExpiry(tx, qs.SweepAt(), expiryQR, qs.ID[:]); err != nil {
		return err
	}
	return in(tx, bucketQR).Delete(qs.ID[:])
}

func (s *Store) readSession(id storage.QRID) (*storage.QRSession, error) {
	raw, err := s.rawSession(id)
	if err != nil {
		return nil, err
	}
	return decode[storage.QRSession](s.codec, raw)
}

// rawSession looks in memory first: what is there is newer than what is on disk.
func (s *Store) rawSession(id storage.QRID) ([]byte, error) {
	if raw, ok := s.memory.get(id); ok {
		return raw, nil
	}
	stored, err := s.get(bucketQR, id[:])
	if err != nil {
		return nil, err
	}
	raw, _, _, err := cutTrailer(stored)
	return raw, err
}

func (s *Store) codeHolderOnDisk(code storage.UserCodeHash) (storage.QRID, error) {
	raw, err := s.get(bucketQRCode, code[:])
	if err != nil {
		return storage.QRID{}, err
	}
	return storage.QRID(raw), nil
}
