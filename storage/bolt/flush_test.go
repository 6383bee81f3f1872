package bolt_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

func TestCloseSkipsOpeningsThatHadExpired(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	store := mustOpen(t, path, bolt.Options{})
	old, fresh := opening(1, instant()), opening(2, instant().Add(time.Minute))
	for _, qs := range []*storage.QRSession{old, fresh} {
		if err := store.CreateQRSession(t.Context(), qs); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := store.Sweep(t.Context(), old.ExpiresAt(), 100); err != nil {
		t.Fatal(err)
	}
	if _, err := store.QRSession(t.Context(), old.ID); err != nil {
		t.Errorf("before Close: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	store = mustOpen(t, path, bolt.Options{})
	if _, err := store.QRSession(t.Context(), old.ID); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the expired one: %v", err)
	}
	if _, err := store.QRSession(t.Context(), fresh.ID); err != nil {
		t.Errorf("the one that had time left: %v", err)
	}
}

// TestCloseGivesAUserCodeToTheNewer has two sessions with one code in memory; mustOpen checks
// the indexes. The order of their ids must not matter.
func TestCloseGivesAUserCodeToTheNewer(t *testing.T) {
	t.Parallel()
	for _, n := range []struct{ first, second int }{{1, 2}, {2, 1}} {
		path := filepath.Join(t.TempDir(), "db")
		store := mustOpen(t, path, bolt.Options{})
		older := opening(n.first, instant())
		newer := opening(n.second, older.ExpiresAt().Add(time.Second))
		newer.UserCodeHash = older.UserCodeHash
		for _, qs := range []*storage.QRSession{older, newer} {
			if err := store.CreateQRSession(t.Context(), qs); err != nil {
				t.Fatal(err)
			}
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		store = mustOpen(t, path, bolt.Options{})
		if got, err := store.QRSessionByUserCode(t.Context(), newer.UserCodeHash); err != nil || got.ID != newer.ID {
			t.Errorf("the code leads to %v, %v", got, err)
		}
		if _, err := store.QRSession(t.Context(), older.ID); err != nil {
			t.Errorf("the older one: %v", err)
		}
	}
}
