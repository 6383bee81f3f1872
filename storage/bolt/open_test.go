package bolt_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

const pageSize = 4096

// filled makes a database whose buckets have branch pages, and returns its bytes up to the
// last page in use.
func filled(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "filled.db")
	store := mustOpen(t, path, bolt.Options{})
	var writes []func(tx *bbolt.Tx) error
	for i := range 1500 {
		raw, err := bolt.EncodeRecord(&storage.Client{ID: clientID(i), Name: strings.Repeat("n", 100)})
		if err != nil {
			t.Fatal(err)
		}
		writes = append(writes, func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("client")).Put([]byte(clientID(i)), raw)
		})
	}
	for _, batch := range [][]func(tx *bbolt.Tx) error{writes, writes[:1]} {
		if err := store.Commit(nil, batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw[:used(t, path)]
}

// used is the size of the file without the room it has left to grow.
func used(t *testing.T, path string) (size int64) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		size = tx.Size()
		return nil
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return size
}

func clientID(i int) string { return string(binary.BigEndian.AppendUint32(nil, uint32(i))) + "-client" }

// refused opens the file, which must fail with want in one line and leave it as it is.
func refused(t *testing.T, path string, want error) {
	t.Helper()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	store, err := bolt.Open(path, bolt.Options{LockTimeout: 50 * time.Millisecond})
	if err == nil {
		_ = store.Close()
		t.Fatal("the file was opened")
	}
	if !errors.Is(err, want) || !strings.HasPrefix(err.Error(), "database "+path+" "+want.Error()) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q, want one line about %q", err, want)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(before) != sha256.Sum256(after) {
		t.Error("the file was changed")
	}
}

func TestOpenRefusesDamagedFiles(t *testing.T) {
	t.Parallel()
	sound := filled(t)
	for name, damage := range map[string]func(raw []byte) []byte{
		"both meta pages zeroed": func(raw []byte) []byte {
			clear(raw[:2*pageSize])
			return raw
		},
		"everything zeroed": func(raw []byte) []byte {
			clear(raw)
			return raw
		},
		"data pages zeroed": func(raw []byte) []byte {
			clear(raw[2*pageSize:])
			return raw
		},
		"the last page zeroed": func(raw []byte) []byte {
			clear(raw[len(raw)-pageSize:])
			return raw
		},
		"cut in half":           func(raw []byte) []byte { return raw[:len(raw)/2] },
		"cut by one byte":       func(raw []byte) []byte { return raw[:len(raw)-1] },
		"cut to one page":       func(raw []byte) []byte { return raw[:pageSize] },
		"cut to the meta pages": func(raw []byte) []byte { return raw[:2*pageSize] },
		"pages filled with garbage": func(raw []byte) []byte {
			random := rand.New(rand.NewPCG(1, 2))
			for i := 2 * pageSize; i < len(raw); i++ {
				raw[i] = byte(random.Uint32())
			}
			return raw
		},
		"pages without a kind": func(raw []byte) []byte {
			for page := 2; page < len(raw)/pageSize; page++ {
				clear(raw[page*pageSize+8 : page*pageSize+10])
			}
			return raw
		},
		"keys out of order": func(raw []byte) []byte {
			for page := 2; page < len(raw)/pageSize; page++ {
				// The leaves with clients only: in the root this would lose a bucket.
				head := raw[page*pageSize : (page+1)*pageSize]
				if binary.NativeEndian.Uint16(head[8:]) == 2 && bytes.Contains(head, []byte("-client")) {
					key := 32 + int(binary.NativeEndian.Uint32(head[32+4:]))
					clear(head[key : key+4])
				}
			}
			return raw
		},
		"keys that belong to another page": func(raw []byte) []byte {
			for page := 2; page < len(raw)/pageSize; page++ {
				head := raw[page*pageSize:]
				if count := int(binary.NativeEndian.Uint16(head[10:])); count > 2 && binary.NativeEndian.Uint16(head[8:]) == 2 {
					last := 16 + 16*(count-1)
					head[last+int(binary.NativeEndian.Uint32(head[last+4:]))] = 0xff
				}
			}
			return raw
		},
		"a branch that leads to itself": func(raw []byte) []byte {
			for page := 2; page < len(raw)/pageSize; page++ {
				head := raw[page*pageSize:]
				if binary.NativeEndian.Uint16(head[8:]) == 1 {
					binary.NativeEndian.PutUint16(head[10:], 1)
					binary.NativeEndian.PutUint64(head[16+8:], uint64(page))
				}
			}
			return raw
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "damaged.db")
			if err := os.WriteFile(path, damage(bytes.Clone(sound)), 0o600); err != nil {
				t.Fatal(err)
			}
			refused(t, path, bolt.ErrCorrupt)
		})
	}
}

func TestOpenRefusesForeignFiles(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(t *testing.T, path string){
		"a text": func(t *testing.T, path string) {
			t.Helper()
			text := strings.Repeat("issuer: https://login.example\n", 1000)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a short text": func(t *testing.T, path string) {
			t.Helper()
			if err := os.WriteFile(path, []byte("hello\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a zip": func(t *testing.T, path string) {
			t.Helper()
			var buf bytes.Buffer
			archive := zip.NewWriter(&buf)
			w, err := archive.Create("file")
			if err == nil {
				_, err = w.Write(make([]byte, 100_000))
			}
			if err = errors.Join(err, archive.Close(), os.WriteFile(path, buf.Bytes(), 0o600)); err != nil {
				t.Fatal(err)
			}
		},
		"another program's database": func(t *testing.T, path string) {
			t.Helper()
			writeBolt(t, path, "meta", "magic", "another")
		},
		"another program's database without our bucket": func(t *testing.T, path string) {
			t.Helper()
			writeBolt(t, path, "things", "a", "b")
		},
		"a newer schema": func(t *testing.T, path string) {
			t.Helper()
			if err := mustOpen(t, path, bolt.Options{}).Close(); err != nil {
				t.Fatal(err)
			}
			writeBolt(t, path, "meta", "schema", "\x00\x00\x00\x05")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "foreign.db")
			write(t, path)
			refused(t, path, bolt.ErrForeign)
		})
	}
	t.Run("a directory", func(t *testing.T) {
		t.Parallel()
		if _, err := bolt.Open(t.TempDir(), bolt.Options{}); !errors.Is(err, bolt.ErrForeign) {
			t.Errorf("error %v", err)
		}
	})
}

func writeBolt(t *testing.T, path, bucket, key, value string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		return b.Put([]byte(key), []byte(value))
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestOpenNeverPanics damages a file at random places: whatever Open lets through must also
// be readable and writable, and nothing may take the process down.
func TestOpenNeverPanics(t *testing.T) {
	t.Parallel()
	sound := filled(t)
	for seed := range uint64(4) {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 2026))
			path := filepath.Join(t.TempDir(), "damaged.db")
			for range 60 {
				raw := bytes.Clone(sound)
				for range 1 + random.IntN(3) {
					// The heads of pages and of their entries, where damage hurts most.
					at := pageSize*random.IntN(len(raw)/pageSize) + random.IntN(64)
					for i := range 1 + random.IntN(8) {
						raw[at+i] = byte(random.Uint32())
					}
				}
				if err := os.WriteFile(path, raw, 0o600); err != nil {
					t.Fatal(err)
				}
				store, err := bolt.Open(path, bolt.Options{})
				if err != nil {
					refused(t, path, reason(t, err))
					continue
				}
				_, _ = store.Clients(t.Context())
				_ = store.PutClient(t.Context(), &storage.Client{ID: clientID(random.IntN(1500))})
				if err := store.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			}
		})
	}
}

func reason(t *testing.T, err error) error {
	t.Helper()
	for _, want := range []error{bolt.ErrCorrupt, bolt.ErrForeign} {
		if errors.Is(err, want) {
			return want
		}
	}
	t.Fatalf("unclear error: %v", err)
	return nil
}

func TestOpenInitialises(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T, path string){
		"a missing file": func(*testing.T, string) {},
		"an empty file": func(t *testing.T, path string) {
			t.Helper()
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a file without buckets": func(t *testing.T, path string) {
			t.Helper()
			db, err := bbolt.Open(path, 0o600, nil)
			if err = errors.Join(err, db.Close()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "new.db")
			prepare(t, path)
			for range 2 {
				store := mustOpen(t, path, bolt.Options{})
				if err := store.PutClient(t.Context(), &storage.Client{ID: "c"}); err != nil {
					t.Fatal(err)
				}
				if err := store.Close(); err != nil {
					t.Fatal(err)
				}
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v", info.Mode())
			}
		})
	}
}

// TestOpenUpgrades: a file of an older schema keeps what it has and gets the buckets it lacks,
// and the schema with them, so that an older program refuses it from then on.
func TestOpenUpgrades(t *testing.T) {
	t.Parallel()
	since := [][]string{2: {"consent", "session_client"}, 3: {"logout", "logout_due"}, 4: {"replay"}}
	for schema := 1; schema < len(since); schema++ {
		t.Run(fmt.Sprint("from schema ", schema), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "old.db")
			store := mustOpen(t, path, bolt.Options{})
			if err := errors.Join(store.PutClient(t.Context(), &storage.Client{ID: "web"}), store.Close()); err != nil {
				t.Fatal(err)
			}
			writeBolt(t, path, "meta", "schema", string(binary.BigEndian.AppendUint32(nil, uint32(schema))))
			for _, lacking := range since[schema+1:] {
				deleteBuckets(t, path, lacking...)
			}
			store = mustOpen(t, path, bolt.Options{})
			if _, err := store.Client(t.Context(), "web"); err != nil {
				t.Errorf("a client of the old file: %v", err)
			}
			err := errors.Join(
				store.PutConsent(t.Context(), &storage.Consent{Subject: "ann", ClientID: "web"}),
				store.AddSessionClient(t.Context(), "s", "web"),
				store.DeleteLogoutNotice(t.Context(), "s", "web"),
				store.UseOnce(t.Context(), [32]byte{1}, instant().Add(time.Minute), instant()),
				store.Close(),
			)
			if err != nil {
				t.Fatal(err)
			}
			if got := readBolt(t, path, "meta", "schema"); got != "\x00\x00\x00\x04" {
				t.Errorf("schema %x", got)
			}
		})
	}
}

// TestOpenMissesABucket: a file that lacks what its schema has is damaged, not old.
func TestOpenMissesABucket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "cut.db")
	if err := mustOpen(t, path, bolt.Options{}).Close(); err != nil {
		t.Fatal(err)
	}
	deleteBuckets(t, path, "replay")
	refused(t, path, bolt.ErrCorrupt)
}

func deleteBuckets(t *testing.T, path string, names ...string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		var errs []error
		for _, name := range names {
			errs = append(errs, tx.DeleteBucket([]byte(name)))
		}
		return errors.Join(errs...)
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func readBolt(t *testing.T, path, bucket, key string) (value string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		value = string(tx.Bucket([]byte(bucket)).Get([]byte(key)))
		return nil
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestOpenRefusesAFileInUse(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "busy.db")
	store := mustOpen(t, path, bolt.Options{})
	refused(t, path, bolt.ErrInUse)
	_, err := bolt.Open(path, bolt.Options{LockTimeout: 50 * time.Millisecond})
	if want := "database " + path + " is in use by another process"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if err := store.PutClient(t.Context(), &storage.Client{ID: "c"}); err != nil {
		t.Errorf("the first process was disturbed: %v", err)
	}
}

// TestOpenFallsBackOneCommit states a limit of the file format rather than a wish: see doc.go.
func TestOpenFallsBackOneCommit(t *testing.T) {
	t.Parallel()
	raw := filled(t)
	for page := range 2 {
		path := filepath.Join(t.TempDir(), "meta.db")
		damaged := bytes.Clone(raw)
		clear(damaged[page*pageSize : (page+1)*pageSize])
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		store := mustOpen(t, path, bolt.Options{})
		if clients, err := store.Clients(t.Context()); err != nil || len(clients) != 1500 {
			t.Errorf("meta page %d lost: %d clients, %v", page, len(clients), err)
		}
	}
}
