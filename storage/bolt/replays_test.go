package bolt_test

import (
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

func replayID(n int) (id [32]byte) {
	binary.BigEndian.PutUint64(id[:], scatter(n))
	return id
}

func TestUsedIdentifiersAreLimited(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{MaxReplays: 3})
	use := func(n int, at, lasts time.Duration) error {
		return store.UseOnce(t.Context(), replayID(n), instant().Add(at+lasts), instant().Add(at))
	}
	for n := range 3 {
		if err := use(n, 0, time.Duration(n+1)*time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []struct {
		n   int
		at  time.Duration
		err error
	}{
		{3, 59 * time.Second, storage.ErrFull},
		{0, 59 * time.Second, storage.ErrConflict},
		// The first is over, and no sweep has been here; memory looks at whole seconds.
		{3, 61 * time.Second, nil},
		{4, 61 * time.Second, storage.ErrFull},
		// Its own place is free to an identifier whose time is over.
		{1, 2 * time.Minute, nil},
		{4, 2 * time.Minute, storage.ErrFull},
	} {
		if err := use(want.n, want.at, time.Hour); !errors.Is(err, want.err) {
			t.Errorf("%d after %v: %v, want %v", want.n, want.at, err, want.err)
		}
	}
	if n := store.Replays(); n != 3 {
		t.Errorf("%d identifiers are kept", n)
	}
}

// TestASweepForgetsUsedIdentifiers looks at memory and at the file, with rows that are on their
// way when the sweep comes.
func TestASweepForgetsUsedIdentifiers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	store := mustOpen(t, path, bolt.Options{})
	const due, kept = 3000, 500
	for n := range due + kept {
		until := instant().Add(time.Minute)
		if n >= due {
			until = instant().Add(time.Hour)
		}
		if err := store.UseOnce(t.Context(), replayID(n), until, instant()); err != nil {
			t.Fatal(err)
		}
	}
	sweepAll := func() {
		t.Helper()
		for more := true; more; {
			var err error
			if _, more, err = store.Sweep(t.Context(), instant().Add(2*time.Minute), 700); err != nil {
				t.Fatal(err)
			}
		}
	}
	sweepAll()
	if n := store.Replays(); n != kept {
		t.Errorf("memory keeps %d identifiers, want %d", n, kept)
	}
	// A commit later every row is in place.
	if err := store.PutClient(t.Context(), &storage.Client{ID: "c"}); err != nil {
		t.Fatal(err)
	}
	sweepAll()
	if n := store.Rows("replay"); n != kept {
		t.Errorf("the file keeps %d identifiers, want %d", n, kept)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if n := mustOpen(t, path, bolt.Options{}).Replays(); n != kept {
		t.Errorf("%d identifiers after a restart, want %d", n, kept)
	}
}

// TestForgettingCostsWhatIsDue: one pass over so many identifiers takes several milliseconds on
// any machine.
func TestForgettingCostsWhatIsDue(t *testing.T) {
	t.Parallel()
	replays := bolt.NewReplays(1_000_000)
	for n := range 400_000 {
		if err := replays.Take(replayID(n), instant().Add(time.Hour+time.Duration(n)*time.Millisecond), instant()); err != nil {
			t.Fatal(err)
		}
	}
	fastest := time.Hour
	for range 20 {
		start := time.Now()
		replays.Forget(instant().Add(time.Minute))
		fastest = min(fastest, time.Since(start))
	}
	if fastest > time.Millisecond {
		t.Errorf("with nothing due it took %v", fastest)
	}
}

func TestAnIdentifierIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	ctx := context.WithoutCancel(t.Context())
	release, entered := store.HoldCommits()
	<-entered
	if err := store.UseOnce(ctx, replayID(1), instant().Add(time.Minute), instant()); err != nil {
		t.Error(err)
	}
	if err := store.UseOnce(ctx, replayID(1), instant().Add(time.Minute), instant()); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("before the row is on disk: %v", err)
	}
	release()
}
