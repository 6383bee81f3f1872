package main_test

import (
	"bytes"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	qrgrant "github.com/qrgrant/qrgrant/cmd/qrgrant"
	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// What the database has to say stands in the log of the server.
func TestTheDatabaseLogs(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.db")
	past := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	made, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = made.PutToken(t.Context(), &storage.Token{Kind: storage.TokenAccess, Signature: storage.TokenSignature{1}, ExpiresAt: past})
	if err := errors.Join(err, made.Close()); err != nil {
		t.Fatal(err)
	}
	file, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = file.Update(func(tx *bbolt.Tx) error {
		tokens := tx.Bucket([]byte("token"))
		key, _ := tokens.Cursor().First()
		return tokens.Put(bytes.Clone(key), []byte{0xff})
	})
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	store, err := qrgrant.OpenStore(path, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = store.Sweep(t.Context(), past.Add(time.Hour), 10)
	if err := errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "cannot be read") {
		t.Errorf("the log says %q", log.String())
	}
}
