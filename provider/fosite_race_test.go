package provider_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

func TestFositeCodeDoubleRedemption64Racers(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	verifier, challenge := providertest.Verifier()
	redirect := s.Code(t.Context(), s.Browser(), providertest.AuthorizeQuery("web", "openid offline_access", challenge))

	var won atomic.Int32
	var access atomic.Value
	var racers sync.WaitGroup
	for range 64 {
		racers.Go(func() {
			reply := s.Redeem(t.Context(), "web", redirect, verifier)
			switch {
			case reply.Status == http.StatusOK:
				won.Add(1)
				access.Store(reply.Text("access_token"))
			case reply.Status != http.StatusBadRequest || reply.Text("error") != "invalid_grant":
				t.Errorf("a loser got %d %s", reply.Status, reply.Body)
			}
		})
	}
	racers.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d racers got tokens", won.Load())
	}
	// A code in two hands is a stolen code: what the winner got must be dead.
	token, _ := access.Load().(string)
	if reply := s.Bearer(t.Context(), "/userinfo", token); reply.Status != http.StatusUnauthorized {
		t.Errorf("the winner's token still works: %d", reply.Status)
	}
}

func TestFositeLoserGets500(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")

	var won atomic.Int32
	var next atomic.Value
	var racers sync.WaitGroup
	for range 16 {
		racers.Go(func() {
			reply := refresh(t, s, "web", tokens.RefreshToken, nil)
			if reply.Status == http.StatusOK {
				won.Add(1)
				next.Store(reply.Text("refresh_token"))
				return
			}
			if reply.Status != http.StatusBadRequest || reply.Text("error") != "invalid_grant" {
				t.Errorf("a loser got %d %s", reply.Status, reply.Body)
			}
		})
	}
	racers.Wait()
	// One that comes after the winner may take its tokens over, as if they had been lost.
	if n := won.Load(); n < 1 || n > 2 {
		t.Fatalf("%d racers rotated one refresh token", n)
	}
}

// race sends the same request twice so that both are prepared before either is committed, and
// returns the tokens of the one that won.
func race(t *testing.T, store *together, send func() *providertest.Reply) providertest.Tokens {
	t.Helper()
	store.prepared.Add(2)
	store.on.Store(true)
	replies := make(chan *providertest.Reply, 2)
	for range 2 {
		go func() { replies <- send() }()
	}
	won, lost := <-replies, <-replies
	store.on.Store(false)
	if won.Status != http.StatusOK {
		won, lost = lost, won
	}
	wantError(t, lost, http.StatusBadRequest, "invalid_grant")
	return tokensOf(t, won)
}

func TestFositeCodeLoserRevokesTheFamily(t *testing.T) {
	t.Parallel()
	store := &together{}
	s := providertest.NewServer(t, providertest.Options{Wrap: func(inner storage.Store) storage.Store { store.Store = inner; return store }})
	verifier, challenge := providertest.Verifier()
	redirect := s.Code(t.Context(), s.Browser(), providertest.AuthorizeQuery("web", "openid offline_access", challenge))
	tokens := race(t, store, func() *providertest.Reply { return s.Redeem(t.Context(), "web", redirect, verifier) })
	wantError(t, s.Bearer(t.Context(), "/userinfo", tokens.AccessToken), http.StatusUnauthorized, "invalid_token")
	wantError(t, refresh(t, s, "web", tokens.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
}

func TestFositeRefreshLoserRevokesNothing(t *testing.T) {
	t.Parallel()
	store := &together{}
	s := providertest.NewServer(t, providertest.Options{Wrap: func(inner storage.Store) storage.Store { store.Store = inner; return store }})
	first := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	tokens := race(t, store, func() *providertest.Reply { return refresh(t, s, "web", first.RefreshToken, nil) })
	if reply := s.Bearer(t.Context(), "/userinfo", tokens.AccessToken); reply.Status != http.StatusOK {
		t.Errorf("the winner's token died: %d", reply.Status)
	}
	tokensOf(t, refresh(t, s, "web", tokens.RefreshToken, nil))
}

func TestFositeCodeReplayRevokesFamily(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]time.Duration{"at once": 0, "after 30 s": 30 * time.Second, "after the code has expired": 10 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			verifier, challenge := providertest.Verifier()
			redirect := s.Code(t.Context(), s.Browser(), providertest.AuthorizeQuery("web", "openid offline_access", challenge))
			tokens := tokensOf(t, s.Redeem(t.Context(), "web", redirect, verifier))

			s.Clock.Advance(wait)
			wantError(t, s.Redeem(t.Context(), "web", redirect, verifier), http.StatusBadRequest, "invalid_grant")
			wantError(t, refresh(t, s, "web", tokens.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
			wantError(t, s.Bearer(t.Context(), "/userinfo", tokens.AccessToken), http.StatusUnauthorized, "invalid_token")
		})
	}
}

func TestFositeRefreshReuseRevokesFamily(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	first := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	second := tokensOf(t, refresh(t, s, "web", first.RefreshToken, nil))
	if !active(t, s, second.AccessToken) {
		t.Fatal("the new access token does not work")
	}

	wantError(t, refresh(t, s, "web", first.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
	wantError(t, refresh(t, s, "web", second.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
	wantError(t, s.Bearer(t.Context(), "/userinfo", second.AccessToken), http.StatusUnauthorized, "invalid_token")
}

func TestFositeStoredClientSecret(t *testing.T) {
	t.Parallel()
	rows := &recording{}
	s := providertest.NewServer(t, providertest.Options{Wrap: rows.wrap})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	rows.mu.Lock()
	defer rows.mu.Unlock()
	if len(rows.tokens) != 3 {
		t.Fatalf("%d rows for a code, an access and a refresh token", len(rows.tokens))
	}
	var stored string
	for _, row := range rows.tokens {
		stored += fmt.Sprintf("%+v %s", row, row.Data)
	}
	for _, secret := range []string{providertest.ClientSecret, tokens.AccessToken, tokens.RefreshToken} {
		if strings.Contains(stored, secret) {
			t.Errorf("%q is in the store", secret)
		}
	}
}

func TestFositeSeveralCommitsPerRequest(t *testing.T) {
	t.Parallel()
	rows := &recording{}
	s := providertest.NewServer(t, providertest.Options{Wrap: rows.wrap})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	refresh(t, s, "web", tokens.RefreshToken, nil)
	if rows.units != 3 {
		t.Errorf("%d units of work for a code, a redemption and a rotation", rows.units)
	}
}

func TestFositePanicBetweenBeginAndCommit(t *testing.T) {
	t.Parallel()
	store := &panicking{}
	s := providertest.NewServer(t, providertest.Options{Wrap: func(inner storage.Store) storage.Store { store.Store = inner; return store }})
	token := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access").RefreshToken
	store.on.Store(true)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, s.Issuer+"/token", strings.NewReader(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.SetBasicAuth("web", providertest.ClientSecret)
		s.Provider.ServeHTTP(httptest.NewRecorder(), r)
	}()
	store.on.Store(false)
	// Nothing is locked and nothing was used up.
	tokensOf(t, refresh(t, s, "web", token, nil))
}
