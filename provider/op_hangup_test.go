package provider_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// hangsUp is a store during whose next revocation the caller goes away.
type hangsUp struct {
	storage.Store
	gone atomic.Pointer[context.CancelFunc]
}

func (h *hangsUp) RevokeTokens(ctx context.Context, filter storage.TokenFilter, now time.Time) (int, error) {
	n, err := h.Store.RevokeTokens(ctx, filter, now)
	if cancel := h.gone.Swap(nil); cancel != nil {
		(*cancel)()
	}
	return n, err
}

// A browser that hangs up in the middle of a logout is signed out all the same, of everything it
// had, and every client hears of it.
func TestOPBackchannelRPInitiatedLogoutOfABrowserThatHangsUp(t *testing.T) {
	t.Parallel()
	r, store := newReceiver(t), &hangsUp{}
	clients := opClients()
	for _, c := range clients {
		c.BackchannelLogoutURI = r.URL + "/" + c.ID
	}
	s := providertest.NewServer(t, providertest.Options{
		Clients: clients, Change: func(c *provider.Config) { r.reachable(c) },
		Wrap: func(inner storage.Store) storage.Store { store.Store = inner; return store },
	})
	o := opOn(t, s, "query")
	first, a := o.tokens("scope", "openid offline_access", "prompt", "consent")
	_, b := o.tokens("client_id", "rp2", "prompt", "login")
	if a["sid"] == b["sid"] {
		t.Fatalf("one sid for two sign-ins: %v", a["sid"])
	}

	page := o.Get(t.Context(), o.browser, "/logout")
	form := url.Values{"csrf": {page.Hidden("csrf")}, "request": {page.Hidden("request")}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	store.gone.Store(&cancel)
	req := httptest.NewRequestWithContext(ctx, http.MethodPost, o.Issuer+"/logout", strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for _, c := range o.browser.Jar.Cookies(req.URL) {
		req.AddCookie(c)
	}
	o.Provider.ServeHTTP(httptest.NewRecorder(), req)
	if ctx.Err() == nil {
		t.Fatal("nothing was revoked")
	}

	o.wantLeft()
	got := told(t, o, r, 2)
	if !slices.Equal(got["/rp"], []string{a["sid"].(string)}) || !slices.Equal(got["/rp2"], []string{b["sid"].(string)}) {
		t.Errorf("told %v; sids %v, %v", got, a["sid"], b["sid"])
	}
	wantError(t, o.Bearer(t.Context(), "/userinfo", first.AccessToken), http.StatusUnauthorized, "invalid_token")
	wantError(t, refresh(t, s, "rp", first.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
}

// So does what a client revokes: with the tokens of its own sign-in goes the sign-in.
func TestRevocationByAClientThatHangsUp(t *testing.T) {
	t.Parallel()
	store := &hangsUp{}
	s := providertest.NewServer(t, providertest.Options{Wrap: func(inner storage.Store) storage.Store { store.Store = inner; return store }})
	_, tokens := signIn(t, s, "cli", nil)
	sid, _ := claims(t, tokens.IDToken)["sid"].(string)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	store.gone.Store(&cancel)
	form := url.Values{"client_id": {"cli"}, "token": {tokens.AccessToken}}
	req := httptest.NewRequestWithContext(ctx, http.MethodPost, s.Issuer+"/revoke", strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	s.Provider.ServeHTTP(httptest.NewRecorder(), req)
	if ctx.Err() == nil {
		t.Fatal("nothing was revoked")
	}
	session, err := s.Store.Session(t.Context(), sid)
	if err != nil || session.ActiveAt(s.Clock.Now()) {
		t.Errorf("the sign-in goes on: %v, %v", session, err)
	}
}
