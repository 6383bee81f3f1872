package provider_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
)

func silent(t *testing.T, s *providertest.Server, browser *http.Client) bool {
	t.Helper()
	return ask(t, s, browser, "web", "prompt", "none").Location().Query().Get("code") != ""
}

// A sign-in that nobody uses ends after the idle time, one that is used after its lifetime.
func TestSessionEndsWhenIdle(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) { c.SessionIdle, c.SessionLifetime = time.Hour, 5*time.Hour }})
	used, idle := s.Browser(), s.Browser()
	s.SignedIn(t.Context(), used, "web", "openid")
	s.SignedIn(t.Context(), idle, "web", "openid")
	for range 4 {
		s.Clock.Advance(59 * time.Minute)
		if !silent(t, s, used) {
			t.Fatal("a sign-in in use has ended")
		}
	}
	if silent(t, s, idle) {
		t.Error("an idle sign-in lasts")
	}
	s.Clock.Advance(59 * time.Minute)
	if !silent(t, s, used) {
		t.Error("ended before its lifetime")
	}
	s.Clock.Advance(5 * time.Minute)
	if silent(t, s, used) {
		t.Error("use has made the lifetime longer")
	}
}

// The note of the last use is sealed for its sign-in: without it, with an old one or with that of
// another sign-in the idle time is over no later.
func TestSessionIdleNoteCannotBeForged(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) { c.SessionIdle = time.Hour }})
	victim, other := s.Browser(), s.Browser()
	s.SignedIn(t.Context(), victim, "web", "openid")
	s.Clock.Advance(50 * time.Minute)
	s.SignedIn(t.Context(), other, "web", "openid")
	s.Clock.Advance(20 * time.Minute)
	if !silent(t, s, other) {
		t.Fatal("the other sign-in has ended")
	}
	u, err := url.Parse(s.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	var note string
	for _, c := range other.Jar.Cookies(u) {
		if c.Name == "__Host-qrgrant-seen" {
			note = c.Value
		}
	}
	if note == "" {
		t.Fatal("no note of the use")
	}
	for _, value := range []string{"", note, "zzzzzz.AAAA"} {
		victim.Jar.SetCookies(u, []*http.Cookie{{Name: "__Host-qrgrant-seen", Value: value, Path: "/", Secure: true}})
		if silent(t, s, victim) {
			t.Errorf("note %q keeps an idle sign-in", value)
		}
	}
}

// One sign-in serves several relying parties under one sid; select_account asks again.
func TestSingleSignOnOverSeveralClients(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	browser := s.Browser()
	first := claims(t, s.SignedIn(t.Context(), browser, "web", "openid").IDToken)
	second := claims(t, s.SignedIn(t.Context(), browser, "shop", "openid").IDToken)
	if first["sid"] != second["sid"] || first["sid"] == nil {
		t.Errorf("sid %v and %v", first["sid"], second["sid"])
	}
	for _, harmless := range [][]string{{"display", "popup"}, {"ui_locales", "se"}, {"claims_locales", "se"}, {"acr_values", "urn:none:such"}, {"state", ""}, {"state", "x"}} {
		if reply := ask(t, s, browser, "shop", harmless...); reply.Location().Query().Get("code") == "" || reply.Location().Query().Get("state") != map[string]string{"state": harmless[1]}[harmless[0]] && harmless[0] == "state" {
			t.Errorf("%v: %d %s", harmless, reply.Status, reply.Header.Get("Location"))
		}
	}
	// With another account chosen the old session is not upgraded: the sid is new.
	addPerson(t, s, "bob")
	b := visit(t, s, browser, "shop", "prompt", "select_account")
	tokens := b.signedIn(newPhoneOf(t, s, "bob"))
	if got := claims(t, tokens.IDToken); got["sub"] != "bob" || got["sid"] == first["sid"] {
		t.Errorf("select_account: %v", got)
	}
	// What is marked now serves only who accepts a QR sign-in.
	if reply := ask(t, s, browser, "web", "prompt", "none"); errorOf(reply) != "login_required" {
		t.Errorf("a client without QR sign-in: %s", reply.Header.Get("Location"))
	}
	if reply := ask(t, s, browser, "shop", "prompt", "none"); reply.Location().Query().Get("code") == "" {
		t.Errorf("the shop: %s", reply.Header.Get("Location"))
	}
}

// The time of the request survives the detour over the sign-in page, however long it takes.
func TestRequestTimeSurvivesTheDetour(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	for _, changes := range [][]string{{"prompt", "login"}, {"max_age", "0"}, {"max_age", "1"}} {
		b := visit(t, s, s.Browser(), "shop", changes...)
		s.Clock.Advance(90 * time.Second)
		redirect := s.SignIn(t.Context(), b.browser, b.page)
		s.Clock.Advance(30 * time.Second)
		tokensOf(t, s.Redeem(t.Context(), "shop", redirect, b.verifier))
	}
}
