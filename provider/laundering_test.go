package provider_test

import (
	"crypto/sha256"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// Approval laundering (protocol §8): one approval that a person was tricked into must not make
// something that approves further ones.

// launderingClients ask for everything a registration could wrongly hold: both a device grant
// and the approver's scope and mark.
func launderingClients() []*storage.Client {
	scopes := []string{"openid", "profile", "email", "offline_access", qr.ApproveScope}
	policy := storage.QRPolicy{Enabled: true, AllowedScopes: scopes, OfflineAccess: true}
	return []*storage.Client{
		{ID: "launder-qr", GrantTypes: []string{qr.GrantType, "refresh_token"}, Scopes: scopes, QR: policy, Approver: true},
		{ID: "launder-tv", GrantTypes: []string{qr.DeviceGrantType, "refresh_token"}, Scopes: scopes, QR: policy, Approver: true},
		{
			ID: "shop", Name: "Shop", SecretHashes: providertest.Clients()[0].SecretHashes, RedirectURIs: []string{providertest.RedirectURI}, FirstParty: true,
			GrantTypes: []string{"authorization_code", "refresh_token"}, Scopes: []string{"openid", "profile", "email", "offline_access"},
			QR: storage.QRPolicy{Enabled: true, AllowedScopes: []string{"openid", "profile", "offline_access"}, OfflineAccess: true},
		},
		{
			ID: "kept-short", SecretHashes: providertest.Clients()[0].SecretHashes, RedirectURIs: []string{providertest.RedirectURI}, FirstParty: true,
			GrantTypes: []string{"authorization_code", "refresh_token"}, Scopes: []string{"openid", "offline_access"},
			QR: storage.QRPolicy{Enabled: true, AllowedScopes: []string{"openid", "offline_access"}},
		},
	}
}

// wantNoApprover fails when the access token can do anything at the phone endpoints.
func wantNoApprover(t *testing.T, s *providertest.Server, what, token string) {
	t.Helper()
	if !active(t, s, token) {
		t.Errorf("%s: the token is not even active", what)
	}
	victim, claimed := openQR(t, s, "cli", nil), openQR(t, s, "cli", nil)
	scan, code := claimed.claim(newPhone(t, s))
	was, wasClaimed := victim.record(), claimed.record()
	p := &phone{t: t, s: s, token: token}
	for where, reply := range map[string]*providertest.Reply{
		"scan": p.scan(payload(victim.opened), "scanner"), "scan by code": p.scanCode(victim.userCode()),
		"approve": p.decide(scan, "approve", code), "deny": p.decide(scan, "deny", ""), "report": p.decide(scan, "report", ""),
	} {
		if reply.Status != http.StatusForbidden || reply.Text("error") != "approver_not_allowed" {
			t.Errorf("%s: %s: %d %s", what, where, reply.Status, reply.Body)
		}
	}
	wantUnmoved(t, victim, was)
	wantUnmoved(t, claimed, wasClaimed)
}

func TestLaunderingByRedeemedTokens(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"cli", "tv", "launder-qr", "launder-tv"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{Change: roomy, Clients: launderingClients()})
			scope := "openid profile offline_access"
			if strings.HasPrefix(client, "launder") {
				scope += " " + qr.ApproveScope
			}
			_, tokens := signIn(t, s, client, url.Values{"scope": {scope}})
			if strings.Contains(tokens.Scope, "qr:") {
				t.Errorf("an approval granted %q", tokens.Scope)
			}
			wantNoApprover(t, s, "redeemed", tokens.AccessToken)
			for _, wider := range []string{qr.ApproveScope, "openid " + qr.ApproveScope, "email"} {
				reply := s.Post(t.Context(), s.Client(), "/token", url.Values{
					"grant_type": {"refresh_token"}, "refresh_token": {tokens.RefreshToken}, "client_id": {client}, "scope": {wider},
				})
				wantError(t, reply, http.StatusBadRequest, "invalid_scope")
			}
			for range 2 {
				tokens = tokensOf(t, refreshed(t, s, client, tokens.RefreshToken))
				if strings.Contains(tokens.Scope, "qr:") {
					t.Errorf("a refresh granted %q", tokens.Scope)
				}
				wantNoApprover(t, s, "refreshed", tokens.AccessToken)
			}
		})
	}
}

// TestLaunderingByAskingForTheScope: the scope is not shown, not granted and not in a token,
// and a client that is not registered for it may not even ask.
func TestLaunderingByAskingForTheScope(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy, Clients: launderingClients()})
	p := newPhone(t, s)
	for _, client := range []string{"cli", "tv", "kiosk"} {
		wantError(t, tryOpenQR(t, s, client, url.Values{"scope": {"openid " + qr.ApproveScope}}).opened, http.StatusBadRequest, "invalid_scope")
	}
	for _, scope := range []string{"openid " + qr.ApproveScope, qr.ApproveScope} {
		c := openQR(t, s, "launder-qr", url.Values{"scope": {scope}})
		scan, code := c.claim(p)
		if strings.Contains(shownScopes(scan), "qr:") {
			t.Errorf("the person is asked for %q", shownScopes(scan))
		}
		ticked := decision(scan, "approve", code)
		ticked["scope"] = qr.ApproveScope
		wantError(t, p.post(t.Context(), "/qr/decision", ticked), http.StatusBadRequest, "invalid_request")
		if reply := p.decide(scan, "approve", code); reply.Status != http.StatusOK {
			t.Fatalf("approval: %d %s", reply.Status, reply.Body)
		}
		if tokens := tokensOf(t, c.poll(t.Context())); strings.Contains(tokens.Scope, "qr:") {
			t.Errorf("granted %q", tokens.Scope)
		}
	}
}

// qrBornBrowser is a browser whose sign-in is one that a QR approval made, as the hosted door
// makes it.
func qrBornBrowser(t *testing.T, s *providertest.Server) (browser *http.Client, sid string) {
	t.Helper()
	const cookie = "qr-born-session-of-a-test.with-a-secret-half-behind-it"
	sid, _, _ = strings.Cut(cookie, ".")
	now := s.Clock.Now()
	err := s.Store.PutSession(t.Context(), &storage.Session{
		ID: sid, Subject: providertest.AliceSubject, CookieHash: sha256.Sum256([]byte(cookie)), QRBorn: true, ParentID: "phone-session",
		ClientID: "shop", ApproverID: "phone", AuthTime: now, AMR: []string{"pwd", "mca"}, CreatedAt: now, ExpiresAt: now.Add(24 * time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := url.Parse(s.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	browser = s.Browser()
	browser.Jar.SetCookies(issuer, []*http.Cookie{{Name: "__Host-qrgrant", Value: cookie, Path: "/", Secure: true}})
	return browser, sid
}

// marked reports whether the stored record of a token holds the mark.
func marked(t *testing.T, s *providertest.Server, kind storage.TokenKind, token string) bool {
	t.Helper()
	stored, err := s.Store.Token(t.Context(), kind, sha256.Sum256([]byte(token)))
	if err != nil {
		t.Fatal(err)
	}
	var record map[int]any
	if err := cbor.Unmarshal(stored.Data, &record); err != nil {
		t.Fatal(err)
	}
	facts, _ := record[recordFacts].(map[any]any)
	mark, _ := facts[uint64(factQRBorn)].(bool)
	return mark
}

func TestLaunderingBySingleSignOn(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Clients: launderingClients()})
	browser, _ := qrBornBrowser(t, s)
	// Where the marked sign-in is good enough it is used, so the refusals below are refusals.
	if reply := ask(t, s, browser, "shop"); reply.Location().Query().Get("code") == "" {
		t.Fatalf("the marked sign-in works nowhere: %d %s", reply.Status, reply.Body)
	}
	_, challenge := providertest.Verifier()
	for name, row := range map[string]struct{ client, scope string }{
		"the approver client, without the scope": {"phone", "openid"},
		"the approver client":                    {"phone", "openid " + qr.ApproveScope},
		"a client without QR sign-in":            {"web", "openid"},
		"a scope beyond the client's QR policy":  {"shop", "openid email"},
		"offline access that QR does not give":   {"kept-short", "openid offline_access"},
	} {
		query := providertest.AuthorizeQuery(row.client, row.scope, challenge)
		if reply := s.Get(t.Context(), browser, "/authorize?"+query.Encode()); !isSignIn(reply) {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Header.Get("Location"))
		}
		query.Set("prompt", "none")
		if got := errorOf(s.Get(t.Context(), browser, "/authorize?"+query.Encode())); got != "login_required" {
			t.Errorf("%s, silently: %q", name, got)
		}
	}
}

// TestLaunderingKeepsTheMark: code, access token, refresh token and what is refreshed.
func TestLaunderingKeepsTheMark(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy, Clients: launderingClients()})
	browser, sid := qrBornBrowser(t, s)
	verifier, challenge := providertest.Verifier()
	redirect := s.Code(t.Context(), browser, providertest.AuthorizeQuery("shop", "openid offline_access", challenge))
	code := redirect.Location().Query().Get("code")
	if !marked(t, s, storage.TokenCode, code) {
		t.Error("the code lost the mark")
	}
	tokens := tokensOf(t, s.Redeem(t.Context(), "shop", redirect, verifier))
	for _, generation := range []string{"exchanged", "refreshed", "refreshed twice"} {
		if !marked(t, s, storage.TokenAccess, tokens.AccessToken) || !marked(t, s, storage.TokenRefresh, tokens.RefreshToken) {
			t.Errorf("%s: the mark is lost", generation)
		}
		if got := claims(t, tokens.IDToken)["sid"]; got != sid {
			t.Errorf("%s: sid %v", generation, got)
		}
		wantNoApprover(t, s, generation, tokens.AccessToken)
		tokens = tokensOf(t, refresh(t, s, "shop", tokens.RefreshToken, nil))
	}
	// The family lives as long as one of a QR approval does, whatever door it left by.
	s.Clock.Advance(24 * time.Hour)
	wantError(t, refresh(t, s, "shop", tokens.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
}

// TestLaunderingAtThePages: a marked browser neither claims nor decides at /device, and is
// offered a fresh sign-in, which is another session.
func TestLaunderingAtThePages(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy, Clients: launderingClients()})
	browser, sid := qrBornBrowser(t, s)
	c := openQR(t, s, "tv", nil)
	was := c.record()

	// A person's own page gives good form tokens; the cookie of the marked session then sends them.
	own := s.Browser()
	s.SignedIn(t.Context(), own, "web", "openid")
	good := s.Get(t.Context(), own, "/device?user_code="+c.userCode())
	for what, form := range map[string]url.Values{
		"a claim":           {"csrf": {good.Hidden("csrf")}, "step": {"claim"}, "user_code": {c.userCode()}},
		"a decision":        {"csrf": {good.Hidden("csrf")}, "step": {"decide"}, "decision": {"approve"}, "card": {"e30"}},
		"no step":           {"csrf": {good.Hidden("csrf")}, "user_code": {c.userCode()}},
		"without any token": {"user_code": {c.userCode()}},
	} {
		reply := s.Post(t.Context(), browser, "/device", form)
		if !isSignIn(reply) || !strings.Contains(reply.Body, "signed in here by another device") {
			t.Errorf("%s: %d %s", what, reply.Status, reply.Body)
		}
	}
	wantUnmoved(t, c, was)

	page := s.Get(t.Context(), browser, "/device?user_code="+c.userCode())
	if !isSignIn(page) || !strings.Contains(page.Body, "signed in here by another device") {
		t.Fatalf("/device: %d %s", page.Status, page.Body)
	}
	back := s.SignIn(t.Context(), browser, page)
	device := s.Get(t.Context(), browser, back.Header.Get("Location"))
	if device.Status != http.StatusOK || !strings.Contains(device.Body, c.userCode()) {
		t.Fatalf("after the fresh sign-in at %q: %d %s", back.Header.Get("Location"), device.Status, device.Body)
	}
	card := s.Post(t.Context(), browser, "/device", url.Values{"csrf": {device.Hidden("csrf")}, "step": {"claim"}, "user_code": {c.userCode()}})
	if card.Hidden("card") == "" {
		t.Fatalf("the fresh sign-in cannot claim: %d %s", card.Status, card.Body)
	}
	if claim := c.record().Claim; claim == nil || claim.SessionID == sid {
		t.Errorf("claimed by %+v", claim)
	}
	if old, err := s.Store.Session(t.Context(), sid); err != nil || !old.QRBorn {
		t.Errorf("the marked session was upgraded: %+v %v", old, err)
	}
	// The approver client now gets its code from the new session, once the person has said yes.
	_, challenge := providertest.Verifier()
	if reply := s.Code(t.Context(), browser, providertest.AuthorizeQuery("phone", "openid", challenge)); reply.Location().Query().Get("code") == "" {
		t.Errorf("the approver client after the fresh sign-in: %d %s", reply.Status, reply.Body)
	}
}
