package provider_test

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
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
