package bolt_test

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

func cachedClient() *storage.Client {
	return &storage.Client{
		ID: "tv", SecretHashes: [][32]byte{{1}}, RedirectURIs: []string{"https://a.example/", "https://b.example/"},
		GrantTypes: []string{"authorization_code"}, Scopes: []string{"openid"}, SharedAudiences: []string{"app"},
		QR: storage.QRPolicy{Enabled: true, AllowedScopes: []string{"openid", "email"}},
	}
}

func TestWhatACacheReturnsIsTheCallers(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	user := func() *storage.User {
		return &storage.User{Subject: "ann", Login: "ann", Claims: map[string]any{
			"name": "Ann", "roles": []any{"a", int64(1)}, "address": map[string]any{"country": "IS"},
		}}
	}
	session := func() *storage.Session {
		return &storage.Session{ID: "s", Subject: "ann", AMR: []string{"pwd"}, CreatedAt: instant(), ExpiresAt: instant(), AuthTime: instant()}
	}
	if err := errors.Join(store.PutClient(ctx, cachedClient()), store.PutUser(ctx, user()), store.PutSession(ctx, session())); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c, err := store.Client(ctx, "tv")
		if diff := cmp.Diff(cachedClient(), c); diff != "" || err != nil {
			t.Fatalf("client: %v (-want +got):\n%s", err, diff)
		}
		c.SecretHashes[0][0], c.QR.AllowedScopes[0] = 9, "admin"
		_ = append(c.RedirectURIs, "https://evil.example/")
		c.RedirectURIs[0], c.GrantTypes[0], c.Scopes[0], c.SharedAudiences[0] = "x", "x", "x", "x"
		u, err := store.User(ctx, "ann")
		if diff := cmp.Diff(user(), u); diff != "" || err != nil {
			t.Fatalf("user: %v (-want +got):\n%s", err, diff)
		}
		u.Claims["name"], u.Claims["roles"].([]any)[0], u.Claims["address"].(map[string]any)["country"] = "x", "x", "x"
		s, err := store.Session(ctx, "s")
		if diff := cmp.Diff(session(), s); diff != "" || err != nil {
			t.Fatalf("session: %v (-want +got):\n%s", err, diff)
		}
		s.AMR[0], s.EndedAt = "x", instant()
	}
}

func TestAUserWithUncommonClaimsIsReadFromDisk(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	large := new(big.Int).Lsh(big.NewInt(1), 80)
	if err := store.PutUser(t.Context(), &storage.User{Subject: "ann", Claims: map[string]any{"n": []any{large}}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		u, err := store.User(t.Context(), "ann")
		if err != nil {
			t.Fatal(err)
		}
		n, ok := u.Claims["n"].([]any)[0].(big.Int)
		if !ok || n.Cmp(large) != 0 {
			t.Errorf("the claim came back as %v", u.Claims["n"])
		}
	}
}

// TestNoReadAfterAWriteIsStale has readers fill the caches while a writer replaces the
// records: what a write that returned has made must be seen by every later read.
func TestNoReadAfterAWriteIsStale(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				_, _ = store.Client(ctx, "tv")
				_, _ = store.User(ctx, "ann")
				_, _ = store.Session(ctx, "s")
			}
		})
	}
	for n := range 60 {
		name := fmt.Sprint(n)
		err := errors.Join(
			store.PutClient(t.Context(), &storage.Client{ID: "tv", Name: name}),
			store.PutUser(t.Context(), &storage.User{Subject: "ann", Login: name}),
			store.PutSession(t.Context(), &storage.Session{ID: "s", Subject: "ann", Device: name, CreatedAt: instant(), ExpiresAt: instant()}),
		)
		if err != nil {
			t.Fatal(err)
		}
		client, err := store.Client(t.Context(), "tv")
		if err != nil || client.Name != name {
			t.Fatalf("client %v, %v; want %s", client, err, name)
		}
		user, err := store.User(t.Context(), "ann")
		if err != nil || user.Login != name {
			t.Fatalf("user %v, %v; want %s", user, err, name)
		}
		if n%2 > 0 {
			err = store.Tx(t.Context(), func(ctx context.Context) error { return store.EndSession(ctx, "s", instant()) })
		} else {
			err = store.EndSession(t.Context(), "s", instant())
		}
		if err != nil {
			t.Fatal(err)
		}
		session, err := store.Session(t.Context(), "s")
		if err != nil || session.Device != name || session.EndedAt.IsZero() {
			t.Fatalf("session %v, %v; want %s, ended", session, err, name)
		}
	}
	stop()
	readers.Wait()
}

func TestASweptSignInIsNotRemembered(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	err := store.PutSession(t.Context(), &storage.Session{ID: "s", CreatedAt: instant(), ExpiresAt: instant()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Session(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := store.Sweep(t.Context(), instant().Add(48*time.Hour), 100); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Session(t.Context(), "s"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("after the sweep: %v", err)
	}
}

func TestACacheIsBounded(t *testing.T) {
	t.Parallel()
	store := mustOpen(t, filepath.Join(t.TempDir(), "db"), bolt.Options{})
	const clients = 10_100
	err := store.Tx(t.Context(), func(ctx context.Context) error {
		for n := range clients {
			if err := store.PutClient(ctx, &storage.Client{ID: fmt.Sprint(n)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for n := range clients {
			if c, err := store.Client(t.Context(), fmt.Sprint(n)); err != nil || c.ID != fmt.Sprint(n) {
				t.Fatalf("client %d: %v, %v", n, c, err)
			}
		}
	}
	if n := store.CachedClients(); n != 10_000 {
		t.Errorf("%d clients are kept", n)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Client(t.Context(), "1"); err == nil || store.CachedClients() != 0 {
		t.Errorf("a closed store answered, %v, and keeps %d", err, store.CachedClients())
	}
}
