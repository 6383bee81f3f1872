package provider_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// changesFirst has somebody change the person, and end the sign-ins, right before the next
// sign-in is stored.
type changesFirst struct {
	storage.Store
	t      *testing.T
	change atomic.Pointer[func(u *storage.User)]
	stored atomic.Pointer[string]
}

func (c *changesFirst) PutSession(ctx context.Context, s *storage.Session) error {
	if change := c.change.Swap(nil); change != nil {
		c.stored.Store(&s.ID)
		user, err := c.User(ctx, s.Subject)
		if err != nil {
			c.t.Error(err)
			return err
		}
		(*change)(user)
		if err := c.PutUser(ctx, user); err != nil {
			c.t.Error(err)
		}
		if err := provider.EndStoredSignIns(ctx, c.Store, s.Subject, s.CreatedAt); err != nil {
			c.t.Error(err)
		}
	}
	return c.Store.PutSession(ctx, s)
}

// A sign-in that began with the old password, or before the person was disabled, does not outlive
// the change, and whoever began it is told what a wrong password is told.
func TestSignInDoesNotOutliveAChange(t *testing.T) {
	t.Parallel()
	another, err := provider.HashPassword("another")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(u *storage.User){
		"password": func(u *storage.User) { u.PasswordHash = another },
		"disabled": func(u *storage.User) { u.Disabled = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := &changesFirst{t: t}
			s := providertest.NewServer(t, providertest.Options{Wrap: func(inner storage.Store) storage.Store { store.Store = inner; return store }})
			browser := s.Browser()
			form := passwordForm(t, s, browser, providertest.AliceLogin, providertest.AlicePassword)
			store.change.Store(&change)
			reply := s.Post(t.Context(), browser, "/login", form)
			if !isSignIn(reply) || !strings.Contains(reply.Body, "The user name or the password is wrong.") {
				t.Errorf("%d %s", reply.Status, reply.Body)
			}
			if cookie := cookieOf(t, s, browser, "__Host-qrgrant"); cookie != "" {
				t.Error("the browser has the cookie of a sign-in")
			}
			if cookie := cookieOf(t, s, browser, knownName); cookie != "" {
				t.Error("the browser counts as known")
			}
			sid := store.stored.Load()
			if sid == nil {
				t.Fatal("nothing was stored: the race was not met")
			}
			session, err := s.Store.Session(t.Context(), *sid)
			if err != nil {
				t.Fatal(err)
			}
			if session.EndedAt.IsZero() {
				t.Error("the sign-in lasts")
			}
			if again := ask(t, s, browser, "web"); again.Status == http.StatusSeeOther && signedIn(again) {
				t.Error("the browser is signed in")
			}
		})
	}
}
