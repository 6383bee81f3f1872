package provider_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// keyHooks is a store in which a test acts between two steps of the key ring.
type keyHooks struct {
	storage.Store
	// afterPut runs when a key is stored and not yet in the ring, afterRead when the keys have
	// been read and not yet compared with the ring.
	afterPut, afterRead atomic.Pointer[func(ctx context.Context)]
}

func (h *keyHooks) PutKey(ctx context.Context, k *storage.Key) error {
	err := h.Store.PutKey(ctx, k)
	if run := h.afterPut.Swap(nil); run != nil && err == nil {
		(*run)(ctx)
	}
	return err
}

func (h *keyHooks) Keys(ctx context.Context) ([]*storage.Key, error) {
	keys, err := h.Store.Keys(ctx)
	if run := h.afterRead.Swap(nil); run != nil && err == nil {
		(*run)(ctx)
	}
	return keys, err
}

// withoutRSAKey starts a provider whose tries to make the RS256 key are over and have failed. After
// room, the next RS256 ID token makes it.
func withoutRSAKey(t *testing.T) (s *providertest.Server, store *keyHooks, room func()) {
	t.Helper()
	full := &withoutRSA{}
	store = &keyHooks{}
	full.full.Store(true)
	s = providertest.NewServer(t, providertest.Options{Wrap: func(inner storage.Store) storage.Store {
		store.Store = inner
		full.Store = store
		return full
	}})
	redirect := s.Code(t.Context(), s.Browser(), providertest.AuthorizeQuery("thirdparty", "openid", ""))
	if reply := s.Redeem(t.Context(), "thirdparty", redirect, ""); reply.Status < http.StatusInternalServerError {
		t.Fatalf("without a key: %d %s", reply.Status, reply.Body)
	}
	return s, store, func() { full.full.Store(false) }
}

// A key that a sweep reads in the store before its maker has put it into the ring is in it once.
func TestKeyIsInTheRingOnce(t *testing.T) {
	t.Parallel()
	s, store, room := withoutRSAKey(t)
	sweepMeanwhile := func(context.Context) { sweep(t, s) }
	store.afterPut.Store(&sweepMeanwhile)
	room()
	s.SignedIn(t.Context(), s.Browser(), "thirdparty", "openid")
	if store.afterPut.Load() != nil {
		t.Fatal("no key was stored")
	}
	if ids := publishedKids(t, s); len(ids) != 3 {
		t.Errorf("published %v", ids)
	}
}

// A key that is made between a sweep's look at the store and its look at the ring stays: an ID
// token is signed with it already.
func TestKeyMadeDuringASweepStays(t *testing.T) {
	t.Parallel()
	s, store, room := withoutRSAKey(t)
	var idToken string
	signMeanwhile := func(context.Context) {
		room()
		idToken = s.SignedIn(t.Context(), s.Browser(), "thirdparty", "openid").IDToken
	}
	// The first read of the sweep; what signs does not read the keys.
	store.afterRead.Store(&signMeanwhile)
	sweep(t, s)
	var header struct{ Kid string }
	decodeSegment(t, idToken, 0, &header)
	if ids := publishedKids(t, s); ids[header.Kid] != 1 {
		t.Errorf("signed by %q, published %v", header.Kid, ids)
	}
}

// publishedKids counts every kid of the key set.
func publishedKids(t *testing.T, s *providertest.Server) map[string]int {
	t.Helper()
	return publishedKidsOf(t, s.Provider, s.Issuer)
}

func publishedKidsOf(t *testing.T, p *provider.Provider, issuer string) map[string]int {
	t.Helper()
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, issuer+"/jwks", nil))
	var set struct{ Keys []struct{ Kid string } }
	if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil {
		t.Fatal(err)
	}
	ids := map[string]int{}
	for _, k := range set.Keys {
		ids[k.Kid]++
	}
	for kid, n := range ids {
		if n != 1 || kid == "" {
			t.Errorf("the kid %q is published %d times", kid, n)
		}
	}
	return ids
}

// Providers that start at once on one store, sweep and sign, publish every kid once, and each
// publishes what it signs with.
func TestOPKeySetIsDistinctAcrossRacingStarts(t *testing.T) {
	t.Parallel()
	store := sealedStore(t)
	const starts = 4
	var running sync.WaitGroup
	var servers [starts]*provider.Provider
	for i := range servers {
		running.Go(func() {
			p, err := provider.New(t.Context(), provider.Config{
				Issuer: "https://id.example", Store: store, Now: providertest.NewClock().Now, KeySeals: [][]byte{sealOf(7)},
			})
			if err != nil {
				t.Error(err)
				return
			}
			servers[i] = p
			for range 3 {
				if _, err := p.Sweep(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
	if t.Failed() {
		return
	}
	// Close waits for the RS256 keys.
	for _, p := range servers {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	var first map[string]int
	for i, p := range servers {
		if _, err := p.Sweep(t.Context()); err != nil {
			t.Error(err)
		}
		ids := publishedKidsOf(t, p, "https://id.example")
		if first == nil {
			first = ids
		}
		if diff := cmp.Diff(first, ids); diff != "" || len(ids) < 2 {
			t.Errorf("the %dth publishes %v: %s", i, ids, diff)
		}
	}
}
