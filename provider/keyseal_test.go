package provider_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// sealedStore opens a bolt file that several providers of a test use one after the other.
func sealedStore(t *testing.T) storage.Store {
	t.Helper()
	store, err := bolt.Open(filepath.Join(t.TempDir(), "x.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// sealOf is the n-th sealing key of a test.
func sealOf(n byte) []byte { return bytes.Repeat([]byte{n}, 32) }

// openWith starts a provider on the store with these seals and ends it.
func openWith(t *testing.T, store storage.Store, seals ...[]byte) error {
	t.Helper()
	p, err := provider.New(t.Context(), provider.Config{
		Issuer: "https://id.example", Store: store, KeySeals: seals, Now: providertest.NewClock().Now,
	})
	if err != nil {
		return err
	}
	return p.Close()
}

func mustOpenWith(t *testing.T, store storage.Store, seals ...[]byte) {
	t.Helper()
	if err := openWith(t, store, seals...); err != nil {
		t.Fatal(err)
	}
}

func storedKeys(t *testing.T, store storage.Store) []*storage.Key {
	t.Helper()
	keys, err := store.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// sealedBy lists what the keys of a store are sealed by, each once.
func sealedBy(t *testing.T, store storage.Store) map[string]int {
	t.Helper()
	names := map[string]int{}
	for _, k := range storedKeys(t, store) {
		names[k.SealedBy]++
	}
	return names
}

// wantUntouched checks that a start fails and leaves every key as it stands.
func wantUntouched(t *testing.T, store storage.Store, fails func() error, want func(err error) bool) {
	t.Helper()
	before := storedKeys(t, store)
	if err := fails(); err == nil || !want(err) {
		t.Errorf("the start: %v", err)
	}
	if diff := cmp.Diff(before, storedKeys(t, store)); diff != "" {
		t.Errorf("the keys have changed: %s", diff)
	}
}

func isErrKeySeal(err error) bool { return errors.Is(err, provider.ErrKeySeal) }

// Sealed keys do not stand in the store, survive a restart, and open under their seal only.
func TestKeySeal(t *testing.T) {
	t.Parallel()
	store := sealedStore(t)
	mustOpenWith(t, store, sealOf(7))
	keys := storedKeys(t, store)
	if len(keys) != 4 {
		t.Fatalf("%d keys", len(keys))
	}
	for _, k := range keys {
		if k.SealedBy == "" || k.Use == storage.KeyServer && len(k.Secret) == 32 {
			t.Errorf("%v is in the clear", k)
		}
		if _, err := x509.ParsePKCS8PrivateKey(k.Secret); err == nil {
			t.Errorf("%v is in the clear", k)
		}
	}
	if err := openWith(t, store, sealOf(7)); err != nil {
		t.Errorf("a restart: %v", err)
	}
	wantUntouched(t, store, func() error { return openWith(t, store) }, isErrKeySeal)
	wantUntouched(t, store, func() error { return openWith(t, store, sealOf(8), sealOf(9)) }, isErrKeySeal)
	// Whoever writes to the store cannot make an old key sign again.
	keys[0].ActiveFrom = keys[0].ActiveSince().AddDate(0, 0, 1)
	if err := store.ReplaceKey(t.Context(), keys[0]); err != nil {
		t.Fatal(err)
	}
	wantUntouched(t, store, func() error { return openWith(t, store, sealOf(7)) }, func(err error) bool {
		return strings.Contains(err.Error(), "was changed in the store")
	})
}

// Keys that were in the clear are sealed by the first start with a seal, and go on.
func TestKeySealLater(t *testing.T) {
	t.Parallel()
	store := sealedStore(t)
	plain, log := providertest.NewServer(t, providertest.Options{Store: store}), &logbook{}
	sealed := providertest.NewServer(t, providertest.Options{
		Store: store, Logger: log.logger(), Change: func(c *provider.Config) { c.KeySeals = [][]byte{sealOf(7)} },
	})
	if diff := cmp.Diff(kids(t, plain), kids(t, sealed)); diff != "" {
		t.Error(diff)
	}
	if names := sealedBy(t, store); len(names) != 1 || names[""] != 0 {
		t.Errorf("sealed by %v", names)
	}
	if !strings.Contains(log.text(), "is sealed now") || strings.Contains(log.text(), "private keys are kept in the clear") {
		t.Errorf("the log: %s", log.text())
	}
	// The process without a seal makes nothing in the clear any more.
	plain.Clock.Advance(89 * day)
	if _, err := plain.Provider.Sweep(t.Context()); !isErrKeySeal(err) {
		t.Errorf("a sweep without the seal: %v", err)
	}
	if names := sealedBy(t, store); names[""] != 0 {
		t.Errorf("sealed by %v", names)
	}
}

// A new first key takes over what an older one has sealed; then the older one can go, and what it
// sealed is the same key as before.
func TestKeySealReplaced(t *testing.T) {
	t.Parallel()
	store, log := sealedStore(t), &logbook{}
	withSeals := func(seals ...[]byte) providertest.Options {
		return providertest.Options{Store: store, Logger: log.logger(), Change: func(c *provider.Config) { c.KeySeals = seals }}
	}
	before := kids(t, providertest.NewServer(t, withSeals(sealOf(7))))
	old := sealedBy(t, store)
	if diff := cmp.Diff(before, kids(t, providertest.NewServer(t, withSeals(sealOf(8), sealOf(7))))); diff != "" {
		t.Error(diff)
	}
	after := sealedBy(t, store)
	if len(after) != 1 || cmp.Equal(old, after) || !strings.Contains(log.text(), "sealed under the first one now") {
		t.Errorf("sealed by %v, then %v; %s", old, after, log.text())
	}
	if diff := cmp.Diff(before, kids(t, providertest.NewServer(t, withSeals(sealOf(8))))); diff != "" {
		t.Error(diff)
	}
	// Nothing is sealed anew without a reason.
	wantSame := storedKeys(t, store)
	mustOpenWith(t, store, sealOf(8), sealOf(7))
	if diff := cmp.Diff(wantSame, storedKeys(t, store)); diff != "" {
		t.Error(diff)
	}
	wantUntouched(t, store, func() error { return openWith(t, store, sealOf(7)) }, isErrKeySeal)
}

// failsSealing is a store that loses its disk at the n-th replacement of a key.
type failsSealing struct {
	storage.Store
	left int
}

func (f *failsSealing) ReplaceKey(ctx context.Context, k *storage.Key) error {
	if f.left--; f.left < 0 {
		return storage.ErrFull
	}
	return f.Store.ReplaceKey(ctx, k)
}

// A start that breaks off while it seals leaves every key as it was, sealed or in the clear, and
// the next start does all of it.
func TestKeySealBreaksOff(t *testing.T) {
	t.Parallel()
	for name, first := range map[string][][]byte{"in the clear": nil, "under an older key": {sealOf(7)}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := sealedStore(t)
			mustOpenWith(t, store, first...)
			for left := range 3 {
				breaking := &failsSealing{Store: store, left: left}
				wantUntouched(t, store, func() error { return openWith(t, breaking, sealOf(8), sealOf(7)) }, func(err error) bool {
					return errors.Is(err, storage.ErrFull)
				})
			}
			mustOpenWith(t, store, first...)
			mustOpenWith(t, store, sealOf(8), sealOf(7))
			mustOpenWith(t, store, sealOf(8))
		})
	}
}

// Once the keys are sealed, one in the clear is a stranger's: no start takes it, and a running
// provider neither publishes it nor signs with it.
func TestKeySealRefusesPlantedKeys(t *testing.T) {
	t.Parallel()
	strangers := sealedStore(t)
	mustOpenWith(t, strangers)
	for _, planted := range storedKeys(t, strangers) {
		t.Run(planted.Algorithm+string(planted.Use), func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) { c.KeySeals = [][]byte{sealOf(7)} }})
			own := kids(t, s)
			planted.ID, planted.ActiveFrom = "planted", s.Clock.Now()
			if err := s.Store.PutKey(t.Context(), planted); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Provider.Sweep(t.Context()); err == nil || !strings.Contains(err.Error(), `key "planted" lies in the clear`) {
				t.Errorf("a sweep: %v", err)
			}
			if _, kid := signedBy(t, s); kid == "planted" {
				t.Error("the planted key signs")
			}
			if diff := cmp.Diff(own, kids(t, s)); diff != "" {
				t.Errorf("published: %s", diff)
			}
			wantUntouched(t, s.Store, func() error { return openWith(t, s.Store, sealOf(7)) }, func(err error) bool {
				return strings.Contains(err.Error(), `key "planted" lies in the clear`)
			})
			// A new seal is no reason to take it either.
			wantUntouched(t, s.Store, func() error { return openWith(t, s.Store, sealOf(8), sealOf(7)) }, func(err error) bool {
				return strings.Contains(err.Error(), `key "planted" lies in the clear`)
			})
			// Nor does it keep those that are due from being made.
			before := len(storedKeys(t, s.Store))
			s.Clock.Advance(89 * day)
			if _, err := s.Provider.Sweep(t.Context()); err == nil || !strings.Contains(err.Error(), `key "planted" lies in the clear`) {
				t.Errorf("a later sweep: %v", err)
			}
			if made := len(storedKeys(t, s.Store)) - before; made < 2 {
				t.Errorf("%d keys are made", made)
			}
			if got := kids(t, s); len(got) != len(own)+1 || slices.Contains(got, "planted") {
				t.Errorf("published: %v", got)
			}
		})
	}
}

// One row under an unknown seal does not stop the rotation; when nothing is under the own seal any
// more, other processes have sealed anew, and what this one makes would keep them from starting.
func TestKeySealRotatesUnlessOthersSealAnew(t *testing.T) {
	t.Parallel()
	others := sealedStore(t)
	mustOpenWith(t, others, sealOf(8))
	for name, anew := range map[string]bool{"one row": false, "all rows": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) { c.KeySeals = [][]byte{sealOf(7)} }})
			if anew {
				mustOpenWith(t, s.Store, sealOf(8), sealOf(7))
			}
			if err := s.Store.PutKey(t.Context(), storedKeys(t, others)[0]); err != nil {
				t.Fatal(err)
			}
			before := len(storedKeys(t, s.Store))
			s.Clock.Advance(89 * day)
			if _, err := s.Provider.Sweep(t.Context()); !isErrKeySeal(err) {
				t.Errorf("a sweep: %v", err)
			}
			if made := len(storedKeys(t, s.Store)) - before; (made > 0) == anew {
				t.Errorf("%d keys are made", made)
			}
		})
	}
}
