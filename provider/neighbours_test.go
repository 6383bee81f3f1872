package provider_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// The tests named TestN… show what the QR grant takes from its neighbour standards: RFC 9700, 7636,
// 9449, 9470 and 8414.

// N1: a token or a code stands in a header or a body, never in an address (RFC 6750 §2.3, RFC 9700
// §4.3.2), wherever one is taken.
func TestN1TokenInQueryIsRefusedEverywhere(t *testing.T) {
	t.Parallel()
	docs := providertest.NewDocuments(t)
	s := providertest.NewServer(t, providertest.Options{Change: providertest.EverySwitch(docs)})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	approver := newPhone(t, s)
	c := openQR(t, s, "cli", nil)
	scan, code := c.claim(approver)
	registered := s.Register(t.Context(), map[string]any{"redirect_uris": []string{providertest.RedirectURI}})
	management := strings.TrimPrefix(registered.Text("registration_client_uri"), s.Issuer)

	jsonBody := http.Header{"Content-Type": {"application/json"}}
	asWeb := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Authorization": {basic("web", providertest.ClientSecret)}}
	access, approval := "access_token="+tokens.AccessToken, "access_token="+approver.token
	for _, row := range []struct {
		method, path, query, body string
		header                    http.Header
		status                    int
	}{
		{"GET", "/userinfo", access, "", nil, 401},
		{"POST", "/userinfo", access, "", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, 401},
		{"GET", "/sessions", approval, "", nil, 401},
		{"DELETE", "/sessions/some-sign-in", approval, "", nil, 401},
		{"POST", "/sessions/revoke-all", approval, `{"reason":"lost_phone"}`, jsonBody, 401},
		{"POST", "/qr/scan", approval, `{"payload":"x","entry":"scanner"}`, jsonBody, 401},
		{"POST", "/qr/decision", approval, string(jsonOf(t, decision(scan, "approve", code))), jsonBody, 401},
		{"POST", "/register", "access_token=" + providertest.InitialAccessToken, `{"redirect_uris":["https://web.example/x"]}`, jsonBody, 401},
		{"GET", management, "access_token=" + registered.Text("registration_access_token"), "", nil, 401},
		{"DELETE", management, "access_token=" + registered.Text("registration_access_token"), "", nil, 401},
		{"POST", "/introspect", "token=" + tokens.AccessToken, "", asWeb, 400},
		{"POST", "/revoke", "token=" + tokens.RefreshToken, "", asWeb, 400},
		{"POST", "/token", "grant_type=refresh_token&refresh_token=" + tokens.RefreshToken, "", asWeb, 400},
		{"POST", "/token", "refresh_token=" + tokens.RefreshToken, "grant_type=refresh_token", asWeb, 400},
		{"POST", "/token", c.tokenForm().Encode() + "&client_id=cli", "", http.Header{"Content-Type": asWeb["Content-Type"]}, 400},
		{"POST", "/qr/cancel", "device_code=" + c.deviceCode(), "client_id=cli", http.Header{"Content-Type": asWeb["Content-Type"]}, 400},
		{"POST", "/qr/events", "device_code=" + c.deviceCode(), "client_id=cli", http.Header{"Content-Type": asWeb["Content-Type"]}, 400},
	} {
		reply := send(t, s, row.method, row.path+"?"+row.query, row.body, row.header)
		if reply.Status != row.status || reply.Text("active") != "" || strings.Contains(reply.Body, providertest.AliceSubject) {
			t.Errorf("%s %s?%.16s…: %d, want %d: %s", row.method, row.path, row.query, reply.Status, row.status, reply.Body)
		}
	}
	// None of it did anything.
	if got := c.record().State; got != storage.QRScanned {
		t.Errorf("the session is %s", got)
	}
	if reply := s.SendJSON(t.Context(), http.MethodGet, management, registered.Text("registration_access_token"), nil); reply.Status != http.StatusOK {
		t.Errorf("the client: %d %s", reply.Status, reply.Body)
	}
	if reply := s.Bearer(t.Context(), "/userinfo", tokens.AccessToken); reply.Status != http.StatusOK {
		t.Errorf("the access token: %d %s", reply.Status, reply.Body)
	}
	tokensOf(t, refresh(t, s, "web", tokens.RefreshToken, nil))
}

func jsonOf(t *testing.T, v any) []byte {
	t.Helper()
	encoded, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

// N2: a code without a challenge is refused before anybody is shown a page, a QR code least of all
// (RFC 9700 §2.1.1), whichever way the request comes: in the browser, pushed, or signed.
func TestN2HostedModeNeedsAChallenge(t *testing.T) {
	t.Parallel()
	docs := providertest.NewDocuments(t)
	key := providertest.NewClientKey(t, jose.ES256, "of-the-shop")
	policy := storage.QRPolicy{Enabled: true}
	change := providertest.EverySwitch(docs)
	s := providertest.NewServer(t, providertest.Options{Change: change, Clients: []*storage.Client{
		{
			ID: "app", Name: "App", RedirectURIs: []string{providertest.RedirectURI}, Scopes: []string{"openid"}, QR: policy,
			ResponseTypes: []string{"code", "code id_token"}, GrantTypes: []string{"authorization_code", "implicit"},
		},
		{
			ID: "signer", Name: "Signer", RedirectURIs: []string{providertest.RedirectURI}, Scopes: []string{"openid"}, QR: policy,
			AuthMethod: storage.AuthPrivateKeyJWT, JWKS: jsonOf(t, providertest.JWKS(key)),
		},
	}})
	_, challenge := providertest.Verifier()
	for name, changes := range map[string][]string{
		"none":             {"code_challenge", "", "code_challenge_method", ""},
		"no method":        {"code_challenge_method", ""},
		"plain":            {"code_challenge_method", "plain"},
		"a method only":    {"code_challenge", ""},
		"a short one":      {"code_challenge", challenge[:42]},
		"a long one":       {"code_challenge", challenge + "A"},
		"not of base64url": {"code_challenge", challenge[:42] + "+"},
	} {
		for _, client := range []string{"app", "signer"} {
			q := providertest.AuthorizeQuery(client, "openid", challenge)
			for i := 0; i < len(changes); i += 2 {
				q.Set(changes[i], changes[i+1])
			}
			claims := map[string]any{"iss": client, "aud": s.Issuer, "exp": s.Clock.Now().Add(time.Minute).Unix()}
			for parameter := range q {
				claims[parameter] = q.Get(parameter)
			}
			ways := map[string]string{"in the browser": q.Encode()}
			if client == "signer" {
				ways["signed"] = url.Values{"client_id": {client}, "request": {key.Sign(t, "oauth-authz-req+jwt", claims)}}.Encode()
				wantError(t, s.PostSigned(t.Context(), key, client, "/par", q), http.StatusBadRequest, "invalid_request")
			} else {
				q.Set("response_type", "code id_token")
				q.Set("nonce", "a-nonce")
				ways["with an ID token"] = q.Encode()
				wantError(t, s.Post(t.Context(), s.Client(), "/par", q), http.StatusBadRequest, "invalid_request")
			}
			for way, query := range ways {
				browser := s.Browser()
				reply := s.Get(t.Context(), browser, "/authorize?"+query)
				answer, err := url.ParseQuery(strings.NewReplacer(providertest.RedirectURI+"?", "", providertest.RedirectURI+"#", "").Replace(reply.Header.Get("Location")))
				if err != nil || reply.Status != http.StatusSeeOther || answer.Get("error") != "invalid_request" || answer.Get("state") != q.Get("state") || reply.Header.Get("Set-Cookie") != "" {
					t.Errorf("%s, %s %s: %d %v", name, client, way, reply.Status, reply.Header)
				}
			}
		}
	}
	// With a good one the page shows a code to scan.
	reply := s.Get(t.Context(), s.Browser(), "/authorize?"+providertest.AuthorizeQuery("app", "openid", challenge).Encode())
	if !isSignIn(reply) || !strings.Contains(reply.Header.Get("Set-Cookie"), "qr-") && !strings.Contains(strings.Join(reply.Header.Values("Set-Cookie"), " "), "qr-") {
		t.Errorf("%d %v", reply.Status, reply.Header)
	}
}

// N3: who brings a refresh token again that was used ends the family (RFC 9700 §4.14.2), also where
// tokens are bound to keys, clients have keys, and access tokens are JWTs that we do not need to
// look up. TestRefreshReuse has what counts as a reuse and what as a lost answer.
func TestN3ReusedRefreshTokenKillsTheFamily(t *testing.T) {
	t.Parallel()
	t.Run("clients with a secret", TestRefreshReuse)
	key := providertest.NewClientKey(t, jose.ES256, "a-key")
	clients := []*storage.Client{
		{ID: "app", Name: "App", RequireDPoP: true},
		{ID: "jwt", Name: "JWT", JWTAccessTokens: true},
		{ID: "signer", Name: "Signer", AuthMethod: storage.AuthPrivateKeyJWT, JWKS: jsonOf(t, providertest.JWKS(key)), JWTAccessTokens: true},
	}
	for _, c := range clients {
		c.RedirectURIs, c.FirstParty, c.Scopes = []string{providertest.RedirectURI}, true, []string{"openid", "offline_access"}
		c.GrantTypes = []string{"authorization_code", "refresh_token"}
	}
	s := providertest.NewServer(t, providertest.Options{Clients: clients})
	for _, c := range clients {
		t.Run(c.ID, func(t *testing.T) {
			prover := newProver(t, s)
			send := func(form url.Values) *providertest.Reply {
				switch {
				case c.RequireDPoP:
					return prover.token("", public(c.ID, form))
				case c.AuthMethod != "":
					return s.PostSigned(t.Context(), key, c.ID, "/token", form)
				}
				return s.Post(t.Context(), s.Client(), "/token", public(c.ID, form))
			}
			form := codeForm(t, s, c.ID, "openid offline_access", nil)
			form.Del("client_id")
			family := []providertest.Tokens{tokensOf(t, send(form))}
			for range 2 {
				family = append(family, tokensOf(t, send(refreshForm("", family[len(family)-1].RefreshToken))))
				s.Clock.Advance(2 * time.Minute) // an answer that was lost is asked for again at once
			}
			wantError(t, send(refreshForm("", family[0].RefreshToken)), http.StatusBadRequest, "invalid_grant")
			for i, tokens := range family {
				wantError(t, send(refreshForm("", tokens.RefreshToken)), http.StatusBadRequest, "invalid_grant")
				reply := s.Bearer(t.Context(), "/userinfo", tokens.AccessToken)
				if c.RequireDPoP {
					reply = prover.userinfo("GET", tokens.AccessToken, prover.proof("GET", "/userinfo", tokens.AccessToken))
				}
				if reply.Status != http.StatusUnauthorized {
					t.Errorf("access token %d: %d %s", i, reply.Status, reply.Body)
				}
			}
		})
	}
}

// N4: the verifier has 43 to 128 unreserved characters (RFC 7636 §4.1), and one that has not is
// refused even where its hash is the challenge; at both grants of the device and at the code flow.
func TestN4VerifierBoundaries(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	p := newPhone(t, s)
	letters := strings.Repeat("Aa0", 60)
	for name, row := range map[string]struct {
		verifier string
		good     bool
	}{
		"43 characters":            {letters[:43], true},
		"128 characters":           {letters[:128], true},
		"every kind of unreserved": {"-._~" + letters[:40], true},
		"one character":            {"A", false},
		"42 characters":            {letters[:42], false},
		"129 characters":           {letters[:129], false},
		"a space":                  {letters[:43] + " x", false},
		"a plus":                   {letters[:43] + "+", false},
		"a slash":                  {letters[:43] + "/", false},
		"padding":                  {letters[:43] + "=", false},
		"a percent":                {letters[:43] + "%41", false},
		"a letter of another kind": {letters[:43] + "é", false},
		"a line break":             {letters[:43] + "\n", false},
		"a zero byte":              {letters[:43] + "\x00", false},
	} {
		sum := sha256.Sum256([]byte(row.verifier))
		challenge := base64.RawURLEncoding.EncodeToString(sum[:])
		replies := map[string]*providertest.Reply{}
		for _, client := range []string{"cli", "tv"} {
			c := openQR(t, s, client, url.Values{"code_challenge": {challenge}, "code_challenge_method": {"S256"}})
			if c.verifier = row.verifier; row.good {
				c.approve(p)
			}
			replies[client] = c.poll(t.Context())
		}
		redirect := s.Code(t.Context(), s.Browser(), providertest.AuthorizeQuery("web", "openid", challenge))
		replies["web"] = s.Redeem(t.Context(), "web", redirect, row.verifier)
		for client, reply := range replies {
			if row.good {
				tokensOf(t, reply)
				continue
			}
			if reply.Status != http.StatusBadRequest || !slices.Contains([]string{"invalid_grant", "invalid_request"}, reply.Text("error")) {
				t.Errorf("%s as %s: %d %s", name, client, reply.Status, reply.Body)
			}
		}
	}
	// The stock client of Go, with DeviceAuth(S256ChallengeOption) and DeviceAccessToken(VerifierOption).
	t.Run("x/oauth2", TestXOAuth2DeviceFlowApprovedAfterTwoMinutes)
}

// N5: the key at the start is the key of every later step and of the tokens (RFC 9449 §5, §10), and
// a proof is good for one request, at one place, for a short while. TestN5TheFormEndpoints and its
// neighbours send bad proofs to every other endpoint.
func TestN5FromTheStartToTheResource(t *testing.T) {
	t.Parallel()
	secret := [][32]byte{sha256.Sum256([]byte(providertest.ClientSecret))}
	policy := storage.QRPolicy{Enabled: true}
	clients := []*storage.Client{
		{ID: "screen", Name: "Screen", GrantTypes: []string{qr.GrantType}, Scopes: []string{"openid", "profile"}, QR: policy, JWTAccessTokens: true},
		{ID: "box", Name: "Box", GrantTypes: []string{qr.DeviceGrantType}, Scopes: []string{"openid", "profile"}, QR: policy, SecretHashes: secret},
	}
	for _, client := range clients {
		t.Run(client.ID, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{Change: roomy, Clients: clients})
			p, thief := newProver(t, s), newProver(t, s)
			c := openQR(t, s, client.ID, url.Values{"dpop_jkt": {p.jkt()}})
			poll := func(proofs ...string) *providertest.Reply {
				return c.post(t.Context(), "/token", c.tokenForm(), http.Header{"Dpop": proofs})
			}
			fresh := func(of *prover) string { return of.proof("POST", "/token", "") }
			app := newPhone(t, s)
			scan := scanOf(c, app)
			wantError(t, app.decide(scan, "approve", poll(fresh(p)).Text("check_code")), http.StatusOK, "")

			wantError(t, poll(fresh(thief)), http.StatusBadRequest, "invalid_grant")
			wantError(t, poll(), http.StatusBadRequest, "invalid_grant")
			header, claims := p.parts("POST", "/token", "")
			for member, value := range map[string]any{
				"htu": s.Issuer + "/userinfo", "htm": "GET", "iat": s.Clock.Now().Add(-5 * time.Minute).Unix(), "jti": nil,
			} {
				wrong := maps.Clone(claims)
				wrong[member] = value
				wantError(t, poll(p.seal(header, wrong)), http.StatusBadRequest, dpop.CodeInvalidProof)
			}
			// Only the two without the key count against the session.
			if got := c.record(); got.BindingFailures != 2 || got.State != storage.QRApproved {
				t.Errorf("%d failures, %s", got.BindingFailures, got.State)
			}
			proof := p.seal(header, claims)
			tokens := tokensOf(t, poll(proof))
			if tokens.TokenType != "DPoP" || boundTo(t, s, client, tokens.AccessToken) != p.jkt() {
				t.Errorf("%+v is not bound to %s", tokens, p.jkt())
			}
			wantError(t, poll(proof), http.StatusBadRequest, dpop.CodeInvalidProof)
			usedOnce(t, p, thief, tokens.AccessToken)
		})
	}
}

// scanOf has the app scan what the session shows.
func scanOf(c *consumption, app *phone) *providertest.Reply {
	c.t.Helper()
	if frame := payload(c.opened); frame != "" {
		return app.scan(frame, "scanner")
	}
	return app.scanCode(c.userCode())
}

// boundTo returns the cnf.jkt of an access token, as resource servers learn it.
func boundTo(t *testing.T, s *providertest.Server, client *storage.Client, token string) string {
	t.Helper()
	var told struct {
		Confirmation struct {
			JKT string `json:"jkt"`
		} `json:"cnf"`
	}
	if client.JWTAccessTokens {
		decodeSegment(t, token, 1, &told)
		return told.Confirmation.JKT
	}
	reply := s.PostAs(t.Context(), client.ID, "/introspect", url.Values{"token": {token}})
	if err := json.Unmarshal([]byte(reply.Body), &told); err != nil {
		t.Fatal(err)
	}
	return told.Confirmation.JKT
}

// usedOnce uses a bound token at userinfo as its owner, as who saw that, and as a thief.
func usedOnce(t *testing.T, p, thief *prover, token string) {
	t.Helper()
	proof := p.proof("GET", "/userinfo", token)
	if reply := p.userinfo("GET", token, proof); reply.Status != http.StatusOK {
		t.Errorf("the owner: %d %s", reply.Status, reply.Body)
	}
	for name, reply := range map[string]*providertest.Reply{
		"the same proof again":     p.userinfo("GET", token, proof),
		"a swapped key":            thief.userinfo("GET", token, thief.proof("GET", "/userinfo", token)),
		"a proof for elsewhere":    p.userinfo("GET", token, p.proof("POST", "/token", token)),
		"a proof of no token":      p.userinfo("GET", token, p.proof("GET", "/userinfo", "")),
		"without a proof":          p.userinfo("GET", token),
		"as a bearer token":        p.s.Bearer(t.Context(), "/userinfo", token),
		"as bearer, with a proof":  send(t, p.s, "GET", "/userinfo", "", http.Header{"Authorization": {"Bearer " + token}, "Dpop": {p.proof("GET", "/userinfo", token)}}),
		"the proof of another one": p.userinfo("GET", token, p.proof("GET", "/userinfo", token+"x")),
	} {
		if reply.Status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Body)
		}
	}
}

// N6: the request asks for a fresh sign-in, the phone is told so before it claims anything
// (RFC 9470 §3), and with one the sign-in goes through and is as fresh.
func TestN6PhoneStepUp(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"cli", "tv"} {
		s := providertest.NewServer(t, providertest.Options{Change: roomy})
		stale := newPhone(t, s)
		s.Clock.Advance(5 * time.Minute)
		c := openQR(t, s, client, url.Values{"max_age": {"60"}})
		refused := scanOf(c, stale)
		if got := refused.Header.Get("WWW-Authenticate"); refused.Status != http.StatusUnauthorized || refused.Text("error") != "insufficient_user_authentication" ||
			refused.JSON()["max_age"] != 60.0 || !strings.Contains(got, `error="insufficient_user_authentication"`) || !strings.Contains(got, `max_age="60"`) {
			t.Fatalf("%s: %d %s %q", client, refused.Status, refused.Body, got)
		}
		if refused.JSON()["context"] != nil || c.record().State != storage.QRPending {
			t.Errorf("%s: a stale sign-in learns %s; the session is %s", client, refused.Body, c.record().State)
		}
		fresh, at := newPhone(t, s), s.Clock.Now()
		s.Clock.Advance(10 * time.Second)
		c.approve(fresh)
		tokens := tokensOf(t, c.poll(t.Context()))
		if got := claims(t, tokens.IDToken)["auth_time"]; got != unixOf(at) {
			t.Errorf("%s: auth_time %v, want %v", client, got, unixOf(at))
		}
	}
}

// N14: the metadata tell of the device endpoint, the challenge methods and the algorithms of proofs
// (RFC 8414, RFC 8628 §4, RFC 9449 §5.1), and what is ours stands in a document of its own.
func TestN14Metadata(t *testing.T) {
	t.Parallel()
	t.Run("endpoint, grants, challenge methods and qr-configuration", TestD20Discovery)
	s := providertest.NewServer(t, providertest.Options{})
	o := opOn(t, s, "query")
	algs := o.offers("dpop_signing_alg_values_supported")
	if len(algs) == 0 || slices.Contains(algs, "none") || slices.ContainsFunc(algs, func(alg string) bool { return strings.HasPrefix(alg, "HS") }) {
		t.Errorf("algorithms %v", algs)
	}
	for _, grant := range []string{qr.GrantType, qr.DeviceGrantType} {
		if !slices.Contains(o.offers("grant_types_supported"), grant) {
			t.Errorf("no %s", grant)
		}
	}
	for name := range o.metadataDocument() {
		if strings.HasPrefix(name, "qr_") || !slices.Contains(knownMetadata(), name) {
			t.Errorf("%s stands in the standard document", name)
		}
	}
}
