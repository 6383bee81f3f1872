package provider_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// qrKey is a device with a DPoP key.
type qrKey struct {
	s       *providertest.Server
	private *ecdsa.PrivateKey
	key     *dpop.Key
}

func newQRKey(t *testing.T, s *providertest.Server) *qrKey {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return (&qrKey{s: s, private: private}).skewed(t, 0)
}

// skewed is the same key on a device whose clock is wrong.
func (k *qrKey) skewed(t *testing.T, by time.Duration) *qrKey {
	t.Helper()
	key, err := dpop.KeyOf(k.private)
	if err != nil {
		t.Fatal(err)
	}
	key.Now = func() time.Time { return k.s.Clock.Now().Add(by) }
	return &qrKey{s: k.s, private: k.private, key: key}
}

func (k *qrKey) proof(t *testing.T, method, path, nonce, token string) string {
	t.Helper()
	proof, err := k.key.Proof(method, k.s.URL(path), nonce, token)
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

// post is a proof for a form endpoint, as a header.
func (k *qrKey) post(t *testing.T, path string) http.Header {
	t.Helper()
	return http.Header{"Dpop": {k.proof(t, http.MethodPost, path, "", "")}}
}

// phoneToken signs a person in on a phone whose token is bound to the key.
func (k *qrKey) phoneToken(t *testing.T, login string) string {
	t.Helper()
	addPerson(t, k.s, login)
	browser := k.s.Browser()
	verifier, challenge := providertest.Verifier()
	page := k.s.Get(t.Context(), browser, "/authorize?"+providertest.AuthorizeQuery("phone", "openid "+qr.ApproveScope, challenge).Encode())
	redirect := k.s.Post(t.Context(), browser, "/login", url.Values{
		"csrf": {page.Hidden("csrf")}, "next": {page.Hidden("next")}, "login": {login}, "password": {providertest.AlicePassword},
	})
	if redirect.Location().Query().Get("code") == "" {
		redirect = k.s.Get(t.Context(), browser, redirect.Header.Get("Location"))
	}
	client := k.s.Client()
	client.Transport = &dpop.Transport{Key: k.key, Base: client.Transport}
	reply := k.s.Post(t.Context(), client, "/token", url.Values{
		"grant_type": {"authorization_code"}, "code": {redirect.Location().Query().Get("code")}, "client_id": {"phone"},
		"redirect_uri": {providertest.AppRedirectURI}, "code_verifier": {verifier},
	})
	if reply.Text("token_type") != "DPoP" {
		t.Fatalf("the phone's tokens: %d %s", reply.Status, reply.Body)
	}
	return reply.Text("access_token")
}

// phone is a phone for one call, with a proof of the key.
func (k *qrKey) phone(t *testing.T, token, method, path string) *phone {
	t.Helper()
	return &phone{t: t, s: k.s, header: http.Header{
		"Authorization": {"DPoP " + token}, "Dpop": {k.proof(t, method, path, "", token)},
	}}
}

// keyServer takes proofs without a nonce, so that a test need not ask for one first.
func keyServer(t *testing.T, clients ...*storage.Client) *providertest.Server {
	t.Helper()
	return providertest.NewServer(t, providertest.Options{Clients: clients, Change: func(c *provider.Config) {
		roomy(c)
		c.DPoPNonceOptional = true
	}})
}

// badProofs are what N5 sends in place of a good proof: each is refused as its code says, and none
// of them counts as a failed binding.
func badProofs() map[string]func(t *testing.T, k *qrKey, method, path, token string) []string {
	return map[string]func(t *testing.T, k *qrKey, method, path, token string) []string{
		"another method": func(t *testing.T, k *qrKey, _, path, token string) []string {
			t.Helper()
			return []string{k.proof(t, http.MethodPut, path, "", token)}
		},
		"another path": func(t *testing.T, k *qrKey, method, path, token string) []string {
			t.Helper()
			return []string{k.proof(t, method, path+"x", "", token)}
		},
		"another host": func(t *testing.T, k *qrKey, method, _, token string) []string {
			t.Helper()
			return []string{k.proof(t, method, "https://other.example/token", "", token)}
		},
		"an iat an hour ago": func(t *testing.T, k *qrKey, method, path, token string) []string {
			t.Helper()
			return []string{k.skewed(t, -time.Hour).proof(t, method, path, "", token)}
		},
		"an iat in an hour": func(t *testing.T, k *qrKey, method, path, token string) []string {
			t.Helper()
			return []string{k.skewed(t, time.Hour).proof(t, method, path, "", token)}
		},
		"two proofs": func(t *testing.T, k *qrKey, method, path, token string) []string {
			t.Helper()
			return []string{k.proof(t, method, path, "", token), k.proof(t, method, path, "", token)}
		},
		"no proof at all": func(*testing.T, *qrKey, string, string, string) []string { return []string{"x"} },
	}
}

// boundQR opens a session that is bound to the key by its name.
func boundQR(t *testing.T, k *qrKey, client string, extra url.Values) *consumption {
	t.Helper()
	form := url.Values{"dpop_jkt": {k.key.Thumbprint()}}
	for name, values := range extra {
		form[name] = values
	}
	c := openQR(t, k.s, client, form)
	if got := c.record().JKT; got != k.key.Thumbprint() {
		t.Fatalf("the session is bound to %q", got)
	}
	return c
}

// TestN5TheFormEndpoints sends bad proofs to the endpoints of the consumption device.
func TestN5TheFormEndpoints(t *testing.T) {
	t.Parallel()
	s := keyServer(t)
	k, other := newQRKey(t, s), newQRKey(t, s)
	for _, path := range []string{"/device_authorization", "/token", "/qr/events", "/qr/cancel"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			c := boundQR(t, k, "cli", nil)
			was := c.record()
			form := c.tokenForm()
			form.Set("code_challenge", strings.Repeat("a", 43))
			form.Set("code_challenge_method", "S256")
			form.Set("dpop_jkt", k.key.Thumbprint())
			refused := func(name, code string, proofs ...string) {
				t.Helper()
				reply := c.post(t.Context(), path, form, http.Header{"Dpop": proofs})
				wantRefusal(t, reply, http.StatusBadRequest, code)
				if nonce := reply.Header.Get("DPoP-Nonce"); (nonce != "") != (len(proofs) > 0) {
					t.Errorf("%s: the nonce is %q", name, nonce)
				}
			}
			for name, make := range badProofs() {
				refused(name, "invalid_dpop_proof", make(t, k, http.MethodPost, path, "")...)
			}
			refused("a foreign nonce", "use_dpop_nonce", k.proof(t, http.MethodPost, path, "foreign", ""))
			wantUnmoved(t, c, was)
			used := k.proof(t, http.MethodPost, path, "", "")
			first := boundQR(t, k, "cli", nil).tokenForm()
			first.Set("client_id", "cli")
			if path == "/device_authorization" {
				first = form
				first.Set("client_id", "cli")
			}
			hearing, hangUp := context.WithCancel(t.Context())
			answer := askEvents(hearing, t, s.Client(), s.URL(path), first, http.Header{"Dpop": {used}})
			hangUp()
			_ = answer.Body.Close()
			if used := answer.StatusCode == http.StatusOK || path == "/token" && answer.StatusCode == http.StatusBadRequest; !used {
				t.Errorf("a good proof: %d", answer.StatusCode)
			}
			refused("a replayed jti", "invalid_dpop_proof", used)
			wantUnmoved(t, c, was)
			swapped := "invalid_grant"
			if path == "/device_authorization" {
				swapped = "invalid_dpop_proof"
			} else {
				refused("without a proof", "invalid_grant")
			}
			refused("another key", swapped, other.proof(t, http.MethodPost, path, "", ""))
			if path != "/token" {
				wantUnmoved(t, c, was)
			}
		})
	}
}

// TestN5TheWebSocket: the proof is a member of the first frame.
func TestN5TheWebSocket(t *testing.T) {
	t.Parallel()
	s := keyServer(t)
	k, other := newQRKey(t, s), newQRKey(t, s)
	c := boundQR(t, k, "cli", nil)
	was := c.record()
	ask := func(proof string, header http.Header) (websocket.StatusCode, string, bool) {
		t.Helper()
		ws := dialSocket(t.Context(), t, s, s.Client(), header)
		form := c.streamForm()
		if proof != "" {
			form.Set("dpop", proof)
		}
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(object(t, form))); err != nil {
			t.Fatal(err)
		}
		return closeOf(t, ws)
	}
	for name, make := range badProofs() {
		proofs := make(t, k, http.MethodGet, "/qr/ws", "")
		header := http.Header{}
		if len(proofs) > 1 {
			header.Set("DPoP", proofs[1])
		}
		if code, reason, _ := ask(proofs[0], header); code != 4400 || reason != "invalid_dpop_proof" {
			t.Errorf("%s: %d %q", name, code, reason)
		}
	}
	for name, row := range map[string]struct{ proof, reason string }{
		"a proof for the event stream": {k.proof(t, http.MethodPost, "/qr/events", "", ""), "invalid_dpop_proof"},
		"another key":                  {other.proof(t, http.MethodGet, "/qr/ws", "", ""), "invalid_grant"},
		"no proof":                     {"", "invalid_grant"},
		"a foreign nonce":              {k.proof(t, http.MethodGet, "/qr/ws", "foreign", ""), "use_dpop_nonce"},
	} {
		if code, reason, _ := ask(row.proof, nil); code != 4400 || reason != row.reason {
			t.Errorf("%s: %d %q", name, code, reason)
		}
	}
	wantUnmoved(t, c, was)
	used := k.proof(t, http.MethodGet, "/qr/ws", "", "")
	if code, reason, answered := ask(used, nil); !answered {
		t.Errorf("a good proof: %d %q", code, reason)
	}
	if code, reason, _ := ask(used, nil); code != 4400 || reason != "invalid_dpop_proof" {
		t.Errorf("a replayed jti: %d %q", code, reason)
	}
	spelt, err := k.key.Proof(http.MethodGet, "wss"+strings.TrimPrefix(s.URL("/qr/ws"), "https"), "", "")
	if err != nil {
		t.Fatal(err)
	}
	if code, reason, answered := ask("", http.Header{"Dpop": {spelt}}); !answered {
		t.Errorf("the scheme wss, in the header of the handshake: %d %q", code, reason)
	}
}

// TestN5ThePhone sends bad proofs with a bound token.
func TestN5ThePhone(t *testing.T) {
	t.Parallel()
	s := keyServer(t)
	k, other := newQRKey(t, s), newQRKey(t, s)
	token, unbound := k.phoneToken(t, "alice"), newPhone(t, s).token
	for path, method := range map[string]string{
		"/qr/scan": http.MethodPost, "/qr/decision": http.MethodPost, "/sessions/revoke-all": http.MethodPost,
		"/sessions": http.MethodGet, "/sessions/x": http.MethodDelete,
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			ask := func(header http.Header) *providertest.Reply {
				p := &phone{t: t, s: s, header: header}
				if method == http.MethodPost {
					return p.post(t.Context(), path, map[string]string{})
				}
				return p.send(method, path)
			}
			refused := func(name, code, authorization string, proofs ...string) {
				t.Helper()
				reply := ask(http.Header{"Authorization": {authorization}, "Dpop": proofs})
				wantProblem(t, reply, http.StatusUnauthorized, code)
				want := []string{`DPoP error="` + code + `", algs="ES256 ES384 EdDSA Ed25519 PS256"`}
				if strings.HasPrefix(authorization, "Bearer") {
					want = []string{`Bearer error="` + code + `"`, `DPoP algs="ES256 ES384 EdDSA Ed25519 PS256"`}
				}
				if diff := cmp.Diff(want, reply.Header.Values("WWW-Authenticate")); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
				if (reply.Header.Get("DPoP-Nonce") != "") != (len(proofs) > 0) {
					t.Errorf("%s: the nonce is %q", name, reply.Header.Get("DPoP-Nonce"))
				}
			}
			for name, make := range badProofs() {
				refused(name, "invalid_dpop_proof", "DPoP "+token, make(t, k, method, path, token)...)
			}
			refused("no proof", "invalid_dpop_proof", "DPoP "+token)
			refused("no ath", "invalid_dpop_proof", "DPoP "+token, k.proof(t, method, path, "", ""))
			refused("the ath of another token", "invalid_dpop_proof", "DPoP "+token, k.proof(t, method, path, "", unbound))
			refused("a foreign nonce", "use_dpop_nonce", "DPoP "+token, k.proof(t, method, path, "foreign", token))
			refused("another key", "invalid_token", "DPoP "+token, other.proof(t, method, path, "", token))
			refused("an unbound token with a proof", "invalid_token", "DPoP "+unbound, k.proof(t, method, path, "", unbound))
			refused("a bound token as Bearer", "invalid_token", "Bearer "+token)
			refused("a bound token as Bearer with its proof", "invalid_token", "Bearer "+token, k.proof(t, method, path, "", token))
			good := http.Header{"Authorization": {"DPoP " + token}, "Dpop": {k.proof(t, method, path, "", token)}}
			if reply := ask(good); reply.Status == http.StatusUnauthorized || reply.Header.Get("DPoP-Nonce") == "" {
				t.Errorf("a good proof: %d %s", reply.Status, reply.Body)
			}
			refused("a replayed jti", "invalid_dpop_proof", "DPoP "+token, good.Get("DPoP"))
		})
	}
}

// TestBoundSignIn binds both devices: the phone's handle and the tokens belong to their keys.
func TestBoundSignIn(t *testing.T) {
	t.Parallel()
	s := keyServer(t)
	pc, mobile, thief := newQRKey(t, s), newQRKey(t, s), newQRKey(t, s)
	token := mobile.phoneToken(t, "alice")
	c := boundQR(t, pc, "cli", url.Values{"scope": {"openid profile offline_access"}})
	scan := mobile.phone(t, token, http.MethodPost, "/qr/scan").scan(payload(c.opened), "scanner")
	wantStatus(t, scan, http.StatusOK)
	number := c.post(t.Context(), "/token", c.tokenForm(), pc.post(t, "/token")).Text("check_code")
	if number == "" {
		t.Fatal("no check code")
	}
	wantProblem(t, newPhone(t, s).decide(scan, "approve", number), http.StatusNotFound, "not_found")
	wantStatus(t, mobile.phone(t, token, http.MethodPost, "/qr/decision").decide(scan, "approve", number), http.StatusOK)
	s.Clock.Advance(6 * time.Second)
	reply := c.post(t.Context(), "/token", c.tokenForm(), pc.post(t, "/token"))
	tokens := tokensOf(t, reply)
	if tokens.TokenType != "DPoP" || reply.Header.Get("DPoP-Nonce") == "" {
		t.Errorf("%q, nonce %q", tokens.TokenType, reply.Header.Get("DPoP-Nonce"))
	}
	threatT23(t, s, pc, thief, tokens)
}

// threatT23: stolen tokens are worth nothing without the key.
func threatT23(t *testing.T, s *providertest.Server, pc, thief *qrKey, tokens providertest.Tokens) {
	t.Helper()
	userinfo := func(k *qrKey) *providertest.Reply {
		return k.phone(t, tokens.AccessToken, http.MethodGet, "/userinfo").send(http.MethodGet, "/userinfo")
	}
	wantStatus(t, userinfo(pc), http.StatusOK)
	wantStatus(t, userinfo(thief), http.StatusUnauthorized)
	wantStatus(t, s.Bearer(t.Context(), "/userinfo", tokens.AccessToken), http.StatusUnauthorized)
	c := &consumption{t: t, s: s, client: &storage.Client{ID: "cli"}}
	refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens.RefreshToken}}
	wantStatus(t, c.post(t.Context(), "/token", refresh, nil), http.StatusBadRequest)
	wantStatus(t, c.post(t.Context(), "/token", refresh, thief.post(t, "/token")), http.StatusBadRequest)
	again := c.post(t.Context(), "/token", refresh, pc.post(t, "/token"))
	if again.Status != http.StatusOK || again.Text("token_type") != "DPoP" {
		t.Errorf("a refresh with the key: %d %s", again.Status, again.Body)
	}
}

// TestN5TheHeldPoll: a poll proves its key when it comes; it redeems later without another proof.
func TestN5TheHeldPoll(t *testing.T) {
	t.Parallel()
	s := keyServer(t)
	k, other := newQRKey(t, s), newQRKey(t, s)
	c, p := boundQR(t, k, "cli", nil), newPhone(t, s)
	held := func(header http.Header) *providertest.Reply {
		header.Set("Prefer", "wait=25")
		return c.post(t.Context(), "/token", c.tokenForm(), header)
	}
	wantRefusal(t, held(other.post(t, "/token")), http.StatusBadRequest, "invalid_grant")
	wantRefusal(t, held(k.skewed(t, -time.Hour).post(t, "/token")), http.StatusBadRequest, "invalid_dpop_proof")
	scan, number := claimBound(t, k, c, p)
	header := k.post(t, "/token")
	header.Set("Prefer", "wait=25")
	s.Clock.Advance(6 * time.Second)
	header.Set("DPoP", k.proof(t, http.MethodPost, "/token", "", ""))
	before := s.Clock.Timers()
	answer := c.holdWith(t.Context(), c.tokenForm(), header)
	for s.Clock.Timers() == before && len(answer) == 0 {
		runtime.Gosched()
	}
	wantStatus(t, p.decide(scan, "approve", number), http.StatusOK)
	if reply := <-answer; reply.Text("token_type") != "DPoP" {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
}

// claimBound scans and reads the check code with a proof.
func claimBound(t *testing.T, k *qrKey, c *consumption, p *phone) (scan *providertest.Reply, number string) {
	t.Helper()
	scan = p.scan(payload(c.opened), "scanner")
	wantStatus(t, scan, http.StatusOK)
	return scan, c.post(t.Context(), "/token", c.tokenForm(), k.post(t, "/token")).Text("check_code")
}

// TestThreatT16SwappedKey: the fifth poll without the right key ends the session.
func TestThreatT16SwappedKey(t *testing.T) {
	t.Parallel()
	s := keyServer(t)
	k, other := newQRKey(t, s), newQRKey(t, s)
	c := boundQR(t, k, "cli", nil)
	for i, header := range []http.Header{other.post(t, "/token"), nil, other.post(t, "/token"), nil, other.post(t, "/token")} {
		wantRefusal(t, c.post(t.Context(), "/token", c.tokenForm(), header), http.StatusBadRequest, "invalid_grant")
		if got := int(c.record().BindingFailures); got != i+1 {
			t.Errorf("%d failures after %d", got, i+1)
		}
	}
	if got := c.record().State; got != storage.QRAborted {
		t.Errorf("the session is %s", got)
	}
	wantRefusal(t, c.post(t.Context(), "/token", c.tokenForm(), k.post(t, "/token")), http.StatusBadRequest, "access_denied")
	unbound := openQR(t, s, "cli", nil)
	wantRefusal(t, unbound.post(t.Context(), "/token", unbound.tokenForm(), k.post(t, "/token")), http.StatusBadRequest, "invalid_grant")
	if got := unbound.record().BindingFailures; got != 1 {
		t.Errorf("an unexpected key counts %d", got)
	}
}

// TestThreatT27ProofsAndClocks: clocks may differ by ten seconds, not by an hour.
func TestThreatT27ProofsAndClocks(t *testing.T) {
	t.Parallel()
	s := keyServer(t)
	k := newQRKey(t, s)
	c := boundQR(t, k, "cli", nil)
	for by, code := range map[time.Duration]string{
		-10 * time.Second: "authorization_pending", 10 * time.Second: "authorization_pending",
		-time.Hour: "invalid_dpop_proof", time.Hour: "invalid_dpop_proof",
	} {
		wantRefusal(t, c.post(t.Context(), "/token", c.tokenForm(), k.skewed(t, by).post(t, "/token")), http.StatusBadRequest, code)
		s.Clock.Advance(6 * time.Second)
	}
}

// TestKeyByProof binds a session by the proof of its opening, with the nonce that the server wants.
func TestKeyByProof(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	k := newQRKey(t, s)
	bare := tryOpenQR(t, s, "tv", nil)
	wantStatus(t, bare.opened, http.StatusOK)
	asked := bare.post(t.Context(), "/device_authorization", url.Values{}, k.post(t, "/device_authorization"))
	wantRefusal(t, asked, http.StatusBadRequest, "use_dpop_nonce")
	proof := k.proof(t, http.MethodPost, "/device_authorization", asked.Header.Get("DPoP-Nonce"), "")
	bare.opened = bare.post(t.Context(), "/device_authorization", url.Values{}, http.Header{"Dpop": {proof}})
	wantStatus(t, bare.opened, http.StatusOK)
	raw, err := base64.RawURLEncoding.DecodeString(bare.deviceCode())
	if err != nil {
		t.Fatal(err)
	}
	copy(bare.id[:], raw)
	if got := bare.record().JKT; got != k.key.Thumbprint() {
		t.Errorf("the session is bound to %q", got)
	}
}

// TestClientsThatNeedKeys: neither an opening nor an approver's token without one.
func TestClientsThatNeedKeys(t *testing.T) {
	t.Parallel()
	s := keyServer(t, &storage.Client{
		ID: "strict", GrantTypes: []string{qr.GrantType}, Scopes: []string{"openid", "profile"}, RequireDPoP: true, QR: storage.QRPolicy{Enabled: true},
	})
	k := newQRKey(t, s)
	wantRefusal(t, tryOpenQR(t, s, "strict", nil).opened, http.StatusBadRequest, "invalid_request")
	boundQR(t, k, "strict", nil)

	p, token := newPhone(t, s), k.phoneToken(t, "alice")
	client, err := s.Store.Client(t.Context(), "phone")
	if err != nil {
		t.Fatal(err)
	}
	client.RequireDPoP = true
	if err := s.Store.PutClient(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	reply := p.send(http.MethodGet, "/sessions")
	wantProblem(t, reply, http.StatusUnauthorized, "invalid_token")
	if got := reply.Header.Values("WWW-Authenticate"); len(got) != 1 || !strings.HasPrefix(got[0], "DPoP error=") {
		t.Errorf("challenges %q", got)
	}
	wantStatus(t, k.phone(t, token, http.MethodGet, "/sessions").send(http.MethodGet, "/sessions"), http.StatusOK)
}

// TestResourcesOfASession: the tokens are for what the opening named, one of them for less.
func TestResourcesOfASession(t *testing.T) {
	t.Parallel()
	const photos, mail = "https://photos.example/", "https://mail.example/"
	s := keyServer(t, &storage.Client{
		ID: "viewer", GrantTypes: []string{qr.GrantType}, Scopes: []string{"openid", "profile"}, Resources: []string{photos, mail},
		JWTAccessTokens: true, QR: storage.QRPolicy{Enabled: true},
	})
	wantRefusal(t, tryOpenQR(t, s, "viewer", url.Values{"resource": {"https://bank.example/"}}).opened, http.StatusBadRequest, "invalid_target")
	for _, row := range []struct{ narrowed, want []string }{
		{nil, []string{photos, mail}}, {[]string{mail}, []string{mail}}, {[]string{mail, photos, mail}, []string{photos, mail}},
	} {
		c := openQR(t, s, "viewer", url.Values{"resource": {photos, mail}})
		if got := c.record().Audience; !slices.Equal(got, []string{photos, mail}) {
			t.Fatalf("the session is for %q", got)
		}
		c.approve(newPhone(t, s))
		s.Clock.Advance(11 * time.Second)
		form := c.tokenForm()
		form["resource"] = []string{"https://bank.example/"}
		wantRefusal(t, c.post(t.Context(), "/token", form, nil), http.StatusBadRequest, "invalid_target")
		form["resource"] = row.narrowed
		token := tokensOf(t, c.post(t.Context(), "/token", form, nil)).AccessToken
		var audience []string
		said, err := json.Marshal(claims(t, token)["aud"])
		if err != nil || json.Unmarshal(said, &audience) != nil || !slices.Equal(audience, row.want) {
			t.Errorf("the audience is %s, want %q", said, row.want)
		}
		s.Clock.Advance(time.Minute)
	}
}

// TestN5AKeyWhereNoneIsBound: whoever proves a key that the session does not have is somebody else.
func TestN5AKeyWhereNoneIsBound(t *testing.T) {
	t.Parallel()
	s := keyServer(t)
	k, c := newQRKey(t, s), openQR(t, s, "cli", nil)
	was := c.record()
	for _, path := range []string{"/qr/events", "/qr/cancel"} {
		hearing, hangUp := context.WithCancel(t.Context())
		answer := askEvents(hearing, t, s.Client(), s.URL(path), c.streamForm(), k.post(t, path))
		hangUp()
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", path, answer.StatusCode)
		}
	}
	ws, form := dialSocket(t.Context(), t, s, s.Client(), nil), c.streamForm()
	form.Set("dpop", k.proof(t, http.MethodGet, "/qr/ws", "", ""))
	if err := ws.Write(t.Context(), websocket.MessageText, []byte(object(t, form))); err != nil {
		t.Fatal(err)
	}
	if code, reason, _ := closeOf(t, ws); code != 4400 || reason != "invalid_grant" {
		t.Errorf("/qr/ws: %d %q", code, reason)
	}
	wantUnmoved(t, c, was)
}

// TestResourcesAtTheTokenEndpoint: for either grant a token request names no more than the opening,
// and hears so before anybody has answered.
func TestResourcesAtTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	const photos, mail = "https://photos.example/", "https://mail.example/"
	var clients []*storage.Client
	for _, grant := range []string{qr.GrantType, qr.DeviceGrantType} {
		clients = append(clients, &storage.Client{
			ID: grant, GrantTypes: []string{grant}, Scopes: []string{"openid", "profile"}, Resources: []string{photos, mail},
			JWTAccessTokens: true, QR: storage.QRPolicy{Enabled: true},
		})
	}
	s := keyServer(t, clients...)
	for _, client := range clients {
		c := openQR(t, s, client.ID, url.Values{"resource": {photos, mail}})
		form := c.tokenForm()
		form.Set("resource", "https://bank.example/")
		for _, path := range []string{"/token", "/qr/cancel"} {
			wantRefusal(t, c.post(t.Context(), path, form, nil), http.StatusBadRequest, "invalid_target")
		}
		s.Clock.Advance(6 * time.Second)
		c.approve(newPhone(t, s))
		s.Clock.Advance(11 * time.Second)
		wantRefusal(t, c.post(t.Context(), "/token", form, nil), http.StatusBadRequest, "invalid_target")
		form.Set("resource", mail)
		token := tokensOf(t, c.post(t.Context(), "/token", form, nil)).AccessToken
		if diff := cmp.Diff([]any{mail}, claims(t, token)["aud"]); diff != "" {
			t.Errorf("%s: %s", client.ID, diff)
		}
	}
}
