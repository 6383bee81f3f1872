package provider_test

import (
	"context"
	"crypto/sha256"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// refreshedAs sends a refresh token as a confidential client with the given secret.
func refreshedAs(t *testing.T, s *providertest.Server, clientID, secret, token string) *providertest.Reply {
	t.Helper()
	return s.Post(context.WithoutCancel(t.Context()), s.Client(), "/token", url.Values{
		"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {clientID}, "client_secret": {secret},
	})
}

// offline signs Alice in at the client and returns tokens with a refresh token among them.
func offline(t *testing.T, s *providertest.Server, clientID string) providertest.Tokens {
	t.Helper()
	tokens := s.SignedIn(t.Context(), s.Browser(), clientID, "openid offline_access")
	if tokens.RefreshToken == "" {
		t.Fatal("no refresh token")
	}
	return tokens
}

// wantDead fails unless both tokens of every answer are dead.
func wantDead(t *testing.T, s *providertest.Server, clientID string, answers ...providertest.Tokens) {
	t.Helper()
	for i, a := range answers {
		if active(t, s, a.AccessToken) {
			t.Errorf("access token %d lives", i)
		}
		if reply := refreshedAs(t, s, clientID, providertest.ClientSecret, a.RefreshToken); reply.Status == http.StatusOK {
			t.Errorf("refresh token %d lives", i)
		}
	}
}

// A refresh token whose answer was lost works once more, and the tokens that were lost die.
func TestRefreshLostAnswer(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	first := offline(t, s, "web")
	lost := tokensOf(t, refreshedAs(t, s, "web", providertest.ClientSecret, first.RefreshToken))
	s.Clock.Advance(storage.LostAnswerWindow - time.Second)
	again := tokensOf(t, refreshedAs(t, s, "web", providertest.ClientSecret, first.RefreshToken))
	if active(t, s, lost.AccessToken) {
		t.Error("the lost access token lives")
	}
	if !active(t, s, again.AccessToken) {
		t.Error("the second access token is dead")
	}
	next := tokensOf(t, refreshedAs(t, s, "web", providertest.ClientSecret, again.RefreshToken))
	if !active(t, s, next.AccessToken) {
		t.Error("the family did not go on")
	}
	// Whoever brings the lost refresh token has what somebody else was given.
	wantError(t, refreshedAs(t, s, "web", providertest.ClientSecret, lost.RefreshToken), http.StatusBadRequest, "invalid_grant")
	wantDead(t, s, "web", first, lost, again, next)
}

// Whatever is not a lost answer is a reuse and ends the family.
func TestRefreshReuse(t *testing.T) {
	t.Parallel()
	const otherSecret = "another-secret-of-the-same-client-in-tests"
	type step func(t *testing.T, s *providertest.Server, issued providertest.Tokens)
	bearer := func(path string) step {
		return func(t *testing.T, s *providertest.Server, issued providertest.Tokens) {
			t.Helper()
			s.Bearer(t.Context(), path, issued.AccessToken)
		}
	}
	for name, row := range map[string]struct {
		secret string
		step   step
	}{
		"the access token was used at userinfo":        {providertest.ClientSecret, bearer("/userinfo")},
		"the client authenticates with another secret": {otherSecret, func(*testing.T, *providertest.Server, providertest.Tokens) {}},
		"a minute has passed": {providertest.ClientSecret, func(_ *testing.T, s *providertest.Server, _ providertest.Tokens) {
			s.Clock.Advance(storage.LostAnswerWindow)
		}},
		"the access token was introspected": {providertest.ClientSecret, func(t *testing.T, s *providertest.Server, issued providertest.Tokens) {
			t.Helper()
			s.PostAs(t.Context(), "double", "/introspect", url.Values{"token": {issued.AccessToken}})
		}},
		"the access token came to a phone endpoint": {providertest.ClientSecret, func(t *testing.T, s *providertest.Server, issued providertest.Tokens) {
			t.Helper()
			(&phone{t: t, s: s, token: issued.AccessToken}).post(t.Context(), "/qr/scan", map[string]string{"user_code": "BCDF-GHJK", "entry": "typed"})
		}},
		"the access token was revoked": {providertest.ClientSecret, func(t *testing.T, s *providertest.Server, issued providertest.Tokens) {
			t.Helper()
			s.PostAs(t.Context(), "double", "/revoke", url.Values{"token": {issued.AccessToken}})
		}},
		"the refresh token was used": {providertest.ClientSecret, func(t *testing.T, s *providertest.Server, issued providertest.Tokens) {
			t.Helper()
			tokensOf(t, refreshedAs(t, s, "double", providertest.ClientSecret, issued.RefreshToken))
		}},
		"it was issued again once": {providertest.ClientSecret, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{{
				ID: "double", Name: "Two Secrets", RedirectURIs: []string{providertest.RedirectURI}, FirstParty: true,
				SecretHashes: [][32]byte{sha256.Sum256([]byte(providertest.ClientSecret)), sha256.Sum256([]byte(otherSecret))},
				GrantTypes:   []string{"authorization_code", "refresh_token"}, Scopes: []string{"openid", "offline_access"},
			}}})
			first := offline(t, s, "double")
			second := tokensOf(t, refreshedAs(t, s, "double", providertest.ClientSecret, first.RefreshToken))
			if row.step == nil {
				second = tokensOf(t, refreshedAs(t, s, "double", providertest.ClientSecret, first.RefreshToken))
			} else {
				row.step(t, s, second)
			}
			wantError(t, refreshedAs(t, s, "double", row.secret, first.RefreshToken), http.StatusBadRequest, "invalid_grant")
			wantDead(t, s, "double", first, second)
		})
	}
}

// A client that asks for fewer scopes gets them in the second answer too.
func TestRefreshLostAnswerNarrow(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	first := s.SignedIn(t.Context(), s.Browser(), "web", "openid email offline_access")
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first.RefreshToken}, "scope": {"openid"}}
	tokensOf(t, s.PostAs(t.Context(), "web", "/token", form))
	again := tokensOf(t, s.PostAs(t.Context(), "web", "/token", form))
	if again.Scope != "openid" {
		t.Errorf("scope %q", again.Scope)
	}
	next := tokensOf(t, refreshedAs(t, s, "web", providertest.ClientSecret, again.RefreshToken))
	if next.Scope != "openid email offline_access" {
		t.Errorf("next scope %q", next.Scope)
	}
}

// A family ends at its absolute lifetime, a repeat in its last minute included.
func TestRefreshLostAnswerAtTheEnd(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) { c.RefreshTokenLifetime = time.Hour }})
	first := offline(t, s, "web")
	s.Clock.Advance(time.Hour - 30*time.Second)
	tokensOf(t, refreshedAs(t, s, "web", providertest.ClientSecret, first.RefreshToken))
	s.Clock.Advance(30 * time.Second)
	wantError(t, refreshedAs(t, s, "web", providertest.ClientSecret, first.RefreshToken), http.StatusBadRequest, "invalid_grant")
}

// writes counts the updates of tokens.
type writes struct {
	storage.Store
	updates atomic.Int64
}

func (w *writes) wrap(inner storage.Store) storage.Store { w.Store = inner; return w }

func (w *writes) UpdateToken(ctx context.Context, kind storage.TokenKind, sig storage.TokenSignature, fn func(*storage.Token) error) error {
	w.updates.Add(1)
	return w.Store.UpdateToken(ctx, kind, sig, fn)
}

// The use of an access token is written down once, and only where it can matter.
func TestRefreshFirstUseCost(t *testing.T) {
	t.Parallel()
	store := &writes{}
	s := providertest.NewServer(t, providertest.Options{Wrap: store.wrap})
	first := offline(t, s, "web")
	want := func(n int64, when string, tokens providertest.Tokens) {
		t.Helper()
		store.updates.Store(0)
		for range 3 {
			if !active(t, s, tokens.AccessToken) {
				t.Fatalf("%s: dead", when)
			}
		}
		if got := store.updates.Load(); got != n {
			t.Errorf("%s: %d writes, want %d", when, got, n)
		}
	}
	want(0, "a token of a code", first)
	second := tokensOf(t, refreshedAs(t, s, "web", providertest.ClientSecret, first.RefreshToken))
	want(1, "a token of a refresh", second)
	third := tokensOf(t, refreshedAs(t, s, "web", providertest.ClientSecret, second.RefreshToken))
	fourth := tokensOf(t, refreshedAs(t, s, "web", providertest.ClientSecret, second.RefreshToken))
	want(0, "a token that was issued again", fourth)
	if active(t, s, third.AccessToken) {
		t.Error("the lost token lives")
	}
	fifth := tokensOf(t, refreshedAs(t, s, "web", providertest.ClientSecret, fourth.RefreshToken))
	s.Clock.Advance(storage.LostAnswerWindow)
	want(0, "a token first used after a minute", fifth)
}

// living counts the access and refresh tokens among answers that still work.
func living(t *testing.T, s *providertest.Server, answers []*providertest.Reply) (access, refresh int) {
	t.Helper()
	for _, a := range answers {
		if a.Status != http.StatusOK {
			continue
		}
		intro := func(token string) bool {
			return s.PostAs(context.WithoutCancel(t.Context()), "web", "/introspect", url.Values{"token": {token}}).JSON()["active"] == true
		}
		if intro(a.Text("access_token")) {
			access++
		}
		if intro(a.Text("refresh_token")) {
			refresh++
		}
	}
	return access, refresh
}

// TestRaceOfReissues sends a used refresh token 64 times at once, alone and while the lost
// access token or the lost refresh token is used after all: never are there two successors.
//
// Mutation: with Reissuable and Supersede checking nothing, this test finds several living answers.
func TestRaceOfReissues(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(*testing.T, *providertest.Server, providertest.Tokens) *providertest.Reply{
		"alone": nil,
		"while the access token is used": func(t *testing.T, s *providertest.Server, lost providertest.Tokens) *providertest.Reply {
			t.Helper()
			s.Bearer(context.WithoutCancel(t.Context()), "/userinfo", lost.AccessToken)
			return &providertest.Reply{}
		},
		"while the refresh token is used": func(t *testing.T, s *providertest.Server, lost providertest.Tokens) *providertest.Reply {
			t.Helper()
			return refreshedAs(t, s, "web", providertest.ClientSecret, lost.RefreshToken)
		},
		"from the first rotation on": func(t *testing.T, _ *providertest.Server, _ providertest.Tokens) *providertest.Reply {
			t.Helper()
			return &providertest.Reply{}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{HTTP: true})
			for range 5 {
				first := offline(t, s, "web")
				var lost providertest.Tokens
				var before []*providertest.Reply
				if name != "from the first rotation on" {
					reply := refreshedAs(t, s, "web", providertest.ClientSecret, first.RefreshToken)
					lost, before = tokensOf(t, reply), []*providertest.Reply{reply}
				}
				answers := atOnce(racing, func(i int) *providertest.Reply {
					if use != nil && i%8 == 3 {
						return use(t, s, lost)
					}
					return refreshedAs(t, s, "web", providertest.ClientSecret, first.RefreshToken)
				})
				access, refresh := living(t, s, append(answers, before...))
				if access > 1 || refresh > 1 {
					t.Errorf("%d access tokens and %d refresh tokens live: %v", access, refresh, tally(answers))
				}
			}
		})
	}
}

// late is a store in which something happens between what a unit of work read and its commit.
type late struct {
	storage.Store
	between atomic.Pointer[func()]
}

func (l *late) wrap(inner storage.Store) storage.Store { l.Store = inner; return l }

func (l *late) Tx(ctx context.Context, fn func(context.Context) error) error {
	return l.Store.Tx(ctx, func(ctx context.Context) error {
		err := fn(ctx)
		if f := l.between.Swap(nil); f != nil {
			(*f)()
		}
		return err
	})
}

// A successor that is used while it is being replaced was not lost: the family ends.
//
// Mutation: without the check in storage.Token.Supersede the replacement is issued beside it.
func TestRefreshLostAnswerArrivesLate(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(*testing.T, *providertest.Server, providertest.Tokens){
		"access": func(t *testing.T, s *providertest.Server, lost providertest.Tokens) {
			t.Helper()
			active(t, s, lost.AccessToken)
		},
		"refresh": func(t *testing.T, s *providertest.Server, lost providertest.Tokens) {
			t.Helper()
			refreshedAs(t, s, "web", providertest.ClientSecret, lost.RefreshToken)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := &late{}
			s := providertest.NewServer(t, providertest.Options{Wrap: store.wrap})
			first := offline(t, s, "web")
			lost := tokensOf(t, refreshedAs(t, s, "web", providertest.ClientSecret, first.RefreshToken))
			between := func() { use(t, s, lost) }
			store.between.Store(&between)
			wantError(t, refreshedAs(t, s, "web", providertest.ClientSecret, first.RefreshToken), http.StatusBadRequest, "invalid_grant")
			wantDead(t, s, "web", first, lost)
		})
	}
}

// A gate lets all 64 see the lost answer before one of them takes it.
func TestRaceOfReissuesThatAllSawTheLoss(t *testing.T) {
	t.Parallel()
	store := &gate{}
	s := providertest.NewServer(t, providertest.Options{HTTP: true, Wrap: store.wrap})
	for range 3 {
		first := offline(t, s, "web")
		lost := refreshedAs(t, s, "web", providertest.ClientSecret, first.RefreshToken)
		// Each reads the used token twice and its two successors.
		store.holdBack(racing)
		answers := atOnce(racing, func(int) *providertest.Reply {
			return refreshedAs(t, s, "web", providertest.ClientSecret, first.RefreshToken)
		})
		won := tally(answers)["200 Bearer"]
		access, refresh := living(t, s, append(answers, lost))
		if won > 1 || access > 1 || refresh > 1 {
			t.Errorf("%d answers, %d access tokens and %d refresh tokens live: %v", won, access, refresh, tally(answers))
		}
	}
}
