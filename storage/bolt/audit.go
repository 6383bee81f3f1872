package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync/atomic"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
)

// maxWaitingEvents bounds the rows of RecordEvent that wait for a commit: whoever causes
// them, such as a guesser of frames, must not fill memory.
const maxWaitingEvents = 10_000

// eventQueue counts the rows that wait and those that were dropped.
type eventQueue struct {
	waiting atomic.Int64
	dropped atomic.Uint64
}

// putEvent appends one row. The sequence tells rows of one instant apart.
func (s *Store) putEvent(tx *bbolt.Tx, put putter, e storage.AuditEvent) error {
	trail := in(tx, bucketAudit)
	// Rows come nearly in the order of their keys: a page that is full stays full.
	trail.FillPercent = 0.9
	sequence, err := trail.NextSequence()
	if err != nil {
		return err
	}
	key := binary.BigEndian.AppendUint64(appendTime(nil, e.At), sequence)
	raw, err := s.codec.encode(e)
	if err != nil {
		return err
	}
	return put(bucketAudit, key, raw)
}

// RecordEvent implements storage.Audit.
func (s *Store) RecordEvent(_ context.Context, e storage.AuditEvent) {
	if s.waiting.waiting.Add(1) > maxWaitingEvents {
		s.waiting.waiting.Add(-1)
		s.waiting.dropped.Add(1)
		return
	}
	done := func(err error) {
		s.waiting.waiting.Add(-1)
		if err != nil {
			s.waiting.dropped.Add(1)
			s.logger.Error("an audit row could not be written", slog.String("type", e.Type), slog.Any("error", err))
		}
	}
	write := func(tx *bbolt.Tx) error { return s.putEvent(tx, direct(tx), e) }
	if err := s.committer.enqueue(&request{writes: []operation{write}, done: done}); err != nil {
		done(err)
	}
}

// Events implements storage.Audit. A limit below one returns no row.
func (s *Store) Events(ctx context.Context, after []byte, limit int) (events []storage.AuditEvent, next []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	next = bytes.Clone(after)
	err = s.db.View(func(tx *bbolt.Tx) error {
		cursor := in(tx, bucketAudit).Cursor()
		key, raw := cursor.Seek(after)
		if bytes.Equal(key, after) && key != nil {
			key, raw = cursor.Next()
		}
		for ; key != nil && len(events) < limit; key, raw = cursor.Next() {
			event, err := decode[storage.AuditEvent](s.codec, raw)
			if err != nil {
				return err
			}
			events = append(events, *event)
			next = bytes.Clone(key)
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("storage/bolt: audit: %w", err)
	}
	return events, next, nil
}
