package bolt_test

import (
	"bytes"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// spoil makes the first record of a bucket unreadable.
func spoil(t *testing.T, s *bolt.Store, bucket string) {
	t.Helper()
	err := s.Commit(nil, []func(*bbolt.Tx) error{func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		key, _ := b.Cursor().First()
		if key == nil {
			return errors.New("the bucket is empty")
		}
		return b.Put(bytes.Clone(key), []byte{1, 0xff})
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// One record that cannot be read stops neither this sweep nor the next.
func TestSweepPassesOverUnreadableRecords(t *testing.T) {
	t.Parallel()
	for _, bucket := range []string{"token", "session", "qr"} {
		t.Run(bucket, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			// Not by mustOpen, which would find the unreadable record at the end.
			store, err := bolt.Open(filepath.Join(t.TempDir(), "db"), bolt.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = store.Close() })
			for n := range 3 {
				sig := storage.TokenSignature{byte(n)}
				id := string(rune('a' + n))
				qs := opening(n, instant())
				err := errors.Join(
					store.PutToken(t.Context(), &storage.Token{Kind: storage.TokenAccess, Signature: sig, RequestID: id, Active: true, ExpiresAt: instant()}),
					store.PutSession(t.Context(), &storage.Session{ID: id, Subject: "ann", CreatedAt: instant(), ExpiresAt: instant()}),
					store.CreateQRSession(t.Context(), qs),
				)
				if err != nil {
					t.Fatal(err)
				}
				step(t, store, qs.ID, claim)
				step(t, store, qs.ID, func(qs *storage.QRSession) { qs.Cancel(qs.OpenedAt.Add(2 * time.Second)) })
			}
			spoil(t, store, bucket)
			later := instant().Add(72 * time.Hour)
			for range 2 {
				if _, more, err := store.Sweep(t.Context(), later, 1000); more || err != nil {
					t.Fatalf("Sweep: more %t, %v", more, err)
				}
			}
			left := 0
			err = store.Commit([]func(*bbolt.Tx) error{func(tx *bbolt.Tx) error {
				for _, name := range []string{"token", "session", "qr", "expiry"} {
					left += tx.Bucket([]byte(name)).Stats().KeyN
				}
				return nil
			}}, nil)
			if err != nil || left != 1 {
				t.Errorf("%d rows are left, %v; want the unreadable one", left, err)
			}
			if !strings.Contains(log.String(), "bucket="+bucket) {
				t.Errorf("the log does not tell: %s", log.String())
			}
		})
	}
}

func TestSweepPassesOverUnreadableMemory(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	for n := range 3 {
		if err := store.CreateQRSession(t.Context(), opening(n, instant())); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 2 {
		store.SpoilInMemory(opening(n, instant()).ID)
	}
	if n, more, err := store.Sweep(t.Context(), instant().Add(time.Hour), 1000); n != 1 || more || err != nil {
		t.Errorf("Sweep: %d, %t, %v", n, more, err)
	}
	if left := store.Stats().PendingSessions; left != 0 {
		t.Errorf("%d sessions are left", left)
	}
}

// A session that cannot be read, in memory or on disk, does not take the others with it.
func TestCloseWritesTheOthers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	store := mustOpen(t, path, bolt.Options{})
	for n := range 20 {
		if err := store.CreateQRSession(t.Context(), opening(n, instant())); err != nil {
			t.Fatal(err)
		}
	}
	spoilt, onDisk := opening(3, instant()).ID, opening(4, instant()).ID
	store.SpoilInMemory(spoilt)
	err := store.Commit(nil, []func(*bbolt.Tx) error{func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("qr")).Put(onDisk[:], []byte{1, 0xff})
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err == nil || !strings.Contains(err.Error(), spoilt.Hash()) || strings.Count(err.Error(), "is lost") != 1 {
		t.Errorf("Close: %v", err)
	}
	store = mustOpen(t, path, bolt.Options{})
	for n := range 20 {
		id := opening(n, instant()).ID
		if _, err := store.QRSession(t.Context(), id); (err != nil) != (id == spoilt) {
			t.Errorf("session %d: %v", n, err)
		}
	}
}
