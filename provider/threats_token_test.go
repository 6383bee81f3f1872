package provider_test

import (
	"context"
	"crypto/sha256"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// The members of a stored token's record that the forgeries change.
const (
	recordFacts    = 2
	recordGranted  = 4
	recordAudience = 5
	factQRBorn     = 5
)

// forge stores a copy of an access token with another record, as if the server had issued it,
// and returns it. No request leads to such tokens, which is what the other tests show.
func forge(t *testing.T, s *providertest.Server, token, name string, change func(t *storage.Token, record map[int]any)) string {
	t.Helper()
	stored, err := s.Store.Token(t.Context(), storage.TokenAccess, sha256.Sum256([]byte(token)))
	if err != nil {
		t.Fatal(err)
	}
	var record map[int]any
	if err := cbor.Unmarshal(stored.Data, &record); err != nil {
		t.Fatal(err)
	}
	change(stored, record)
	if stored.Data, err = cbor.Marshal(record); err != nil {
		t.Fatal(err)
	}
	forged := "qrg_at_" + name
	stored.Signature = sha256.Sum256([]byte(forged))
	if err := s.Store.PutToken(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
	return forged
}

// badToken is one row of the matrix of T05.
type badToken struct {
	token string
	// header replaces or joins the bearer token's.
	header http.Header
	status int
	code   string
}

// TestThreatT05ForgedAndForeignTokens sends every token that must not approve to both phone
// endpoints, with a code and a handle that are good.
func TestThreatT05ForgedAndForeignTokens(t *testing.T) {
	t.Parallel()
	store, err := bolt.Open(filepath.Join(t.TempDir(), "shared.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	s := providertest.NewServer(t, providertest.Options{Store: store, Change: roomy, Clients: approverClients()})
	// Another issuer on the same database: its tokens are there, and are not for us.
	other := providertest.NewServer(t, providertest.Options{Store: store, Clients: approverClients()})

	rows := foreignTokens(t, s)
	rows["of another issuer on this database"] = badToken{token: newPhone(t, other).token, status: 401, code: "invalid_token"}
	maps.Copy(rows, recordedTokens(t, s))
	maps.Copy(rows, badHeaders(newPhone(t, s).token))

	c, fresh := openQR(t, s, "cli", nil), openQR(t, s, "cli", nil)
	scan, code := c.claim(newPhone(t, s))
	was, wasFresh := c.record(), fresh.record()
	for name, row := range rows {
		thief := &phone{t: t, s: s, token: row.token, header: row.header}
		body := decision(scan, "approve", code)
		body["sub"], body["subject"], body["access_token"] = providertest.AliceSubject, providertest.AliceSubject, newestToken(t, s)
		replies := map[string]*providertest.Reply{
			"scan": thief.scan(payload(fresh.opened), "scanner"), "decision": thief.post(t.Context(), "/qr/decision", body),
			"a body nobody reads": thief.postRaw(t.Context(), "/qr/scan", "text/plain", []byte("no JSON")),
		}
		for where, reply := range replies {
			if reply.Status != row.status || reply.Text("error") != row.code {
				t.Errorf("%s: %s: %d %s, want %d %s", name, where, reply.Status, reply.Body, row.status, row.code)
			}
			if challenge := reply.Header.Get("WWW-Authenticate"); row.status == http.StatusUnauthorized && !strings.HasPrefix(challenge, "Bearer") && !strings.HasPrefix(challenge, `DPoP error="invalid_token"`) {
				t.Errorf("%s: %s: WWW-Authenticate %q", name, where, challenge)
			}
			if reply.Text("confirm_handle") != "" || strings.Contains(reply.Body, "context") {
				t.Errorf("%s: %s: the context was shown: %s", name, where, reply.Body)
			}
		}
	}
	wantUnmoved(t, c, was)
	wantUnmoved(t, fresh, wasFresh)
}

// newestToken is a good token to put where none is looked for.
func newestToken(t *testing.T, s *providertest.Server) string {
	t.Helper()
	return s.ApproverToken(context.WithoutCancel(t.Context()))
}

// approverClients are phone apps beside the seeded one.
func approverClients() []*storage.Client {
	app := func(id string) *storage.Client {
		return &storage.Client{
			ID: id, SecretHashes: providertest.Clients()[0].SecretHashes, RedirectURIs: []string{providertest.RedirectURI}, FirstParty: true,
			Approver: true, GrantTypes: []string{"authorization_code", "refresh_token"}, Scopes: []string{"openid", "offline_access", qr.ApproveScope},
		}
	}
	return []*storage.Client{app("app"), app("demoted"), app("retired")}
}

// foreignTokens are tokens of the wrong kind, age or owner, got in the ordinary ways.
func foreignTokens(t *testing.T, s *providertest.Server) map[string]badToken {
	t.Helper()
	ctx := t.Context()
	for _, person := range []string{"bob", "carol"} {
		addPerson(t, s, person)
	}
	approve := "openid offline_access " + qr.ApproveScope
	old := personTokens(t, s, "bob", "app", approve)
	s.Clock.Advance(10 * time.Minute)
	kinds := personTokens(t, s, "bob", "app", approve)
	gone := func(status int, code, token string) badToken {
		return badToken{token: token, status: status, code: code}
	}
	rows := map[string]badToken{
		"none":                  gone(401, "invalid_token", ""),
		"garbage":               gone(401, "invalid_token", "garbage"),
		"made up":               gone(401, "invalid_token", "qrg_at_"+strings.Repeat("A", 43)),
		"expired":               gone(401, "invalid_token", old.AccessToken),
		"a refresh token":       gone(401, "invalid_token", kinds.RefreshToken),
		"an ID token":           gone(401, "invalid_token", kinds.IDToken),
		"another case":          gone(401, "invalid_token", strings.ToUpper(kinds.AccessToken)),
		"the prefix twice":      gone(401, "invalid_token", "qrg_at_"+kinds.AccessToken),
		"the refresh as access": gone(401, "invalid_token", strings.Replace(kinds.RefreshToken, "qrg_rt_", "qrg_at_", 1)),
		"without the scope":     gone(403, "insufficient_scope", personTokens(t, s, "bob", "app", "openid").AccessToken),
		"of no approver":        gone(403, "insufficient_scope", personTokens(t, s, "bob", "web", "openid").AccessToken),
		"of another server":     gone(401, "invalid_token", newPhone(t, providertest.NewServer(t, providertest.Options{})).token),
		"of a client":           gone(401, "invalid_token", s.PostAs(ctx, "svc", "/token", url.Values{"grant_type": {"client_credentials"}, "scope": {"reports:read"}}).Text("access_token")),
		"born of an approval":   gone(403, "approver_not_allowed", redeemedToken(t, s)),
	}
	_, challenge := providertest.Verifier()
	redirect := s.Code(ctx, s.Browser(), providertest.AuthorizeQuery("app", approve, challenge))
	rows["an authorization code"] = gone(401, "invalid_token", redirect.Location().Query().Get("code"))

	revoked := personTokens(t, s, "bob", "app", approve).AccessToken
	s.PostAs(ctx, "app", "/revoke", url.Values{"token": {revoked}})
	rows["revoked"] = gone(401, "invalid_token", revoked)
	rows["of a demoted app"] = gone(403, "approver_not_allowed", personTokens(t, s, "bob", "demoted", approve).AccessToken)
	rows["of a disabled app"] = gone(401, "invalid_token", personTokens(t, s, "bob", "retired", approve).AccessToken)
	rows["of a disabled person"] = gone(401, "invalid_token", personTokens(t, s, "carol", "app", approve).AccessToken)
	mustChange(t, s, "demoted", func(c *storage.Client) { c.Approver = false })
	mustChange(t, s, "retired", func(c *storage.Client) { c.Disabled = true })
	carol, err := s.Store.User(ctx, "carol")
	if err != nil {
		t.Fatal(err)
	}
	carol.Disabled = true
	if err := s.Store.PutUser(ctx, carol); err != nil {
		t.Fatal(err)
	}
	ended := personTokens(t, s, "bob", "app", approve)
	sid, _ := claims(t, ended.IDToken)["sid"].(string)
	if err := s.Store.EndSession(ctx, sid, s.Clock.Now()); err != nil {
		t.Fatal(err)
	}
	rows["of a sign-in that ended"] = gone(401, "invalid_token", ended.AccessToken)
	return rows
}

func redeemedToken(t *testing.T, s *providertest.Server) string {
	t.Helper()
	_, tokens := signIn(t, s, "cli", nil)
	return tokens.AccessToken
}

func mustChange(t *testing.T, s *providertest.Server, clientID string, change func(*storage.Client)) {
	t.Helper()
	client, err := s.Store.Client(t.Context(), clientID)
	if err != nil {
		t.Fatal(err)
	}
	change(client)
	if err := s.Store.PutClient(t.Context(), client); err != nil {
		t.Fatal(err)
	}
}

// recordedTokens are tokens with records that no request makes: each guard must hold alone.
func recordedTokens(t *testing.T, s *providertest.Server) map[string]badToken {
	t.Helper()
	good := newPhone(t, s).token
	audience := func(audiences ...any) func(*storage.Token, map[int]any) {
		return func(_ *storage.Token, record map[int]any) { record[recordAudience] = audiences }
	}
	rows := map[string]badToken{
		"for another audience":     {token: forge(t, s, good, "other", audience("https://api.example")), status: 401, code: "invalid_token"},
		"for two audiences":        {token: forge(t, s, good, "two", audience(s.Issuer, "https://api.example")), status: 401, code: "invalid_token"},
		"for no audience":          {token: forge(t, s, good, "none", audience()), status: 401, code: "invalid_token"},
		"for the issuer with /":    {token: forge(t, s, good, "slash", audience(s.Issuer+"/")), status: 401, code: "invalid_token"},
		"for the issuer, louder":   {token: forge(t, s, good, "loud", audience(strings.ToUpper(s.Issuer))), status: 401, code: "invalid_token"},
		"with a wider scope":       {token: forge(t, s, good, "wide", func(_ *storage.Token, r map[int]any) { r[recordGranted] = []string{"openid", "qr:approve:all"} }), status: 403, code: "insufficient_scope"},
		"with a scope in capitals": {token: forge(t, s, good, "loudscope", func(_ *storage.Token, r map[int]any) { r[recordGranted] = []string{"QR:APPROVE"} }), status: 403, code: "insufficient_scope"},
		"marked, otherwise good": {token: forge(t, s, good, "marked", func(_ *storage.Token, r map[int]any) {
			facts, _ := r[recordFacts].(map[any]any)
			facts[uint64(factQRBorn)] = true
		}), status: 403, code: "approver_not_allowed"},
		"of nobody":                {token: forge(t, s, good, "nobody", func(k *storage.Token, _ map[int]any) { k.Subject = "" }), status: 401, code: "invalid_token"},
		"of a person who is gone":  {token: forge(t, s, good, "gone", func(k *storage.Token, _ map[int]any) { k.Subject = "nobody-here" }), status: 401, code: "invalid_token"},
		"of a client that is gone": {token: forge(t, s, good, "goneclient", func(k *storage.Token, _ map[int]any) { k.ClientID = "no-such-app" }), status: 401, code: "invalid_token"},
	}
	// The same without a change is good: it is the changes that are refused.
	control := &phone{t: t, s: s, token: forge(t, s, good, "same", func(*storage.Token, map[int]any) {})}
	if reply := control.scan(payload(openQR(t, s, "cli", nil).opened), "scanner"); reply.Status != http.StatusOK {
		t.Fatalf("the unchanged copy: %d %s", reply.Status, reply.Body)
	}
	return rows
}

// badHeaders bring a good token in a way that must not be read.
func badHeaders(good string) map[string]badToken {
	row := func(status int, code string, header http.Header) badToken {
		return badToken{header: header, status: status, code: code}
	}
	return map[string]badToken{
		"in another header":         row(401, "invalid_token", http.Header{"X-Access-Token": {good}, "Proxy-Authorization": {"Bearer " + good}}),
		"as a cookie":               row(401, "invalid_token", http.Header{"Cookie": {"access_token=" + good}}),
		"with the scheme Basic":     row(401, "invalid_token", http.Header{"Authorization": {"Basic " + good}}),
		"with the scheme DPoP":      row(401, "invalid_token", http.Header{"Authorization": {"DPoP " + good}}),
		"without a scheme":          row(401, "invalid_token", http.Header{"Authorization": {good}}),
		"twice":                     row(401, "invalid_token", http.Header{"Authorization": {"Bearer " + good, "Bearer " + good}}),
		"in a list":                 row(401, "invalid_token", http.Header{"Authorization": {"Bearer " + good + ", Bearer " + good}}),
		"with a proof that is none": row(401, "invalid_token", http.Header{"Authorization": {"DPoP " + good}, "Dpop": {"x"}}),
		"with the scheme and a tab": row(401, "invalid_token", http.Header{"Authorization": {"Bearer\t" + good}}),
	}
}

// TestThreatT05IdentityComesFromTheTokenOnly names another person in every other place.
func TestThreatT05IdentityComesFromTheTokenOnly(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	mallory := newPhoneOf(t, s, "mallory")
	mallory.header = http.Header{"X-User": {providertest.AliceSubject}, "X-Forwarded-User": {providertest.AliceSubject}, "From": {"alice@example.org"}}
	spoof := func(body map[string]string) map[string]string {
		for _, name := range []string{"sub", "subject", "user", "user_id", "login", "claimer", "client_id"} {
			body[name] = providertest.AliceSubject
		}
		return body
	}
	c := openQR(t, s, "cli", url.Values{"sub": {providertest.AliceSubject}})
	scan := mallory.post(t.Context(), "/qr/scan?sub="+providertest.AliceSubject, spoof(map[string]string{"payload": payload(c.opened), "entry": "scanner"}))
	if scan.Status != http.StatusOK {
		t.Fatalf("scan: %d %s", scan.Status, scan.Body)
	}
	body := spoof(decision(scan, "approve", c.poll(t.Context()).Text("check_code")))
	if reply := mallory.post(t.Context(), "/qr/decision?sub="+providertest.AliceSubject, body); reply.Status != http.StatusOK {
		t.Fatalf("decision: %d %s", reply.Status, reply.Body)
	}
	form := c.tokenForm()
	form.Set("sub", providertest.AliceSubject)
	tokens := tokensOf(t, c.post(t.Context(), "/token", form, nil))
	if got := claims(t, tokens.IDToken)["sub"]; got != "mallory" {
		t.Errorf("sub is %v", got)
	}
	if got := s.Bearer(t.Context(), "/userinfo", tokens.AccessToken).Text("sub"); got != "mallory" {
		t.Errorf("userinfo is that of %q", got)
	}
}

// TestThreatT30OnlyApproverClientsApprove: another app of the same person cannot.
func TestThreatT30OnlyApproverClientsApprove(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{{
		ID: "greedy", RedirectURIs: []string{providertest.AppRedirectURI}, FirstParty: true, Scopes: []string{"openid", qr.ApproveScope},
	}}})
	c := openQR(t, s, "cli", nil)
	for _, scope := range []string{"openid", "openid profile email address phone offline_access"} {
		p := &phone{t: t, s: s, token: personTokens(t, s, providertest.AliceLogin, "web", scope).AccessToken}
		if reply := p.scan(payload(c.opened), "scanner"); reply.Status != http.StatusForbidden || reply.Text("confirm_handle") != "" {
			t.Errorf("web with %q: %d %s", scope, reply.Status, reply.Body)
		}
	}
	// The scope is an approver's, whatever stands in the registration of another.
	_, challenge := providertest.Verifier()
	for _, client := range []string{"web", "greedy"} {
		query := providertest.AuthorizeQuery(client, "openid "+qr.ApproveScope, challenge)
		if client == "greedy" {
			query.Set("redirect_uri", providertest.AppRedirectURI)
		}
		reply := s.Get(t.Context(), s.Browser(), "/authorize?"+query.Encode())
		if got := reply.Location().Query().Get("error"); got != "invalid_scope" {
			t.Errorf("%s asked for %s: %d, error %q", client, qr.ApproveScope, reply.Status, got)
		}
	}
	// An app that is no approver any more stops at once, with the tokens it has.
	p := newPhone(t, s)
	scan, code := c.claim(p)
	was := c.record()
	mustChange(t, s, "phone", func(c *storage.Client) { c.Approver = false })
	for what, reply := range map[string]*providertest.Reply{"scan": p.scan(payload(c.opened), "scanner"), "decision": p.decide(scan, "approve", code)} {
		if reply.Status != http.StatusForbidden || reply.Text("error") != "approver_not_allowed" {
			t.Errorf("%s of a demoted app: %d %s", what, reply.Status, reply.Body)
		}
	}
	wantUnmoved(t, c, was)
}
