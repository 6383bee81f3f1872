package provider_test

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// crowd is a store with people of other hashes beside Alice's.
type crowd struct {
	storage.Store
	hashes []string
}

func (c *crowd) Users(ctx context.Context) ([]*storage.User, error) {
	users, err := c.Store.Users(ctx)
	for i, hash := range c.hashes {
		users = append(users, &storage.User{Subject: strconv.Itoa(i), Login: "p" + strconv.Itoa(i), PasswordHash: hash})
	}
	return users, err
}

// The names that nobody has are checked at the costs of the people, as many at each as there are
// people, and a name always at the same one: how long it takes tells nothing.
func TestUnknownNamesTakeTheTimeOfPeople(t *testing.T) {
	t.Parallel()
	hash := providertest.Alice().PasswordHash
	slow := strings.Replace(hash, "m=64,t=1", "m=128,t=3", 1)
	c := &crowd{hashes: []string{slow, slow, hash, "", "broken"}} // two and two, and two without a password
	s := providertest.NewServer(t, providertest.Options{Wrap: func(inner storage.Store) storage.Store { c.Store = inner; return c }})
	costs := func(names int) map[string]int {
		got := make(map[string]int)
		for i := range names {
			login := "nobody-" + strconv.Itoa(i)
			checked, err := s.Provider.CheckedHash(t.Context(), nil, login)
			if err != nil {
				t.Fatal(err)
			}
			if provider.CheckPasswordHash(checked) != nil || provider.VerifyPassword(checked, "") {
				t.Fatalf("hash %q", checked)
			}
			again, err := s.Provider.CheckedHash(t.Context(), &storage.User{Login: login, PasswordHash: "broken"}, login)
			if err != nil || again != checked {
				t.Errorf("%q and then %q, %v", checked, again, err)
			}
			got[strings.Split(checked, "$")[3]]++
		}
		return got
	}
	got := costs(1000)
	if few := min(got["m=64,t=1,p=1"], got["m=128,t=3,p=1"]); few < 430 || len(got) != 2 {
		t.Errorf("of 1000 names %v, want half and half", got)
	}
	// New people count a while later.
	c.hashes = []string{slow, slow, slow, slow, slow, slow, slow, slow, slow}
	s.Clock.Advance(10 * time.Minute)
	if got = costs(1000); got["m=128,t=3,p=1"] < 860 || got["m=64,t=1,p=1"] < 60 {
		t.Errorf("of 1000 names %v, want nine tenths slow", got)
	}
	if own, err := s.Provider.CheckedHash(t.Context(), providertest.Alice(), "alice"); err != nil || own != hash {
		t.Errorf("a person is checked with %q, %v", own, err)
	}
}

// Where nobody has a password, unknown names cost what new passwords would.
func TestUnknownNamesOfAnEmptyServer(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	user := providertest.Alice()
	user.PasswordHash = ""
	if err := s.Store.PutUser(t.Context(), user); err != nil {
		t.Fatal(err)
	}
	fresh, err := provider.HashPassword("x")
	if err != nil {
		t.Fatal(err)
	}
	checked, err := s.Provider.CheckedHash(t.Context(), user, "alice")
	if err != nil || strings.Split(checked, "$")[3] != strings.Split(fresh, "$")[3] {
		t.Errorf("%q, %v", checked, err)
	}
	browser := s.Browser()
	page := ask(t, s, browser, "web")
	reply := s.Post(t.Context(), browser, "/login", url.Values{"csrf": {page.Hidden("csrf")}, "next": {page.Hidden("next")}, "login": {"alice"}, "password": {""}})
	if reply.Status != http.StatusOK || !isSignIn(reply) {
		t.Errorf("without a password: %d", reply.Status)
	}
}
