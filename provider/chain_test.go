package provider_test

import (
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// told collects the sids of n logout tokens by client.
func told(t *testing.T, o *op, r *receiver, n int) map[string][]string {
	t.Helper()
	got := make(map[string][]string)
	for range n {
		req := r.wait(t)
		sid, _ := o.verified(req.PostForm.Get("logout_token"), "logout+jwt")["sid"].(string)
		got[req.URL.Path] = append(got[req.URL.Path], sid)
	}
	return got
}

// Whoever asked for a fresh sign-in has a sid of its own, and all of them end when the person
// signs out: each client hears of the sid it knows, and no token lives on.
func TestSignOutEndsEarlierSignInsOfTheBrowser(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	o := withReceiver(t, r, nil)
	first, a := o.tokens("scope", "openid offline_access", "prompt", "consent")
	o.Clock.Advance(10 * time.Second)
	_, b := o.tokens("client_id", "rp2", "prompt", "login")
	o.Clock.Advance(10 * time.Second)
	third, c := o.tokens("max_age", "1")
	if a["sid"] == b["sid"] || b["sid"] == c["sid"] {
		t.Fatalf("sids %v, %v, %v", a["sid"], b["sid"], c["sid"])
	}
	// A fresh sign-in takes nothing from the clients of the earlier one.
	o.userinfo(first.AccessToken)
	o.leave(url.Values{"id_token_hint": {third.IDToken}})
	o.wantLeft()
	got := told(t, o, r, 3)
	slices.Sort(got["/rp"])
	want := []string{a["sid"].(string), c["sid"].(string)}
	slices.Sort(want)
	if !slices.Equal(got["/rp"], want) || !slices.Equal(got["/rp2"], []string{b["sid"].(string)}) {
		t.Errorf("told %v; sids %v, %v, %v", got, a["sid"], b["sid"], c["sid"])
	}
	for _, token := range []string{first.AccessToken, third.AccessToken} {
		wantError(t, o.Bearer(t.Context(), "/userinfo", token), 401, "invalid_token")
	}
	wantError(t, refresh(t, o.Server, "rp", first.RefreshToken, nil), 400, "invalid_grant")
}

// When another person signs in in the browser, what the one before had there ends at once, with
// everything it took the place of: nobody could sign out of it any more.
func TestAnotherPersonsSignInEndsTheFirst(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	o := withReceiver(t, r, nil)
	addPerson(t, o.Server, "bob")
	first, a := o.tokens()
	second, b := o.tokens("client_id", "rp2", "prompt", "login")
	page := o.ask("prompt", "login")
	reply := o.Post(t.Context(), o.browser, "/login", url.Values{
		"csrf": {page.Hidden("csrf")}, "next": {page.Hidden("next")}, "login": {"bob"}, "password": {providertest.AlicePassword},
	})
	if reply.Hidden("request") == "" {
		t.Fatalf("bob is not asked: %d %s", reply.Status, reply.Body)
	}
	got := told(t, o, r, 2)
	if !slices.Equal(got["/rp"], []string{a["sid"].(string)}) || !slices.Equal(got["/rp2"], []string{b["sid"].(string)}) {
		t.Errorf("told %v; sids %v, %v", got, a["sid"], b["sid"])
	}
	for _, token := range []string{first.AccessToken, second.AccessToken} {
		wantError(t, o.Bearer(t.Context(), "/userinfo", token), 401, "invalid_token")
	}
	sessions, err := o.Store.SessionsBySubject(t.Context(), "bob")
	if err != nil || len(sessions) != 1 || sessions[0].ReplacesID != "" {
		t.Errorf("bob's sign-ins: %v, %v", sessions, err)
	}
}

// A sign-in by QR code takes the place of an earlier one in the same way, keeps its mark, and the
// password after it makes one without.
func TestQRSignInFollowsAndIsFollowed(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	browser := s.Browser()
	sessionOf := func(idToken string) *storage.Session {
		t.Helper()
		session, err := s.Store.Session(t.Context(), claims(t, idToken)["sid"].(string))
		if err != nil {
			t.Fatal(err)
		}
		return session
	}
	one := sessionOf(s.SignedIn(t.Context(), browser, "web", "openid").IDToken)
	s.Clock.Advance(time.Second)
	two := sessionOf(visit(t, s, browser, "shop", "prompt", "login").signedIn(newPhone(t, s)).IDToken)
	s.Clock.Advance(time.Second)
	third := visit(t, s, browser, "shop", "prompt", "login")
	redirect := s.SignIn(t.Context(), browser, third.page)
	three := sessionOf(tokensOf(t, s.Redeem(t.Context(), "shop", redirect, third.verifier)).IDToken)
	if two.ReplacesID != one.ID || !two.QRBorn || three.ReplacesID != two.ID || three.QRBorn {
		t.Errorf("%+v after %+v after %+v", three, two, one)
	}
	// A phone of somebody else's ends what the browser had.
	addPerson(t, s, "bob")
	s.Clock.Advance(time.Second)
	four := sessionOf(visit(t, s, browser, "shop", "prompt", "login").signedIn(newPhoneOf(t, s, "bob")).IDToken)
	if four.ReplacesID != "" || four.Subject != "bob" {
		t.Errorf("bob's: %+v", four)
	}
	for _, id := range []string{one.ID, two.ID, three.ID} {
		if session, err := s.Store.Session(t.Context(), id); err != nil || session.EndedAt.IsZero() {
			t.Errorf("%+v, %v", session, err)
		}
	}
}

// A chain that leads in a circle, to nobody or to another person ends there.
func TestChainsOfSignInsEnd(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	sid := claims(t, s.SignedIn(t.Context(), browser, "web", "openid").IDToken)["sid"].(string)
	mine, err := s.Store.Session(t.Context(), sid)
	if err != nil {
		t.Fatal(err)
	}
	put := func(id, subject, replaces string) {
		t.Helper()
		session := *mine
		session.ID, session.Subject, session.ReplacesID = id, subject, replaces
		if err := s.Store.PutSession(t.Context(), &session); err != nil {
			t.Fatal(err)
		}
	}
	put(sid, mine.Subject, "earlier")
	put("earlier", mine.Subject, "ended")
	put("ended", mine.Subject, "first")
	put("first", mine.Subject, sid)
	put("bobs", "bob", "")
	if err := s.Store.EndSession(t.Context(), "ended", s.Clock.Now()); err != nil {
		t.Fatal(err)
	}
	page := s.Get(t.Context(), browser, "/logout")
	if reply := s.Post(t.Context(), browser, "/logout", url.Values{"csrf": {page.Hidden("csrf")}, "request": {page.Hidden("request")}}); reply.Status != 200 {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	for _, id := range []string{sid, "earlier", "first"} {
		if session, err := s.Store.Session(t.Context(), id); err != nil || session.EndedAt.IsZero() {
			t.Errorf("%s has not ended: %v", id, err)
		}
	}
	sid = claims(t, s.SignedIn(t.Context(), browser, "web", "openid").IDToken)["sid"].(string)
	if mine, err = s.Store.Session(t.Context(), sid); err != nil {
		t.Fatal(err)
	}
	put(sid, mine.Subject, "bobs")
	page = s.Get(t.Context(), browser, "/logout")
	s.Post(t.Context(), browser, "/logout", url.Values{"csrf": {page.Hidden("csrf")}, "request": {page.Hidden("request")}})
	if session, err := s.Store.Session(t.Context(), sid); err != nil || session.EndedAt.IsZero() {
		t.Errorf("not signed out: %v", err)
	}
	if session, err := s.Store.Session(t.Context(), "bobs"); err != nil || !session.EndedAt.IsZero() {
		t.Errorf("another person's sign-in has ended: %v", err)
	}
}

// The last access token of a family lives as long as it was said to.
func TestLastAccessTokenOutlivesTheFamily(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) {
		c.SessionLifetime, c.SessionIdle, c.RefreshTokenLifetime = time.Hour, time.Hour, 24*time.Hour
	}})
	browser := s.Browser()
	s.SignedIn(t.Context(), browser, "web", "openid")
	// The last code of the sign-in, redeemed and refreshed at the last moment.
	s.Clock.Advance(time.Hour - time.Second)
	verifier, challenge := providertest.Verifier()
	redirect := s.Code(t.Context(), browser, providertest.AuthorizeQuery("web", "openid offline_access", challenge))
	s.Clock.Advance(59 * time.Second)
	tokens := tokensOf(t, s.Redeem(t.Context(), "web", redirect, verifier))
	s.Clock.Advance(24*time.Hour - time.Second)
	last := tokensOf(t, refresh(t, s, "web", tokens.RefreshToken, nil))
	s.Clock.Advance(time.Duration(last.ExpiresIn)*time.Second - time.Second)
	if _, err := s.Provider.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if reply := s.Bearer(t.Context(), "/userinfo", last.AccessToken); reply.Status != 200 {
		t.Errorf("%d after %d of its seconds", reply.Status, last.ExpiresIn-1)
	}
	s.Clock.Advance(time.Second)
	wantError(t, s.Bearer(t.Context(), "/userinfo", last.AccessToken), 401, "invalid_token")
}
