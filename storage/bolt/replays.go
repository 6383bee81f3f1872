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

// replays are the identifiers that have been used. Memory answers; the file is for the next
// start.
type replays struct {
	max int

	mu sync.Mutex
	// used is until when an identifier counts, in nanoseconds: half of what a time takes.
	used   map[[32]byte]int64
	expiry expiry[[32]byte]
}

func newReplays(most int) *replays {
	return &replays{
		max: most, used: map[[32]byte]int64{},
		expiry: expiry[[32]byte]{ids: map[int64][][32]byte{}},
	}
}

func replayKey(id [32]byte, until time.Time) []byte {
	return append(appendTime(make([]byte, 0, timeLen+len(id)), until), id[:]...)
}

// take marks an identifier as used, unless it is. When there is no room, what is due makes some.
func (r *replays) take(id [32]byte, until, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	end, known := r.used[id]
	if known && nanosOf(now) < end {
		return storage.ErrConflict
	}
	for !known && len(r.used) >= r.max {
		if r.drop(now, maxSweep) == 0 {
			return storage.ErrFull
		}
	}
	r.keep(id, nanosOf(until))
	return nil
}

func (r *replays) keep(id [32]byte, until int64) {
	r.used[id] = until
	r.expiry.add(time.Unix(0, until), id)
}

// forget drops what is due, a part at a time: requests wait for the lock.
func (r *replays) forget(now time.Time) {
	for more := true; more; {
		r.mu.Lock()
		more = r.drop(now, maxSweep) > 0
		r.mu.Unlock()
	}
}

// drop looks at no more than limit identifiers that may be due and returns at how many. One that
// was used again after its time has a later entry.
func (r *replays) drop(now time.Time, limit int) int {
	due := r.expiry.due(now, limit)
	for _, id := range due {
		if end, known := r.used[id]; known && end <= nanosOf(now) {
			delete(r.used, id)
		}
	}
	return len(due)
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

// loadReplays reads what an earlier process has seen. Of two rows of one identifier the later
// comes last.
func (s *Store) loadReplays() error {
	return s.db.View(func(tx *bbolt.Tx) error {
		return in(tx, bucketReplay).ForEach(func(key, _ []byte) error {
			if len(key) == timeLen+32 {
				s.replays.keep([32]byte(key[timeLen:]), nanosOf(readTime(key)))
			}
			return nil
		})
	})
}

// sweepReplays removes identifiers whose time is over. A row that is still on its way to the
// file is for the next sweep.
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

// dueReplays returns the first rows that are due.
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
