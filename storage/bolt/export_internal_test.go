package bolt

import (
	"io/fs"
	"os"
	"time"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
)

// WithOpenFile returns o with another way to open the file for writing.
func WithOpenFile(o Options, open func(name string, flag int, mode fs.FileMode) (*os.File, error)) Options {
	o.openFile = open
	return o
}

// Commit runs one unit through the group commit.
func (s *Store) Commit(checks, writes []func(tx *bbolt.Tx) error) error {
	var c, w []operation
	for _, check := range checks {
		c = append(c, check)
	}
	for _, write := range writes {
		w = append(w, write)
	}
	return s.committer.do(c, w)
}

// Transactions is the number of the last commit.
func (s *Store) Transactions() (id int) {
	_ = s.db.View(func(tx *bbolt.Tx) error {
		id = tx.ID()
		return nil
	})
	return id
}

// EncodeRecord encodes any record.
func EncodeRecord(record any) ([]byte, error) {
	c, err := newCodec()
	if err != nil {
		return nil, err
	}
	return c.encode(record)
}

// DecodeRecord decodes a record of any type.
func DecodeRecord[T any](raw []byte) (*T, error) {
	c, err := newCodec()
	if err != nil {
		return nil, err
	}
	return decode[T](c, raw)
}

// OnDisk reads a session past memory.
func (s *Store) OnDisk(id storage.QRID) (*storage.QRSession, error) {
	raw, err := s.get(bucketQR, id[:])
	if err != nil {
		return nil, err
	}
	return s.storedSession(raw)
}

// SpoilInMemory makes the record of a session in memory unreadable.
func (s *Store) SpoilInMemory(id storage.QRID) {
	shard := &s.memory.records[shardOf(id)]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	shard.records[id] = []byte{recordFormat, 0xff}
}

// Locks is the number of locks that exist.
func (s *Store) Locks() (n int) {
	for i := range s.locks.shards {
		shard := &s.locks.shards[i]
		shard.mu.Lock()
		n += len(shard.held)
		shard.mu.Unlock()
	}
	return n
}

// Codes is the number of user codes in memory.
func (s *Store) Codes() (n int) {
	for i := range s.memory.codes {
		shard := &s.memory.codes[i]
		shard.mu.Lock()
		n += len(shard.holders)
		shard.mu.Unlock()
	}
	return n
}

// CachedClients is the number of decoded clients in memory.
func (s *Store) CachedClients() int {
	s.clients.mu.RLock()
	defer s.clients.mu.RUnlock()
	return len(s.clients.records)
}

// Replays is the number of used identifiers in memory.
func (s *Store) Replays() int {
	s.replays.mu.Lock()
	defer s.replays.mu.Unlock()
	return len(s.replays.used)
}

// Rows is the number of rows of a bucket.
func (s *Store) Rows(bucket string) (n int) {
	_ = s.db.View(func(tx *bbolt.Tx) error {
		n = in(tx, bucket).Stats().KeyN
		return nil
	})
	return n
}

// HoldCommits keeps the committer in a transaction, from when entered is closed until release.
func (s *Store) HoldCommits() (release func(), entered <-chan struct{}) {
	in, out := make(chan struct{}), make(chan struct{})
	hold := func(*bbolt.Tx) error {
		close(in)
		<-out
		return nil
	}
	_ = s.committer.enqueue(&request{checks: []operation{hold}, done: func(error) {}})
	return func() { close(out) }, in
}

// Replays are used identifiers in memory alone.
type Replays struct{ replays *replays }

// NewReplays keeps at most that many.
func NewReplays(most int) Replays { return Replays{newReplays(most)} }

// Take marks an identifier as used.
func (r Replays) Take(id [32]byte, until, now time.Time) error { return r.replays.take(id, until, now) }

// Forget drops what is due.
func (r Replays) Forget(now time.Time) { r.replays.forget(now) }
