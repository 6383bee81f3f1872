package provider_test

import (
	"context"
	"net/http"
	"net/url"
	"testing"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// The ways in which everything of a person is ended, with and without a Provider.
func endings() map[string]func(*testing.T, *providertest.Server, string) error {
	return map[string]func(*testing.T, *providertest.Server, string) error{
		"by the provider": func(t *testing.T, s *providertest.Server, subject string) error {
			t.Helper()
			return s.Provider.EndSignIns(t.Context(), subject)
		},
		"in the store": func(t *testing.T, s *providertest.Server, subject string) error {
			t.Helper()
			return provider.EndStoredSignIns(t.Context(), s.Store, subject, s.Clock.Now())
		},
	}
}

// After the end of all sign-ins of a person, cookies, access and refresh tokens are worth
// nothing, and stay so; those of other people are as good as before.
func TestEndSignIns(t *testing.T) {
	t.Parallel()
	for name, end := range endings() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			var browsers []*http.Client
			var tokens []providertest.Tokens
			for range 2 {
				browsers = append(browsers, s.Browser())
				tokens = append(tokens, s.SignedIn(t.Context(), browsers[len(browsers)-1], "web", "openid offline_access"))
			}
			if err := end(t, s, "nobody"); err != nil {
				t.Errorf("nobody: %v", err)
			}
			if err := end(t, s, ""); err == nil {
				t.Error("everybody")
			}
			wantAlive(t, s, browsers[0], tokens[0].AccessToken, true)
			for range 2 {
				if err := end(t, s, providertest.AliceSubject); err != nil {
					t.Fatal(err)
				}
			}
			for i, browser := range browsers {
				wantAlive(t, s, browser, tokens[i].AccessToken, false)
				reply := s.PostAs(t.Context(), "web", "/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens[i].RefreshToken}})
				if reply.Status != http.StatusBadRequest || reply.Text("error") != "invalid_grant" {
					t.Errorf("refresh: %d %s", reply.Status, reply.Body)
				}
			}
			// Whoever knows the password signs in as ever.
			browser := s.Browser()
			wantAlive(t, s, browser, s.SignedIn(t.Context(), browser, "web", "openid").AccessToken, true)
		})
	}
}

func wantAlive(t *testing.T, s *providertest.Server, browser *http.Client, accessToken string, want bool) {
	t.Helper()
	if got := s.Bearer(t.Context(), "/userinfo", accessToken).Status == http.StatusOK; got != want {
		t.Errorf("the access token works: %v", got)
	}
	if got := silent(t, s, browser); got != want {
		t.Errorf("the browser is signed in: %v", got)
	}
}

// Clients hear of it at once.
func TestEndSignInsTellsClients(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	o := withReceiver(t, r, nil)
	o.tokens("client_id", "rp2")
	if err := o.Provider.EndSignIns(t.Context(), providertest.AliceSubject); err != nil {
		t.Fatal(err)
	}
	if req := r.wait(t); req.URL.Path != "/rp2" {
		t.Errorf("told %s", req.URL.Path)
	}
}

// Without a Provider the store keeps what clients are to be told.
func TestEndStoredSignInsLeavesNotices(t *testing.T) {
	t.Parallel()
	client := providertest.Clients()[0]
	client.ID, client.BackchannelLogoutURI = "told", "https://told.example/logout"
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{client}})
	s.SignedIn(t.Context(), s.Browser(), "told", "openid")
	if err := provider.EndStoredSignIns(t.Context(), s.Store, providertest.AliceSubject, s.Clock.Now()); err != nil {
		t.Fatal(err)
	}
	notices, err := s.Store.LogoutNotices(t.Context(), "told", 9)
	if err != nil || len(notices) != 1 || notices[0].Subject != providertest.AliceSubject {
		t.Errorf("%v, %v", notices, err)
	}
}

// What people gave a client that is switched off does not come back with it; what they gave
// others stays.
func TestRevokeClientTokens(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	off, other := s.SignedIn(t.Context(), browser, "web", "openid"), s.SignedIn(t.Context(), s.Browser(), "thirdparty", "openid")
	client, err := s.Store.Client(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	for _, disabled := range []bool{true, false} {
		client.Disabled = disabled
		if err := s.Store.PutClient(t.Context(), client); err != nil {
			t.Fatal(err)
		}
		if err := provider.RevokeClientTokens(t.Context(), s.Store, "web", s.Clock.Now()); err != nil {
			t.Fatal(err)
		}
		if reply := s.Bearer(t.Context(), "/userinfo", off.AccessToken); reply.Status != http.StatusUnauthorized {
			t.Errorf("disabled %v: %d", disabled, reply.Status)
		}
	}
	if reply := s.Bearer(t.Context(), "/userinfo", other.AccessToken); reply.Status != http.StatusOK {
		t.Errorf("the other client's: %d", reply.Status)
	}
}

// Whoever asked for an end may hang up in the middle of it: it comes to its end all the same.
func TestEndingsOutliveWhoAsked(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(context.Context, *providertest.Server) error{
		"by the provider": func(ctx context.Context, s *providertest.Server) error {
			return s.Provider.EndSignIns(ctx, providertest.AliceSubject)
		},
		"in the store": func(ctx context.Context, s *providertest.Server) error {
			return provider.EndStoredSignIns(ctx, s.Store, providertest.AliceSubject, s.Clock.Now())
		},
		"of a client": func(ctx context.Context, s *providertest.Server) error {
			return provider.RevokeClientTokens(ctx, s.Store, "web", s.Clock.Now())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			browser := s.Browser()
			tokens := s.SignedIn(t.Context(), browser, "web", "openid")
			gone, cancel := context.WithCancel(t.Context())
			cancel()
			if err := end(gone, s); err != nil {
				t.Error(err)
			}
			if reply := s.Bearer(t.Context(), "/userinfo", tokens.AccessToken); reply.Status != http.StatusUnauthorized {
				t.Errorf("the access token: %d", reply.Status)
			}
			if got, want := silent(t, s, browser), name == "of a client"; got != want {
				t.Errorf("the browser is signed in: %v", got)
			}
		})
	}
}
