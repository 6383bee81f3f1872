package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

func TestAPanicInAUnitIsItsOwn(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	var failed, stored atomic.Int64
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			key := []byte{byte(i)}
			write := func(tx *bbolt.Tx) error { return tx.Bucket([]byte("key")).Put(key, []byte{0}) }
			writes := []func(tx *bbolt.Tx) error{write}
			switch i % 8 {
			case 0:
				writes = append(writes, func(*bbolt.Tx) error { panic("boom") })
			case 1:
				writes = append(writes, func(*bbolt.Tx) error { return storage.ErrConflict })
			}
			err := store.Commit(nil, writes)
			switch {
			case err == nil:
				stored.Add(1)
			case i%8 > 1:
				t.Errorf("unit %d failed for another: %v", i, err)
			default:
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	if failed.Load() != 16 || stored.Load() != 48 {
		t.Errorf("%d failed, %d stored", failed.Load(), stored.Load())
	}
	rows := 0
	err := store.Commit([]func(tx *bbolt.Tx) error{func(tx *bbolt.Tx) error {
		rows = tx.Bucket([]byte("key")).Inspect().KeyN
		return nil
	}}, nil)
	if err != nil || rows != 48 {
		t.Errorf("%d rows, %v", rows, err)
	}
	if err := store.Commit(nil, []func(tx *bbolt.Tx) error{func(tx *bbolt.Tx) error {
		return tx.DeleteBucket([]byte("key"))
	}, func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("key"))
		return err
	}}); err != nil {
		t.Error(err)
	}
}

func TestChecksRunBeforeWrites(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	before := store.Transactions()
	wrote := false
	err := store.Commit(
		[]func(tx *bbolt.Tx) error{func(*bbolt.Tx) error { return storage.ErrConflict }},
		[]func(tx *bbolt.Tx) error{func(*bbolt.Tx) error { wrote = true; return nil }},
	)
	if !errors.Is(err, storage.ErrConflict) || wrote {
		t.Errorf("error %v, wrote %t", err, wrote)
	}
	if now := store.Transactions(); now != before {
		t.Errorf("a failed check was committed: transaction %d after %d", now, before)
	}
}

// TestWritersShareCommits holds the committer in one unit while others queue behind it.
func TestWritersShareCommits(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	entered, leave := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = store.Commit(nil, []func(tx *bbolt.Tx) error{func(*bbolt.Tx) error {
			close(entered)
			<-leave
			return nil
		}})
	})
	<-entered
	before := store.Transactions()
	for i := range 500 {
		store.RecordEvent(t.Context(), storage.AuditEvent{At: time.Unix(int64(i), 0), Type: storage.EventQRStepUp})
	}
	close(leave)
	wg.Wait()
	if err := store.PutClient(t.Context(), &storage.Client{ID: "last"}); err != nil {
		t.Fatal(err)
	}
	if commits := store.Transactions() - before; commits > 3 {
		t.Errorf("%d commits for the one that was held and 501 behind it", commits)
	}
	rows, _, err := store.Events(t.Context(), nil, 1000)
	if err != nil || len(rows) != 500 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
}

func TestTooManyEventsAreDropped(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	entered, leave := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = store.Commit(nil, []func(tx *bbolt.Tx) error{func(*bbolt.Tx) error {
			close(entered)
			<-leave
			return nil
		}})
	})
	<-entered
	for range 10_100 {
		store.RecordEvent(t.Context(), storage.AuditEvent{At: time.Unix(0, 0), Type: storage.EventQRStepUp})
	}
	close(leave)
	wg.Wait()
	if dropped := store.Stats().DroppedEvents; dropped != 100 {
		t.Errorf("%d events dropped", dropped)
	}
}

func TestAFullFileHeals(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{MaxSize: 2 << 20})
	now := time.Unix(1_800_000_000, 0)
	put := func(i int) error {
		return store.PutToken(ctx, &storage.Token{
			Kind: storage.TokenAccess, Signature: storage.TokenSignature{byte(i), byte(i >> 8)},
			Active: true, ExpiresAt: now, Data: make([]byte, 32<<10),
		})
	}
	stored := 0
	var err error
	for err == nil && stored < 1000 {
		if err = put(stored); err == nil {
			stored++
		}
	}
	if !errors.Is(err, storage.ErrFull) || stored < 10 {
		t.Fatalf("after %d tokens: %v", stored, err)
	}
	if _, err := store.Token(ctx, storage.TokenAccess, storage.TokenSignature{byte(stored)}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the refused token: %v", err)
	}
	if err := store.Health(ctx); err != nil {
		t.Errorf("Health: %v", err)
	}
	for more := true; more; {
		if _, more, err = store.Sweep(ctx, now, 5); err != nil {
			t.Fatalf("Sweep of a full file: %v", err)
		}
	}
	for i := range 5 {
		if err := put(1000 + i); err != nil {
			t.Errorf("after the sweep: %v", err)
		}
	}
}

// TestAFailingDiskStopsWriting closes the file under the store: what a failed commit left
// behind is unknown, so nothing may be built on it.
func TestAFailingDiskStopsWriting(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	var file *os.File
	options := bolt.WithOpenFile(bolt.Options{}, func(name string, flag int, mode fs.FileMode) (_ *os.File, err error) {
		file, err = os.OpenFile(name, flag, mode)
		return file, err
	})
	store, err := bolt.Open(filepath.Join(t.TempDir(), "db"), options)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	qs := opening(1, now)
	if err := store.CreateQRSession(ctx, qs); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	cancel := func() error {
		return store.UpdateQRSession(ctx, qs.ID, func(qs *storage.QRSession) error {
			qs.Cancel(now)
			return nil
		})
	}
	for name, call := range map[string]func() error{
		"the write that failed": cancel,
		"the next one":          cancel,
		"another record":        func() error { return store.PutClient(ctx, &storage.Client{ID: "c"}) },
		"an opening":            func() error { return store.CreateQRSession(ctx, opening(2, now)) },
		"a unit": func() error {
			return store.Tx(ctx, func(ctx context.Context) error { return store.PutClient(ctx, &storage.Client{ID: "c"}) })
		},
		"the health of the rest": func() error { return store.Health(ctx) },
	} {
		if name == "the write that failed" {
			continue
		}
		if cancelled := cancel(); cancelled == nil || errors.Is(cancelled, storage.ErrFull) {
			t.Errorf("a write to a closed file: %v", cancelled)
		}
		if err := call(); err == nil || !strings.Contains(err.Error(), "unknown") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := store.QRSession(ctx, qs.ID); err != nil || got.State != storage.QRPending {
		t.Errorf("after the failure: %v, %v", got, err)
	}
	_ = store.Close()
}

// opening returns the n-th session as opened at a time.
func opening(n int, at time.Time) *storage.QRSession {
	qs := &storage.QRSession{
		Grant: storage.QRGrantCode, ClientID: "tv", KeyID: "server-1", OpenedAt: at, Lifetime: storage.QRLifetime,
		UserCodeSealed: make([]byte, 36), Challenge: strings.Repeat("c", 43), Scopes: []string{"openid", "profile"},
		CheckCode: true, Interval: storage.PollInterval, Device: "Firefox on Linux", Address: "192.0.2.7",
	}
	copy(qs.ID[:], fmt.Sprintf("%016d", n))
	copy(qs.UserCodeHash[:], fmt.Sprintf("%016d", n))
	// The last bytes choose the shard; spread them as random ids would be.
	qs.ID[0] ^= byte(n * 7)
	return qs
}

func TestARevocationOfNothingCostsNoCommit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	store := mustOpen(t, path, bolt.Options{})
	token := &storage.Token{Kind: storage.TokenRefresh, Subject: "alice", ClientID: "web", Active: true, ExpiresAt: time.Unix(1000, 0)}
	if err := store.PutToken(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		filter storage.TokenFilter
		want   int
	}{
		{storage.TokenFilter{Subject: "bob", ClientID: "web"}, 0},
		{storage.TokenFilter{Subject: "alice", ClientID: "other"}, 0},
		{storage.TokenFilter{Subject: "alice", ClientID: "web"}, 1},
		{storage.TokenFilter{Subject: "alice", ClientID: "web"}, 0},
	} {
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		revoked, err := store.RevokeTokens(t.Context(), row.filter, time.Unix(1, 0))
		if err != nil || revoked != row.want {
			t.Errorf("%+v: %d, %v", row.filter, revoked, err)
		}
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(before, after) != (row.want == 0) {
			t.Errorf("%+v: the file has changed: %v", row.filter, !bytes.Equal(before, after))
		}
	}
}
