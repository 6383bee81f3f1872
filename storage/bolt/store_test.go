package bolt_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
	"github.com/qrgrant/qrgrant/storage/storagetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, openStore)
}

// openStore opens a store in a directory of the test.
func openStore(t *testing.T) (storage.Store, func() storage.Store) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qrgrant.db")
	store := mustOpen(t, path, bolt.Options{})
	return store, func() storage.Store {
		if err := store.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		store = mustOpen(t, path, bolt.Options{})
		return store
	}
}

// mustOpen opens a store and closes it, and checks its indexes, when the test ends.
func mustOpen(t *testing.T, path string, o bolt.Options) *bolt.Store {
	t.Helper()
	store, err := bolt.Open(path, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if store.Health(context.WithoutCancel(t.Context())) == nil {
			if err := store.Check(); err != nil {
				t.Errorf("Check: %v", err)
			}
			if n := store.Locks(); n != 0 {
				t.Errorf("%d locks are left", n)
			}
		}
		if err := store.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return store
}
