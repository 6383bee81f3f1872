package provider_test

import (
	"crypto/sha256"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// boundClient is a confidential client that has to prove a key each time.
func boundClient() *storage.Client {
	return &storage.Client{
		ID: "bound", Name: "Bound", SecretHashes: [][32]byte{sha256.Sum256([]byte(providertest.ClientSecret))}, RequireDPoP: true,
		RedirectURIs: []string{providertest.RedirectURI}, GrantTypes: []string{"authorization_code", "refresh_token", "client_credentials"},
		Scopes: []string{"openid", "offline_access", "reports:read"}, FirstParty: true,
	}
}

func refreshForm(clientID, token string) url.Values {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
	if clientID != "" {
		form.Set("client_id", clientID)
	}
	return form
}

// public adds the client's id to a form that no secret goes with.
func public(clientID string, form url.Values) url.Values {
	form.Set("client_id", clientID)
	return form
}

// A token that was asked for with a proof is bound to its key, says so everywhere, and is worth
// nothing without it; one that was not is worth nothing with a proof.
func TestDPoPBindsAccessTokens(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p, thief := newProver(t, s), newProver(t, s)
	for name, form := range map[string]url.Values{
		"code":               codeForm(t, s, "web", "openid", nil),
		"client credentials": {"grant_type": {"client_credentials"}},
	} {
		client := map[string]string{"code": "web", "client credentials": "svc"}[name]
		tokens := tokensOf(t, p.token(client, form))
		told := s.PostAs(t.Context(), client, "/introspect", url.Values{"token": {tokens.AccessToken}})
		if diff := cmp.Diff(map[string]any{"jkt": p.jkt()}, told.JSON()["cnf"]); diff != "" || tokens.TokenType != "DPoP" || told.Text("token_type") != "DPoP" {
			t.Errorf("%s: %q, %s", name, tokens.TokenType, told.Body)
		}
	}
	bound := tokensOf(t, p.token("web", codeForm(t, s, "web", "openid", nil))).AccessToken
	free := s.SignedIn(t.Context(), s.Browser(), "web", "openid")
	if free.TokenType != "Bearer" || s.PostAs(t.Context(), "web", "/introspect", url.Values{"token": {free.AccessToken}}).JSON()["cnf"] != nil {
		t.Errorf("without a proof: %q", free.TokenType)
	}
	if !p.good(bound) || p.userinfo("POST", bound, p.proof("POST", "/userinfo", bound)).Status != http.StatusOK {
		t.Error("the owner cannot use the token")
	}
	both := []string{"Bearer realm=", `DPoP realm="qrgrant", algs="ES256 ES384 EdDSA Ed25519 PS256"`}
	for name, row := range map[string]struct {
		reply      *providertest.Reply
		challenges []string
	}{
		"as a bearer token": {s.Bearer(t.Context(), "/userinfo", bound), both},
		"in the body":       {s.Post(t.Context(), s.Client(), "/userinfo", url.Values{"access_token": {bound}}), both},
		"in the body, with a proof": {send(t, s, "POST", "/userinfo", url.Values{"access_token": {bound}}.Encode(), http.Header{
			"Host": {p.host()}, "Dpop": {p.proof("POST", "/userinfo", bound)},
		}), both},
		"by another key":         {thief.userinfo("GET", bound, thief.proof("GET", "/userinfo", bound)), []string{"DPoP realm="}},
		"unbound with a proof":   {p.userinfo("GET", free.AccessToken, p.proof("GET", "/userinfo", free.AccessToken)), []string{"DPoP realm="}},
		"unknown, with a proof":  {p.userinfo("GET", "qrg_at_x", p.proof("GET", "/userinfo", "qrg_at_x")), []string{"DPoP realm="}},
		"unbound as DPoP, plain": {p.userinfo("GET", free.AccessToken), []string{"DPoP realm="}},
	} {
		wantError(t, row.reply, http.StatusUnauthorized, "invalid_token")
		got := row.reply.Header.Values("WWW-Authenticate")
		if len(got) != len(row.challenges) || !slices.EqualFunc(got, row.challenges, strings.HasPrefix) || !strings.Contains(got[0], `error="invalid_token"`) {
			t.Errorf("%s: %q", name, got)
		}
	}
	none := s.Get(t.Context(), s.Client(), "/userinfo")
	if got := none.Header.Values("WWW-Authenticate"); none.Status != http.StatusUnauthorized || !cmp.Equal(got, []string{`Bearer realm="qrgrant"`, both[1]}) || none.Body != "{}" {
		t.Errorf("without a token: %d %q %s", none.Status, got, none.Body)
	}
}

// A proof is good once, and with a nonce of the last minutes; the answer of every request with a
// proof has the next one.
func TestDPoPReplayAndNonce(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p := newProver(t, s)
	form := url.Values{"grant_type": {"client_credentials"}}
	once := p.proof("POST", "/token", "")
	first := p.tokenWith("svc", form, once)
	tokensOf(t, first)
	if first.Header.Get("DPoP-Nonce") == "" {
		t.Error("the answer has no nonce")
	}
	wantError(t, p.tokenWith("svc", form, once), http.StatusBadRequest, "invalid_dpop_proof")
	tokens := tokensOf(t, p.token("web", codeForm(t, s, "web", "openid", nil)))
	asked := p.proof("GET", "/userinfo", tokens.AccessToken)
	if reply := p.userinfo("GET", tokens.AccessToken, asked); reply.Status != http.StatusOK {
		t.Errorf("userinfo: %d %s", reply.Status, reply.Body)
	}
	wantError(t, p.userinfo("GET", tokens.AccessToken, asked), http.StatusUnauthorized, "invalid_dpop_proof")

	nonce := p.nonce()
	s.Clock.Advance(10 * time.Minute)
	header, claims := p.parts("POST", "/token", "")
	claims["nonce"] = nonce
	old := p.tokenWith("svc", form, p.seal(header, claims))
	wantError(t, old, http.StatusBadRequest, "use_dpop_nonce")
	claims["nonce"], claims["jti"] = old.Header.Get("DPoP-Nonce"), "another"
	tokensOf(t, p.tokenWith("svc", form, p.seal(header, claims)))

	optional := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) { c.DPoPNonceOptional = true }})
	p = newProver(t, optional)
	header, claims = p.parts("POST", "/token", "")
	delete(claims, "nonce")
	tokensOf(t, p.tokenWith("svc", form, p.seal(header, claims)))
}

// A client that has to prove a key gets nothing without a proof, and loses nothing by that.
func TestDPoPRequired(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{boundClient()}})
	p := newProver(t, s)
	code := codeForm(t, s, "bound", "openid offline_access", nil)
	own := url.Values{"grant_type": {"client_credentials"}}
	for _, form := range []url.Values{code, own} {
		reply := p.tokenWith("bound", form)
		wantError(t, reply, http.StatusBadRequest, "invalid_dpop_proof")
		if reply.Header.Get("DPoP-Nonce") == "" {
			t.Error("no nonce for the next try")
		}
	}
	tokens := tokensOf(t, p.token("bound", code))
	wantError(t, p.tokenWith("bound", refreshForm("", tokens.RefreshToken)), http.StatusBadRequest, "invalid_dpop_proof")
	tokensOf(t, p.token("bound", refreshForm("", tokens.RefreshToken)))
	tokensOf(t, p.token("bound", own))
}

// The refresh token of a public client is worth nothing without its key: not unused, and not used,
// when it would end the family.
func TestDPoPRefreshOfAPublicClient(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p, thief := newProver(t, s), newProver(t, s)
	first := tokensOf(t, p.token("", public("phone", codeForm(t, s, "phone", "openid offline_access", nil))))
	wantRefused := func(token string) {
		t.Helper()
		wantError(t, p.tokenWith("", refreshForm("phone", token)), http.StatusBadRequest, "invalid_grant")
		wantError(t, thief.token("", refreshForm("phone", token)), http.StatusBadRequest, "invalid_grant")
	}
	wantRefused(first.RefreshToken)
	second := tokensOf(t, p.token("", refreshForm("phone", first.RefreshToken)))
	if second.TokenType != "DPoP" || !p.good(second.AccessToken) || thief.good(second.AccessToken) {
		t.Errorf("refreshed: %+v", second)
	}
	s.Clock.Advance(storage.LostAnswerWindow + time.Second)
	wantRefused(first.RefreshToken)
	third := tokensOf(t, p.token("", refreshForm("phone", second.RefreshToken)))
	s.Clock.Advance(storage.LostAnswerWindow + time.Second)
	// With the key a used token is what it always was: a reuse.
	wantError(t, p.token("", refreshForm("phone", second.RefreshToken)), http.StatusBadRequest, "invalid_grant")
	wantError(t, p.token("", refreshForm("phone", third.RefreshToken)), http.StatusBadRequest, "invalid_grant")
}

// The answer that a public client lost is given again to its key, and to no other.
func TestDPoPLostAnswer(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p, thief := newProver(t, s), newProver(t, s)
	first := tokensOf(t, p.token("", public("phone", codeForm(t, s, "phone", "openid offline_access", nil))))
	lost := tokensOf(t, p.token("", refreshForm("phone", first.RefreshToken)))
	wantError(t, thief.token("", refreshForm("phone", first.RefreshToken)), http.StatusBadRequest, "invalid_grant")
	again := tokensOf(t, p.token("", refreshForm("phone", first.RefreshToken)))
	if p.good(lost.AccessToken) || !p.good(again.AccessToken) {
		t.Errorf("lost good %t, again good %t", p.good(lost.AccessToken), p.good(again.AccessToken))
	}
}

// A token that was shown without its key has not arrived: the answer still counts as lost.
func TestDPoPTokenWithoutItsKeyHasNotArrived(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p, thief := newProver(t, s), newProver(t, s)
	first := tokensOf(t, p.token("", public("phone", codeForm(t, s, "phone", "openid offline_access", nil))))
	lost := tokensOf(t, p.token("", refreshForm("phone", first.RefreshToken)))
	if thief.good(lost.AccessToken) || active(t, s, lost.AccessToken) {
		t.Fatal("the thief can use the token")
	}
	tokensOf(t, p.token("", refreshForm("phone", first.RefreshToken)))
}

// A confidential client may come with a new key, but what was bound never becomes a bearer token.
func TestDPoPRefreshOfAConfidentialClient(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p, next := newProver(t, s), newProver(t, s)
	first := tokensOf(t, p.token("web", codeForm(t, s, "web", "openid offline_access", nil)))
	wantError(t, p.tokenWith("web", refreshForm("", first.RefreshToken)), http.StatusBadRequest, "invalid_grant")
	second := tokensOf(t, next.token("web", refreshForm("", first.RefreshToken)))
	if p.good(second.AccessToken) || !next.good(second.AccessToken) {
		t.Error("the new token is not bound to the new key")
	}
	wantError(t, p.tokenWith("web", refreshForm("", second.RefreshToken)), http.StatusBadRequest, "invalid_grant")
	tokensOf(t, p.token("web", refreshForm("", second.RefreshToken)))

	free := offline(t, s, "web")
	bound := tokensOf(t, p.token("web", refreshForm("", free.RefreshToken)))
	if bound.TokenType != "DPoP" || !p.good(bound.AccessToken) {
		t.Errorf("a family that turns to a key: %+v", bound)
	}
	wantError(t, p.tokenWith("web", refreshForm("", bound.RefreshToken)), http.StatusBadRequest, "invalid_grant")
}

// A phone's bound token approves nothing as a bearer token.
func TestDPoPBoundTokenDoesNotApproveAsBearer(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p := newProver(t, s)
	tokens := tokensOf(t, p.token("", public("phone", codeForm(t, s, "phone", "openid "+qr.ApproveScope, nil))))
	c := openQR(t, s, "cli", nil)
	stolen := &phone{t: t, s: s, token: tokens.AccessToken}
	wantError(t, stolen.scan(payload(c.opened), "scanner"), http.StatusUnauthorized, "invalid_token")
	wantError(t, s.Bearer(t.Context(), "/sessions", tokens.AccessToken), http.StatusUnauthorized, "invalid_token")
}

// Script reads why its proof was refused, and the nonce for the next: at the token endpoint and at
// userinfo, for its own client's token only.
func TestDPoPAnswersAreReadableForScript(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p := newProver(t, s)
	tokens := tokensOf(t, p.token("web", codeForm(t, s, "web", "openid", nil)))
	for name, reply := range map[string]*providertest.Reply{
		"token": fromOrigin(t, s, http.MethodPost, "/token", webOrigin, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}}, map[string]string{
			"Authorization": basic("web", providertest.ClientSecret), "DPoP": "x",
		}),
		"userinfo": fromOrigin(t, s, http.MethodGet, "/userinfo", webOrigin, nil, map[string]string{"Authorization": "DPoP " + tokens.AccessToken, "DPoP": "x"}),
	} {
		exposed := reply.Header.Get("Access-Control-Expose-Headers")
		if reply.Header.Get("Access-Control-Allow-Origin") != webOrigin || !strings.Contains(exposed, "DPoP-Nonce") || !strings.Contains(exposed, "WWW-Authenticate") ||
			reply.Header.Get("DPoP-Nonce") == "" || reply.Text("error") != "invalid_dpop_proof" {
			t.Errorf("%s: %d %v %s", name, reply.Status, reply.Header, reply.Body)
		}
	}
	alien := fromOrigin(t, s, http.MethodGet, "/userinfo", otherOrigin, nil, map[string]string{"Authorization": "DPoP " + tokens.AccessToken, "DPoP": "x"})
	if got := alien.Header.Get("Access-Control-Allow-Origin"); got != "" {
		t.Errorf("another origin: %q", got)
	}
}
