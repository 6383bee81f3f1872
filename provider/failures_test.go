package provider_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// full is a store without room for codes, and one whose reader is gone when gone is set.
type full struct {
	storage.Store
	on, gone bool
}

func (f *full) PutToken(ctx context.Context, t *storage.Token) error {
	switch {
	case f.gone:
		return context.Canceled
	case f.on:
		return storage.ErrFull
	}
	return f.Store.PutToken(ctx, t)
}

// A full store is a failure that passes, and the client hears so; a browser that is gone is none.
func TestFullStoreIsTemporary(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	store := &full{}
	s := providertest.NewServer(t, providertest.Options{
		Wrap:   func(inner storage.Store) storage.Store { store.Store = inner; return store },
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	browser := s.Browser()
	s.SignedIn(t.Context(), browser, "web", "openid")
	log.Reset()
	store.on = true
	if got := errorOf(ask(t, s, browser, "web")); got != "temporarily_unavailable" || !strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("error %q, log %s", got, log.String())
	}
	log.Reset()
	store.gone = true
	if got := errorOf(ask(t, s, browser, "web")); got == "" || strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("error %q, log %s", got, log.String())
	}
}

// A page of our own failure is logged as one and says when to come back; a page about the
// request is not.
func TestFailuresOnPagesAreLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	store := &loginsDown{}
	s := providertest.NewServer(t, providertest.Options{
		Wrap:   func(inner storage.Store) storage.Store { store.Store = inner; return store },
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	browser := s.Browser()
	form := passwordForm(t, s, browser, "alice", "x")
	store.on.Store(true)
	reply := s.Post(t.Context(), browser, "/login", form)
	if reply.Status != http.StatusServiceUnavailable || reply.Header.Get("Retry-After") != "5" || !strings.Contains(log.String(), `level=ERROR msg="error page shown"`) {
		t.Errorf("%d, Retry-After %q, log %s", reply.Status, reply.Header.Get("Retry-After"), log.String())
	}
	log.Reset()
	w := httptest.NewRecorder()
	s.Provider.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, s.Issuer+"/authorize", nil))
	if w.Code != http.StatusBadRequest || w.Header().Get("Retry-After") != "" || strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("%d, log %s", w.Code, log.String())
	}
}
