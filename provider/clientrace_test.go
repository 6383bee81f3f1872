package provider_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// meanwhile is a store beside which something else happens to a client: during the unit of work
// that makes a code, or once the clients have been listed.
type meanwhile struct {
	storage.Store
	granting, listed func()
	// people counts how often they were listed.
	people atomic.Int64
}

func (m *meanwhile) AddSessionClient(ctx context.Context, sessionID, clientID string) error {
	if act := m.granting; act != nil {
		m.granting = nil
		act()
	}
	return m.Store.AddSessionClient(ctx, sessionID, clientID)
}

func (m *meanwhile) Clients(ctx context.Context) ([]*storage.Client, error) {
	clients, err := m.Store.Clients(ctx)
	if act := m.listed; act != nil {
		m.listed = nil
		act()
	}
	return clients, err
}

func (m *meanwhile) Users(ctx context.Context) ([]*storage.User, error) {
	m.people.Add(1)
	return m.Store.Users(ctx)
}

// openMeanwhile is a provider where anybody may register, with a registered client.
func openMeanwhile(t *testing.T) (*providertest.Server, *meanwhile, *providertest.Reply) {
	t.Helper()
	m := &meanwhile{}
	s := providertest.NewServer(t, providertest.Options{
		Wrap:   func(inner storage.Store) storage.Store { m.Store = inner; return m },
		Change: func(c *provider.Config) { c.Registration.Open = true },
	})
	return s, m, registered(t, s, with(jsonObject{"redirect_uris": []string{"https://rp.example/callback", "https://rp.example/old"}}))
}

// What becomes of a client while a person grants it something stays so.
func TestAGrantUndoesNothingThatHappensToItsClient(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		act  func(t *testing.T, s *providertest.Server, id, token string) error
		want func(c *storage.Client) bool
	}{
		"it is replaced": {func(t *testing.T, s *providertest.Server, id, token string) error {
			t.Helper()
			reply := sendJSON(t.Context(), t, s, http.MethodPut, "/register/"+id, token, with(jsonObject{"client_id": id}))
			if reply.Status != http.StatusOK {
				return errors.New(reply.Body)
			}
			return nil
		}, func(c *storage.Client) bool { return len(c.RedirectURIs) == 1 && c.FreshUntil.IsZero() }},
		"it is switched off": {func(t *testing.T, s *providertest.Server, id, _ string) error {
			t.Helper()
			return s.Store.UpdateClient(t.Context(), id, func(c *storage.Client) error {
				c.Disabled = true
				return nil
			})
		}, func(c *storage.Client) bool { return c.Disabled && c.FreshUntil.IsZero() }},
		"it goes": {func(t *testing.T, s *providertest.Server, id, token string) error {
			t.Helper()
			reply := sendJSON(t.Context(), t, s, http.MethodDelete, "/register/"+id, token, nil)
			if reply.Status != http.StatusNoContent {
				return errors.New(reply.Body)
			}
			return nil
		}, func(c *storage.Client) bool { return c == nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, m, client := openMeanwhile(t)
			id := client.Text("client_id")
			acted := errors.New("nothing has happened")
			m.granting = func() { acted = row.act(t, s, id, client.Text("registration_access_token")) }
			s.Code(t.Context(), s.Browser(), map[string][]string{
				"client_id": {id}, "response_type": {"code"}, "redirect_uri": {"https://rp.example/callback"}, "scope": {"openid"}, "nonce": {"n"},
			})
			stored, err := s.Store.Client(t.Context(), id)
			if err != nil && !errors.Is(err, storage.ErrNotFound) || acted != nil {
				t.Fatal(err, acted)
			}
			if !row.want(stored) {
				t.Errorf("%+v", stored)
			}
		})
	}
}

// A client to which somebody grants something at the last moment is not forgotten.
func TestAClientUsedAtTheLastMomentIsKept(t *testing.T) {
	t.Parallel()
	s, m, client := openMeanwhile(t)
	id := client.Text("client_id")
	s.Clock.Advance(24*time.Hour + time.Minute)
	m.listed = func() {
		if err := s.Store.UpdateClient(t.Context(), id, func(c *storage.Client) error {
			c.FreshUntil = time.Time{}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	registered(t, s, with(nil))
	if _, err := s.Store.Client(t.Context(), id); err != nil || m.listed != nil {
		t.Error(err, "or the clients were not counted")
	}
}

// Anybody may register and remove a client: that must not cost a look at every person.
func TestTheEndOfAnUnusedClientIsCheap(t *testing.T) {
	t.Parallel()
	s, m, client := openMeanwhile(t)
	remove := func(c *providertest.Reply) int64 {
		before := m.people.Load()
		reply := sendJSON(t.Context(), t, s, http.MethodDelete, "/register/"+c.Text("client_id"), c.Text("registration_access_token"), nil)
		if reply.Status != http.StatusNoContent {
			t.Fatalf("%d %s", reply.Status, reply.Body)
		}
		if _, err := s.Store.Client(t.Context(), c.Text("client_id")); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("it is still there: %v", err)
		}
		return m.people.Load() - before
	}
	if n := remove(client); n != 0 {
		t.Errorf("the people were listed %d times", n)
	}
	used := registered(t, s, with(nil))
	signInTo(t, s, s.Browser(), used, "https://rp.example/callback", "openid")
	if remove(used) == 0 {
		t.Error("nobody has looked what people gave the client")
	}
}

// A client that the operator switches off while its document is read stays off.
func TestADocumentBringsNoClientBack(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		act  func(t *testing.T, s storage.Store, id string) error
		want []bool
	}{
		"switched off": {func(t *testing.T, s storage.Store, id string) error {
			t.Helper()
			return s.UpdateClient(t.Context(), id, func(c *storage.Client) error {
				c.Disabled = true
				return nil
			})
		}, []bool{true}},
		"removed": {func(t *testing.T, s storage.Store, id string) error {
			t.Helper()
			return s.DeleteClient(t.Context(), id)
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app := newDescribedApp(t)
			s := app.server(providertest.Options{})
			app.signIn(s, s.Browser())
			body := app.document(nil)
			app.become(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if err := row.act(t, s.Store, app.id); err != nil {
					t.Error(err)
				}
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write(body)
			}))
			s.Clock.Advance(time.Hour)
			app.known(s)
			var off []bool
			if c, err := s.Store.Client(t.Context(), app.id); err == nil {
				off = append(off, c.Disabled)
			}
			if diff := cmp.Diff(row.want, off); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Who has asked for too many documents keeps nobody else from the one that was not looked for.
func TestASpentNetworkKeepsNobodyOut(t *testing.T) {
	t.Parallel()
	app := newDescribedApp(t)
	s := app.server(providertest.Options{})
	app.become(http.NotFoundHandler())
	ask := func(n int) int {
		t.Helper()
		_, challenge := providertest.Verifier()
		return s.Get(t.Context(), s.Client(), "/authorize?"+app.query(challenge, url.Values{"client_id": {fmt.Sprintf("%s/%d", app.id, n)}}).Encode()).Status
	}
	for n := range 60 {
		ask(n)
	}
	if status := ask(60); status != http.StatusServiceUnavailable {
		t.Fatalf("%d", status)
	}
	// From another network, or when this one may ask again.
	s.Clock.Advance(time.Second)
	if status := ask(60); status != http.StatusBadRequest || app.read() != 61 {
		t.Errorf("%d, %d reads", status, app.read())
	}
}
