package provider_test

import (
	"context"
	"encoding/base64"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// withoutRSA is a store that has no RS256 key and takes none while full is set.
type withoutRSA struct {
	storage.Store
	full atomic.Bool
}

func (w *withoutRSA) PutKey(ctx context.Context, k *storage.Key) error {
	switch {
	case k.ID == "test-rs256":
		return nil
	case k.Algorithm == "RS256" && w.full.Load():
		return storage.ErrFull
	}
	return w.Store.PutKey(ctx, k)
}

// A start that could not store the RS256 key says so, and the key is made when it is needed.
func TestRSAKeyIsTriedAgain(t *testing.T) {
	t.Parallel()
	store, log := &withoutRSA{}, &logbook{}
	store.full.Store(true)
	s := providertest.NewServer(t, providertest.Options{
		Logger: log.logger(),
		Wrap: func(inner storage.Store) storage.Store {
			store.Store = inner
			return store
		},
	})
	redeem := func() *providertest.Reply {
		redirect := s.Code(t.Context(), s.Browser(), providertest.AuthorizeQuery("thirdparty", "openid", ""))
		return s.Redeem(t.Context(), "thirdparty", redirect, "")
	}
	if reply := redeem(); reply.Status < http.StatusInternalServerError {
		t.Fatalf("without a key: %d %s", reply.Status, reply.Body)
	}
	if !strings.Contains(log.text(), "the RS256 key was not made") {
		t.Errorf("the log does not tell: %s", log.text())
	}
	store.full.Store(false)
	head, _, _ := strings.Cut(tokensOf(t, redeem()).IDToken, ".")
	if raw, err := base64.RawURLEncoding.DecodeString(head); err != nil || !strings.Contains(string(raw), `"RS256"`) {
		t.Errorf("header %s, %v", raw, err)
	}
}

// A store from before there were EdDSA keys gets one at the start, and the keys that it has stay.
func TestOldStoreGetsAnEdDSAKey(t *testing.T) {
	t.Parallel()
	store, err := bolt.Open(filepath.Join(t.TempDir(), "old.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	ids := func(s *providertest.Server) map[string]string {
		keys, err := s.Store.Keys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for _, k := range keys {
			found[string(k.Use)+k.Algorithm] += k.ID
		}
		return found
	}
	first := ids(providertest.NewServer(t, providertest.Options{Store: store}))
	if err := store.DeleteKey(t.Context(), first["sigEdDSA"]); err != nil {
		t.Fatal(err)
	}
	second := ids(providertest.NewServer(t, providertest.Options{Store: store}))
	if second["sigEdDSA"] == "" || second["sigEdDSA"] == first["sigEdDSA"] {
		t.Errorf("EdDSA key %q, before %q", second["sigEdDSA"], first["sigEdDSA"])
	}
	delete(first, "sigEdDSA")
	for use, id := range first {
		if second[use] != id {
			t.Errorf("%s went from %q to %q", use, id, second[use])
		}
	}
}

// The EdDSA key is rotated like the others: published a day before it signs, and known as long as
// its ID tokens can be hints.
func TestEdDSAKeyIsRotated(t *testing.T) {
	t.Parallel()
	client := jwtClient("ed", "EdDSA")
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{client}})
	idToken := func() (token, kid string) {
		token = tokensOf(t, s.PostAs(t.Context(), "ed", "/token", codeForm(t, s, "ed", "openid", nil))).IDToken
		var header struct{ Kid string }
		decodeSegment(t, token, 0, &header)
		return token, header.Kid
	}
	old, first := idToken()
	s.Clock.Advance(89 * day)
	sweep(t, s)
	if published := publishedKids(t, s); len(published) != 6 {
		t.Errorf("published %v", published)
	}
	if _, kid := idToken(); kid != first {
		t.Error("the next key signs before its day")
	}
	s.Clock.Advance(day)
	if _, kid := idToken(); kid == first || !hinted(t, s, old) {
		t.Error("the next key does not sign on its day, or the old one is forgotten")
	}
	s.Clock.Advance(31 * day)
	sweep(t, s)
	if hinted(t, s, old) || publishedKids(t, s)[first] != 0 {
		t.Error("the retired key is used beyond its time")
	}
}
