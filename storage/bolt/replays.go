package bolt

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
)

// maxReplays is how many identifiers are kept at once; each takes about a hundred bytes of
// memory. Who is refused beyond it tries again: they last minutes.
const maxReplays = 1_000_000

// replays are the identifiers that have been used. Memory answers; the file is for the next
// start.
type replays struct {
	mu   sync.Mutex
	used map[[32]byte]time.Time
}

func replayKey(id [32]byte, until time.Time) []byte {
	return append(appendTime(make([]byte, 0, timeLen+len(id)), until), id[:]...)
}

// take marks an identifier as used, unless it is.
func (r *replays) take(id [32]byte, until, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if end, used := r.used[id]; used && now.Before(end) {
		return storage.ErrConflict
	}
	if len(r.used) >= maxReplays {
		return storage.ErrFull
	}
	r.used[id] = until
	return nil
}

// forget drops what is due.
func (r *replays) forget(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, until := range r.used {
		if !now.Before(until) {
			delete(r.used, id)
		}
	}
}

// UseOnce implements storage.Replays.
func (s *Store) UseOnce(ctx context.Context, id [32]byte, until, now time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.replays.take(id, until, now); err != nil {
		return err
	}
	key := replayKey(id, until)
	done := func(err error) {
		if err != nil {
			s.logger.Error("a used identifier could not be written", slog.Any("error", err))
		}
	}
	write := func(tx *bbolt.Tx) error { return in(tx, bucketReplay).Put(key, nil) }
	return s.committer.enqueue(&request{writes: []operation{write}, done: done})
}

// loadReplays reads what an earlier process has seen.
func (s *Store) loadReplays() error {
	return s.db.View(func(tx *bbolt.Tx) error {
		return in(tx, bucketReplay).ForEach(func(key, _ []byte) error {
			if len(key) == timeLen+32 {
				s.replays.used[[32]byte(key[timeLen:])] = readTime(key)
			}
			return nil
		})
	})
}

// sweepReplays removes identifiers whose time is over.
func (s *Store) sweepReplays(now time.Time, limit int) (handled, removed int, err error) {
	s.replays.forget(now)
	keys, err := s.dueReplays(now, limit)
	if err != nil || len(keys) == 0 {
		return 0, 0, err
	}
	err = s.committer.do(nil, []operation{func(tx *bbolt.Tx) error {
		for _, key := range keys {
			if err := in(tx, bucketReplay).Delete(key); err != nil {
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

func (s *Store) dueReplays(now time.Time, limit int) ([][]byte, error) {
	var keys [][]byte
	end := appendTime(nil, now)
	err := s.db.View(func(tx *bbolt.Tx) error {
		cursor := in(tx, bucketReplay).Cursor()
		for key, _ := cursor.First(); key != nil && len(keys) < limit && bytes.Compare(key[:timeLen], end) <= 0; key, _ = cursor.Next() {
			keys = append(keys, bytes.Clone(key))
		}
		return nil
	})
	return keys, err
}
