package provider_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// send calls one of the phone's endpoints without a body.
func (p *phone) send(method, path string) *providertest.Reply {
	p.t.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(p.t.Context()), method, p.s.URL(path), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	for name, values := range p.header {
		req.Header[name] = values
	}
	return p.s.Do(p.s.Client(), req)
}

// lost is the call of a phone that its owner has lost.
func (p *phone) lost() *providertest.Reply {
	p.t.Helper()
	return p.post(p.t.Context(), "/sessions/revoke-all", map[string]string{"reason": "lost_phone"})
}

// sids lists the phone's sign-ins in their order.
func (p *phone) sids() []string {
	p.t.Helper()
	reply := p.send(http.MethodGet, "/sessions")
	if reply.Status != http.StatusOK {
		p.t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	sids := []string{}
	for _, item := range items(reply) {
		sids = append(sids, item["sid"].(string))
	}
	return sids
}

func items(reply *providertest.Reply) []map[string]any {
	var all []map[string]any
	list, _ := reply.JSON()["sessions"].([]any)
	for _, item := range list {
		all = append(all, item.(map[string]any))
	}
	return all
}

// linked signs a device in with the phone and returns the new sid with its tokens.
func linked(t *testing.T, s *providertest.Server, p *phone, clientID string) (string, providertest.Tokens) {
	t.Helper()
	s.Clock.Advance(time.Second) // the list is in order of time
	c := openQR(t, s, clientID, url.Values{"scope": {"openid profile offline_access"}})
	_, decided := c.approve(p)
	return decided.Text("sid"), tokensOf(t, c.poll(t.Context()))
}

func wantStatus(t *testing.T, reply *providertest.Reply, status int) {
	t.Helper()
	if reply.Status != status {
		t.Errorf("got %d %s, want %d", reply.Status, reply.Body, status)
	}
}

// wantProblem checks the error of a phone endpoint.
func wantProblem(t *testing.T, reply *providertest.Reply, status int, code string) {
	t.Helper()
	wantError(t, reply, status, code)
	if got := reply.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("%s: %s", code, got)
	}
}

// TestWireOfTheSessions is the list as it goes over the wire: newest first, the phone's own among
// them, what is older than a day no longer new, a client that is gone by its id.
func TestWireOfTheSessions(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) { c.AccessTokenLifetime = 48 * time.Hour }})
	p := newPhone(t, s)
	s.Clock.Advance(time.Hour)
	linked(t, s, p, "cli")
	s.Clock.Advance(23*time.Hour + 30*time.Minute)
	linked(t, s, p, "tv")
	tv, err := s.Store.Client(t.Context(), "tv")
	if err != nil {
		t.Fatal(err)
	}
	tv.Disabled = true
	if err := s.Store.PutClient(t.Context(), tv); err != nil {
		t.Fatal(err)
	}
	s.Clock.Advance(time.Hour)
	// A sign-in in a browser is not the phone's business.
	s.SignedIn(t.Context(), s.Browser(), "web", "openid")
	reply := p.send(http.MethodGet, "/sessions")
	own := items(reply)[2]["sid"].(string)
	if items(reply)[2]["current"] != true {
		t.Errorf("%s", reply.Body)
	}
	reply.Body = strings.ReplaceAll(reply.Body, own, "phone-sid")
	wantGolden(t, "sessions", reply)
	if reply.Header.Get("Pragma") != "no-cache" || reply.Header.Get("X-Content-Type-Options") != "nosniff" || len(reply.Header.Values("Set-Cookie")) > 0 {
		t.Errorf("%v", reply.Header)
	}
}

// The mark of a new sign-in goes by the clock: looking does not take it away.
func TestSessionIsNewForADay(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) { c.AccessTokenLifetime = 48 * time.Hour }})
	p := newPhone(t, s)
	linked(t, s, p, "cli")
	for _, step := range []struct {
		wait time.Duration
		want bool
	}{{0, true}, {time.Hour, true}, {23*time.Hour - time.Second, true}, {time.Second, false}} {
		s.Clock.Advance(step.wait)
		list := items(p.send(http.MethodGet, "/sessions"))
		if len(list) != 2 || list[0]["new"] != step.want || list[1]["new"] != false {
			t.Errorf("after %v more: %v", step.wait, list)
		}
	}
}

// The full address is for a phone on the same network only (protocol §6).
func TestSessionAddressIsForTheSameNetwork(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) {
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}})
	p := newPhone(t, s)
	linked(t, s, p, "cli")
	for from, want := range map[string]any{"": "127.0.0.1", "127.0.0.77": "127.0.0.1", "203.0.113.9": nil} {
		p.header = http.Header{"X-Forwarded-For": {from}}
		if from == "" {
			p.header = nil
		}
		list := items(p.send(http.MethodGet, "/sessions"))
		if got := list[0]["address"]; got != want {
			t.Errorf("from %q: %v", from, list)
		}
		if list[1]["address"] != nil {
			t.Errorf("the phone's own address: %v", list)
		}
	}
}

// What a browser at /device approved names no phone app.
func TestSessionApprovedInABrowser(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p := newPhone(t, s)
	_, tokens := linked(t, s, p, "cli")
	own, err := s.Store.Session(t.Context(), claims(t, tokens.IDToken)["sid"].(string))
	if err != nil {
		t.Fatal(err)
	}
	own.ID, own.ApproverID, own.CreatedAt = "0123456789abcdef0123456789abcdef", "", own.CreatedAt.Add(time.Second)
	if err := s.Store.PutSession(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"sid": own.ParentID}
	if diff := cmp.Diff(want, items(p.send(http.MethodGet, "/sessions"))[0]["approved_by"]); diff != "" {
		t.Error(diff)
	}
}

// sessionCalls are the three calls, each harmless to run as often as one likes.
func sessionCalls(p *phone, sid string) map[string]func() *providertest.Reply {
	return map[string]func() *providertest.Reply{
		"list":   func() *providertest.Reply { return p.send(http.MethodGet, "/sessions") },
		"revoke": func() *providertest.Reply { return p.send(http.MethodDelete, "/sessions/"+sid) },
		"lost":   p.lost,
	}
}

// TestSessionsAreForAnApproverOnly: the three calls have the bearer rules of a scan, and whoever
// is refused has changed nothing.
func TestSessionsAreForAnApproverOnly(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy, Clients: []*storage.Client{{
		ID: "former", Name: "Former App", SecretHashes: providertest.Clients()[0].SecretHashes, RedirectURIs: []string{providertest.RedirectURI}, FirstParty: true,
		Approver: true, GrantTypes: []string{"authorization_code"}, Scopes: []string{"openid", qr.ApproveScope},
	}}})
	good := newPhone(t, s)
	sid, qrBorn := linked(t, s, good, "cli")
	former := s.SignedIn(t.Context(), s.Browser(), "former", "openid "+qr.ApproveScope)
	client, err := s.Store.Client(t.Context(), "former")
	if err != nil {
		t.Fatal(err)
	}
	client.Approver = false
	if err := s.Store.PutClient(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	browser := s.Browser()
	unscoped := s.SignedIn(t.Context(), browser, "phone", "openid offline_access")
	out := newPhone(t, s)
	wantStatus(t, out.lost(), http.StatusNoContent)
	cookies := ""
	issuer, err := url.Parse(s.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range browser.Jar.Cookies(issuer) {
		cookies += c.Name + "=" + c.Value + "; "
	}
	for name, c := range map[string]struct {
		token  string
		header http.Header
		status int
		code   string
	}{
		"no token":                         {"", nil, 401, "invalid_token"},
		"a cookie":                         {"", http.Header{"Cookie": {cookies}}, 401, "invalid_token"},
		"another scheme":                   {"", http.Header{"Authorization": {"Basic " + good.token}}, 401, "invalid_token"},
		"two tokens":                       {"", http.Header{"Authorization": {"Bearer " + good.token, "Bearer " + good.token}}, 401, "invalid_token"},
		"an unknown token":                 {"x", nil, 401, "invalid_token"},
		"a refresh token":                  {unscoped.RefreshToken, nil, 401, "invalid_token"},
		"a sign-in that has ended":         {out.token, nil, 401, "invalid_token"},
		"without the scope":                {unscoped.AccessToken, nil, 403, "insufficient_scope"},
		"born of a QR approval":            {qrBorn.AccessToken, nil, 403, "approver_not_allowed"},
		"a client that approves no longer": {former.AccessToken, nil, 403, "approver_not_allowed"},
	} {
		p := &phone{t: t, s: s, token: c.token, header: c.header}
		for call, ask := range sessionCalls(p, sid) {
			reply := ask()
			wantProblem(t, reply, c.status, c.code)
			if challenge := reply.Header.Get("WWW-Authenticate"); (c.status == 401 || c.code == "insufficient_scope") != strings.HasPrefix(challenge, "Bearer") {
				t.Errorf("%s, %s: challenge %q", name, call, challenge)
			}
		}
	}
	if got := good.sids(); len(got) != 2 || got[0] != sid {
		t.Errorf("left: %v", got)
	}
}

// What is another person's, unknown, or no sign-in of the list cannot be told apart.
func TestSessionRevocationOfAForeignSignIn(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	alice, bob := newPhone(t, s), newPhoneOf(t, s, "bob")
	bobs, tokens := linked(t, s, bob, "cli")
	password := claims(t, s.SignedIn(t.Context(), s.Browser(), "web", "openid").IDToken)["sid"].(string)
	unknown := alice.send(http.MethodDelete, "/sessions/0123456789abcdef0123456789abcdef")
	wantProblem(t, unknown, http.StatusNotFound, "not_found")
	for _, sid := range []string{bobs, password, "revoke-all", "%00", "a%20b", strings.Repeat("a", 4096)} {
		wantSame(t, sid, alice.send(http.MethodDelete, "/sessions/"+sid), unknown)
	}
	wantStatus(t, s.Bearer(t.Context(), "/userinfo", tokens.AccessToken), http.StatusOK)
	if got, err := s.Store.Session(t.Context(), password); err != nil || !got.EndedAt.IsZero() {
		t.Errorf("%+v %v", got, err)
	}
	wantStatus(t, alice.lost(), http.StatusNoContent)
	if got := bob.sids(); len(got) != 2 || got[0] != bobs {
		t.Errorf("bob has %v", got)
	}
}

func TestSessionRevocationAgain(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p := newPhone(t, s)
	sid, _ := linked(t, s, p, "cli")
	other, tokens := linked(t, s, p, "tv")
	for range 3 {
		reply := p.send(http.MethodDelete, "/sessions/"+sid)
		if reply.Status != http.StatusNoContent || reply.Body != "" || reply.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%d %s %v", reply.Status, reply.Body, reply.Header)
		}
	}
	if got := p.sids(); len(got) != 2 || got[0] != other {
		t.Errorf("left: %v", got)
	}
	wantStatus(t, s.Bearer(t.Context(), "/userinfo", tokens.AccessToken), http.StatusOK)
	if got := revokedRows(t, s); len(got) != 1 || got[0].SessionID != sid || got[0].Detail != "phone" || got[0].ClientID != "cli" || got[0].ApproverID != "phone" {
		t.Errorf("audit: %+v", got)
	}

	// Its own sign-in too; what it approved stays, for that is offered and not forced.
	own := p.sids()[1]
	wantStatus(t, p.send(http.MethodDelete, "/sessions/"+own), http.StatusNoContent)
	wantProblem(t, p.send(http.MethodGet, "/sessions"), http.StatusUnauthorized, "invalid_token")
	wantStatus(t, s.Bearer(t.Context(), "/userinfo", tokens.AccessToken), http.StatusOK)
}

// endsFail fails to end sign-ins.
type endsFail struct {
	storage.Store
	on atomic.Bool
}

func (f *endsFail) EndSession(ctx context.Context, id string, at time.Time) error {
	if f.on.Load() {
		return storage.ErrFull
	}
	return f.Store.EndSession(ctx, id, at)
}

// A sign-in that could not be ended is not written down as revoked; once it is ended, it is.
func TestSessionRevocationFails(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"revoke", "lost"} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			store := &endsFail{}
			s := providertest.NewServer(t, providertest.Options{Wrap: func(inner storage.Store) storage.Store { store.Store = inner; return store }})
			p := newPhone(t, s)
			sid, _ := linked(t, s, p, "cli")
			store.on.Store(true)
			if reply := sessionCalls(p, sid)[call](); reply.Status < http.StatusInternalServerError {
				t.Errorf("%d %s", reply.Status, reply.Body)
			}
			if got := revokedRows(t, s); len(got) != 0 {
				t.Errorf("audit: %+v", got)
			}
			store.on.Store(false)
			// A lost phone's tokens are revoked by now: another sign-in of the same person goes on.
			if reply := sessionCalls(newPhone(t, s), sid)["revoke"](); reply.Status != http.StatusNoContent {
				t.Errorf("%d %s", reply.Status, reply.Body)
			}
			if got := revokedRows(t, s); len(got) != 1 || got[0].SessionID != sid {
				t.Errorf("audit: %+v", got)
			}
		})
	}
}

// revokedRows are the audit rows of sign-ins that were ended.
func revokedRows(t *testing.T, s *providertest.Server) []storage.AuditEvent {
	t.Helper()
	// What is written behind is on disk after a durable write; a sweep may have nothing to write.
	if err := s.Store.PutUser(t.Context(), providertest.Alice()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Provider.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	events, _, err := s.Store.Events(t.Context(), nil, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var rows []storage.AuditEvent
	for _, e := range events {
		if e.Type == storage.EventQRRevoked {
			rows = append(rows, e)
		}
	}
	return rows
}

// TestLostPhoneCascades: with the phone's sign-in ends what it approved, also before it was asked
// to sign in again; what another phone approved and what a password opened stays.
func TestLostPhoneCascades(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	browser := s.Browser()
	before := &phone{t: t, s: s, token: s.SignedIn(t.Context(), browser, "phone", "openid "+qr.ApproveScope).AccessToken}
	_, first := linked(t, s, before, "cli")
	// The same phone after a step-up: a new sign-in takes the place of the old one.
	verifier, challenge := providertest.Verifier()
	query := providertest.AuthorizeQuery("phone", "openid "+qr.ApproveScope, challenge)
	query.Set("prompt", "login")
	again := tokensOf(t, s.Redeem(t.Context(), "phone", s.Code(t.Context(), browser, query), verifier))
	lost := &phone{t: t, s: s, token: again.AccessToken}
	_, second := linked(t, s, lost, "cli")
	waiting := openQR(t, s, "cli", nil)
	scan, code := waiting.claim(lost)
	approved := openQR(t, s, "cli", nil)
	approved.approve(lost)

	other := newPhone(t, s)
	_, kept := linked(t, s, other, "cli")
	web := s.SignedIn(t.Context(), s.Browser(), "web", "openid")
	if got := other.sids(); len(got) != 4 {
		t.Fatalf("listed: %v", got)
	}
	reply := lost.lost()
	if reply.Status != http.StatusNoContent || reply.Body != "" {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	for name, token := range map[string]string{"approved before the step-up": first.AccessToken, "approved": second.AccessToken, "the phone": lost.token, "the phone before": before.token} {
		if reply := s.Bearer(t.Context(), "/userinfo", token); reply.Status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Body)
		}
	}
	wantProblem(t, lost.decide(scan, "approve", code), http.StatusUnauthorized, "invalid_token")
	wantError(t, waiting.poll(t.Context()), http.StatusBadRequest, "access_denied")
	wantError(t, approved.poll(t.Context()), http.StatusBadRequest, "access_denied")
	for name, token := range map[string]string{"another phone's": kept.AccessToken, "with a password": web.AccessToken} {
		if reply := s.Bearer(t.Context(), "/userinfo", token); reply.Status != http.StatusOK {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Body)
		}
	}
	if got := revokedRows(t, s); len(got) < 2 {
		t.Errorf("audit: %+v", got)
	}
}

func TestLostPhoneNeedsItsReason(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p := newPhone(t, s)
	for body, status := range map[string]int{
		`{}`: 400, `{"reason":"tidy"}`: 400, `{"reason":1}`: 400, `{"reason":"lost_phone","reason":"lost_phone"}`: 400, ``: 400, `[]`: 400,
	} {
		wantProblem(t, p.postRaw(t.Context(), "/sessions/revoke-all", "application/json", []byte(body)), status, "invalid_request")
	}
	wantProblem(t, p.postRaw(t.Context(), "/sessions/revoke-all", "text/plain", []byte(`{"reason":"lost_phone"}`)), http.StatusUnsupportedMediaType, "invalid_request")
	wantProblem(t, p.postRaw(t.Context(), "/sessions/revoke-all", "application/json", bytes.Repeat([]byte(" "), 1<<20)), http.StatusRequestEntityTooLarge, "invalid_request")
	p.sids()
}

func TestSessionsRefuseOtherMethods(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Path: "/id"})
	p := newPhone(t, s)
	for path, allow := range map[string]string{"/sessions": "GET", "/sessions/abc": "DELETE", "/sessions/revoke-all": "POST"} {
		reply := p.send(http.MethodPut, path)
		wantProblem(t, reply, http.StatusMethodNotAllowed, "invalid_request")
		if got := reply.Header.Get("Allow"); got != allow {
			t.Errorf("%s: Allow %q", path, got)
		}
	}
}

// Script of the app's own origin may read the answers, and no other.
func TestSessionsFromScript(t *testing.T) {
	t.Parallel()
	s := corsServer(t)
	for path, methods := range map[string]string{"/sessions": "GET", "/sessions/abc": "DELETE", "/sessions/revoke-all": "POST"} {
		ask := map[string]string{"Access-Control-Request-Method": methods, "Access-Control-Request-Headers": "authorization,content-type"}
		reply := fromOrigin(t, s, http.MethodOptions, path, webOrigin, nil, ask)
		if reply.Status != http.StatusNoContent || reply.Header.Get("Access-Control-Allow-Methods") != methods || reply.Header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: %d %v", path, reply.Status, reply.Header)
		}
		if reply := fromOrigin(t, s, http.MethodOptions, path, alienOrigin, nil, ask); reply.Status != http.StatusForbidden {
			t.Errorf("%s from elsewhere: %d", path, reply.Status)
		}
	}
	for _, path := range []string{"/sessions/", "/sessions/a/b", "/sessionsx"} {
		if reply := fromOrigin(t, s, http.MethodOptions, path, webOrigin, nil, map[string]string{"Access-Control-Request-Method": "GET"}); reply.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %d %v", path, reply.Status, reply.Header)
		}
	}
	p := newPhone(t, s)
	for origin, want := range map[string]string{"http://127.0.0.1": "http://127.0.0.1", webOrigin: "", alienOrigin: ""} {
		p.header = http.Header{"Origin": {origin}}
		if got := p.send(http.MethodGet, "/sessions").Header.Get("Access-Control-Allow-Origin"); got != want {
			t.Errorf("from %s: %q", origin, got)
		}
	}
}

// unlisted is a store that cannot list sign-ins while fails is set.
type unlisted struct {
	storage.Store
	fails atomic.Bool
}

func (u *unlisted) SessionsBySubject(ctx context.Context, subject string) ([]*storage.Session, error) {
	if u.fails.Load() {
		return nil, errors.New("the disk is gone")
	}
	return u.Store.SessionsBySubject(ctx, subject)
}

// A stopped store is a fault of ours, in words that say nothing.
func TestSessionsWithoutAStore(t *testing.T) {
	t.Parallel()
	broken := &unlisted{}
	s := providertest.NewServer(t, providertest.Options{Wrap: func(inner storage.Store) storage.Store { broken.Store = inner; return broken }})
	p := newPhone(t, s)
	broken.fails.Store(true)
	wantProblem(t, p.send(http.MethodGet, "/sessions"), http.StatusInternalServerError, "server_error")
	wantProblem(t, p.lost(), http.StatusInternalServerError, "server_error")
	broken.fails.Store(false)
	p.sids()
}
