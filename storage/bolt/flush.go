package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
)

// maxFlush is how many sessions Close writes in one transaction. The buckets are keyed by
// hashes, so each transaction writes most of their pages again, however much is in it.
const maxFlush = 50_000

// putter stores one row, now or later.
type putter func(bucket string, key, value []byte) error

func direct(tx *bbolt.Tx) putter {
	return func(bucket string, key, value []byte) error { return in(tx, bucket).Put(key, value) }
}

// bulk collects the rows of many records. bbolt keeps a page that grows as one sorted list
// until the commit, so rows in any other order cost the square of their number.
type bulk map[string][]keyValue

type keyValue struct{ key, value []byte }

func (b bulk) put(bucket string, key, value []byte) error {
	b[bucket] = append(b[bucket], keyValue{key, value})
	return nil
}

// store writes the rows of each bucket in the order of their keys.
func (b bulk) store(tx *bbolt.Tx) error {
	for bucket, rows := range b {
		slices.SortStableFunc(rows, func(x, y keyValue) int { return bytes.Compare(x.key, y.key) })
		for _, r := range rows {
			if err := in(tx, bucket).Put(r.key, r.value); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush writes the sessions in memory by id. One that cannot be read does not keep the others
// from disk.
func (s *Store) flush() error {
	ids := s.memory.ids()
	slices.SortFunc(ids, func(a, b storage.QRID) int { return bytes.Compare(a[:], b[:]) })
	var unreadable error
	for some := range slices.Chunk(ids, maxFlush) {
		var sessions []*sessionWrite
		for _, id := range some {
			w, err := s.unwritten(id)
			if err != nil {
				unreadable = errors.Join(unreadable, fmt.Errorf("storage/bolt: session %s is lost: %w", id.Hash(), err))
			}
			if w != nil {
				sessions = append(sessions, w)
			}
		}
		if len(sessions) == 0 {
			continue
		}
		err := s.committer.do(nil, []operation{func(tx *bbolt.Tx) error {
			rows := bulk{}
			for _, w := range sessions {
				if err := s.storeSession(tx, rows.put, w); err != nil {
					return err
				}
			}
			return rows.store(tx)
		}})
		if err != nil {
			return errors.Join(unreadable, err)
		}
	}
	return unreadable
}

// unwritten returns the session as memory alone has it, or nil when nobody needs it any more.
func (s *Store) unwritten(id storage.QRID) (*sessionWrite, error) {
	rows := s.memory.rows(id)
	raw, ok := s.memory.get(id)
	if !ok {
		return nil, nil
	}
	qs, err := decode[storage.QRSession](s.codec, raw)
	if err != nil {
		return nil, err
	}
	if now := s.swept.Load(); now != nil && qs.State == storage.QRPending && !now.Before(qs.ExpiresAt()) {
		return nil, nil
	}
	w := newSessionWrite(raw, qs, rows)
	// Rows of one bulk do not see each other: of two sessions with one code the memory knows
	// the holder.
	if holder, known := s.memory.holder(qs.UserCodeHash); known && holder != id {
		_, w.codeless = s.memory.get(holder)
	}
	return w, nil
}
