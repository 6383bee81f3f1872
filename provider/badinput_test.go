package provider_test

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// canary stands in every bad input; no answer may hold it.
const canary = "c4n4ry"

// openingStore counts openings, which leave no record to look at when they are refused.
type openingStore struct {
	storage.Store
	opened atomic.Int64
}

func (o *openingStore) CreateQRSession(ctx context.Context, q *storage.QRSession) error {
	o.opened.Add(1)
	return o.Store.CreateQRSession(ctx, q)
}

// target is a server with one session in the middle of a sign-in, to which bad input is sent.
type target struct {
	s     *providertest.Server
	store *openingStore
	c     *consumption
	p     *phone
	scan  *providertest.Reply
	code  string
	// before is the session and openings how many there were before the input.
	before   *storage.QRSession
	openings int64
}

func newTarget(t *testing.T, client string) *target {
	t.Helper()
	target := &target{}
	target.s = providertest.NewServer(t, providertest.Options{Change: manyTries, Wrap: func(store storage.Store) storage.Store {
		target.store = &openingStore{Store: store}
		return target.store
	}})
	target.c, target.p = openQR(t, target.s, client, nil), newPhone(t, target.s)
	target.scan, target.code = target.c.claim(target.p)
	target.before, target.openings = target.c.record(), target.store.opened.Load()
	return target
}

// check wants a refusal that echoes nothing and has changed nothing.
func (g *target) check(t *testing.T, reply *providertest.Reply, status int, code string) {
	t.Helper()
	wantRefusal(t, reply, status, code)
	headers := strings.Builder{}
	if err := reply.Header.Write(&headers); err != nil {
		t.Error(err)
	}
	if strings.Contains(reply.Body+headers.String(), canary) {
		t.Errorf("the answer echoes the input: %s%s", headers.String(), reply.Body)
	}
	wantUnchanged(t, g.before, g.c.record())
	if n := g.store.opened.Load(); n != g.openings {
		t.Errorf("%d sessions were opened", n-g.openings)
	}
}

// send sends any request; Authorization is set from the phone's token when token is.
func (g *target) send(t *testing.T, method, path, contentType, body, token string) *providertest.Reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, g.s.URL(path), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return g.s.Do(g.s.Client(), req)
}

const (
	formType = "application/x-www-form-urlencoded"
	jsonType = "application/json"
)

// forms is a good body of every form endpoint.
func (g *target) forms() map[string]url.Values {
	token := mergeForm(g.c.tokenForm(), url.Values{"client_id": {g.c.client.ID}})
	_, challenge := providertest.Verifier()
	return map[string]url.Values{
		"/device_authorization": {"client_id": {g.c.client.ID}, "scope": {"openid"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"}},
		"/token":                token,
		"/qr/cancel":            {"client_id": {g.c.client.ID}, "device_code": {g.c.deviceCode()}},
	}
}

func TestBadFormInput(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name        string
		method      string
		contentType string
		body        func(good url.Values) string
		status      int
	}{
		{"a body of 64 KiB and one byte", "POST", formType, func(good url.Values) string {
			body := good.Encode() + "&x=" + canary
			return body + strings.Repeat("x", form.MaxBody+1-len(body))
		}, http.StatusRequestEntityTooLarge},
		{"a repeated parameter", "POST", formType, func(good url.Values) string { return good.Encode() + "&x=1&x=" + canary }, 400},
		{"a repeated parameter of the same value", "POST", formType, func(good url.Values) string { return good.Encode() + "&client_id=" + good.Get("client_id") }, 400},
		{"no content type", "POST", "", url.Values.Encode, 400},
		{"JSON", "POST", jsonType, func(url.Values) string { return `{"client_id":"` + canary + `"}` }, 400},
		{"a form that says it is JSON", "POST", jsonType, url.Values.Encode, 400},
		{"multipart", "POST", "multipart/form-data; boundary=" + canary, func(url.Values) string { return "--" + canary + "--" }, 400},
		{"plain text", "POST", "text/plain", url.Values.Encode, 400},
		{"a content type that is none", "POST", ";;" + canary, url.Values.Encode, 400},
		{"GET", "GET", formType, url.Values.Encode, http.StatusMethodNotAllowed},
		{"PUT", "PUT", formType, url.Values.Encode, http.StatusMethodNotAllowed},
		{"DELETE", "DELETE", formType, url.Values.Encode, http.StatusMethodNotAllowed},
		{"a NUL", "POST", formType, func(good url.Values) string { return good.Encode() + "&x=" + canary + "%00" }, 400},
		{"a raw NUL", "POST", formType, func(good url.Values) string { return good.Encode() + "&x=" + canary + "\x00" }, 400},
		{"a NUL in a name", "POST", formType, func(good url.Values) string { return good.Encode() + "&" + canary + "%00=x" }, 400},
		{"invalid UTF-8", "POST", formType, func(good url.Values) string { return good.Encode() + "&x=" + canary + "%ff" }, 400},
		{"raw invalid UTF-8", "POST", formType, func(good url.Values) string { return good.Encode() + "&x=" + canary + "\xc3\x28" }, 400},
		{"a broken escape", "POST", formType, func(good url.Values) string { return good.Encode() + "&x=" + canary + "%zz" }, 400},
		{"a semicolon", "POST", formType, func(good url.Values) string { return good.Encode() + "&x=" + canary + ";y=1" }, 400},
		{"DPoP by parameter", "POST", formType, func(good url.Values) string { return good.Encode() + "&dpop_jkt=" + canary }, 400},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := newTarget(t, "cli")
			for path, good := range g.forms() {
				reply := g.send(t, row.method, path, row.contentType, row.body(good), "")
				g.check(t, reply, row.status, "invalid_request")
				if row.status == http.StatusMethodNotAllowed && reply.Header.Get("Allow") != "POST" {
					t.Errorf("%s: Allow = %q", path, reply.Header.Get("Allow"))
				}
			}
		})
	}
}

// A key or an audience that cannot be had is refused, not ignored: whoever asks for a bound token or
// for another audience must not get less without noticing.
func TestWhatCannotBeBoundIsRefused(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, header, extra, code string
	}{
		{"a DPoP proof", canary, "", "invalid_dpop_proof"},
		{"dpop_jkt", "", "&dpop_jkt=" + canary, "invalid_request"},
		{"resource", "", "&resource=https%3A%2F%2F" + canary, "invalid_target"},
		{"resource twice", "", "&resource=https%3A%2F%2F" + canary + "&resource=https%3A%2F%2Fb", "invalid_target"},
		{"resource twice, the first empty", "", "&resource=&resource=https%3A%2F%2F" + canary, "invalid_target"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := newTarget(t, "cli")
			for path, good := range g.forms() {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.s.URL(path), strings.NewReader(good.Encode()+row.extra))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", formType)
				if row.header != "" {
					req.Header.Set("DPoP", row.header)
				}
				g.check(t, g.s.Do(g.s.Client(), req), http.StatusBadRequest, row.code)
			}
		})
	}
}

func TestUnknownGrantType(t *testing.T) {
	t.Parallel()
	g := newTarget(t, "cli")
	for _, grant := range []string{canary, qr.GrantType + "x", strings.ToUpper(qr.GrantType), "implicit", "password"} {
		form := g.forms()["/token"]
		form.Set("grant_type", grant)
		g.check(t, g.send(t, http.MethodPost, "/token", formType, form.Encode(), ""), http.StatusBadRequest, "unsupported_grant_type")
	}
	form := g.forms()["/token"]
	form.Del("grant_type")
	g.check(t, g.send(t, http.MethodPost, "/token", formType, form.Encode(), ""), http.StatusBadRequest, "invalid_request")
}

func TestBadJSONInput(t *testing.T) {
	t.Parallel()
	const big = http.StatusRequestEntityTooLarge
	for _, row := range []struct {
		name        string
		method      string
		contentType string
		body        string
		status      int
	}{
		{"a body of 64 KiB and one byte", "POST", jsonType, `{"x":"` + canary + strings.Repeat("x", form.MaxBody+1-8-len(canary)) + `"}`, big},
		{"no content type", "POST", "", `{}`, http.StatusUnsupportedMediaType},
		{"a form", "POST", formType, "payload=" + canary, http.StatusUnsupportedMediaType},
		{"plain text", "POST", "text/plain", `{"payload":"` + canary + `"}`, http.StatusUnsupportedMediaType},
		{"GET", "GET", jsonType, `{}`, http.StatusMethodNotAllowed},
		{"PUT", "PUT", jsonType, `{"x":"` + canary + `"}`, http.StatusMethodNotAllowed},
		{"nothing", "POST", jsonType, ``, 400},
		{"malformed JSON", "POST", jsonType, `{"payload":"` + canary, 400},
		{"no JSON", "POST", jsonType, canary, 400},
		{"an array", "POST", jsonType, `["` + canary + `"]`, 400},
		{"a string", "POST", jsonType, `"` + canary + `"`, 400},
		{"null", "POST", jsonType, `null`, 400},
		{"two objects", "POST", jsonType, `{}{"x":"` + canary + `"}`, 400},
		{"a member twice", "POST", jsonType, `{"x":"1","x":"` + canary + `"}`, 400},
		{"a number for a string", "POST", jsonType, `{"payload":1,"confirm_handle":1}`, 400},
		{"an object for a string", "POST", jsonType, `{"entry":{"x":"` + canary + `"},"decision":{}}`, 400},
		{"null for a string", "POST", jsonType, `{"user_code":null,"check_code":null}`, 400},
		{"an escaped NUL", "POST", jsonType, `{"payload":"` + canary + `\u0000","decision":"\u0000"}`, 400},
		{"invalid UTF-8", "POST", jsonType, `{"payload":"` + canary + "\xff\",\"decision\":\"\xff\"}", 400},
		{"an empty object", "POST", jsonType, `{}`, 400},
		{"both payload and user code, an unknown decision", "POST", jsonType, `{"payload":"a","user_code":"` + canary + `","entry":"typed","decision":"` + canary + `"}`, 400},
		{"an unknown entry, no decision", "POST", jsonType, `{"payload":"a","entry":"` + canary + `"}`, 400},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := newTarget(t, "cli")
			for _, path := range []string{"/qr/scan", "/qr/decision"} {
				reply := g.send(t, row.method, path, row.contentType, row.body, g.p.token)
				g.check(t, reply, row.status, "invalid_request")
				if row.status == http.StatusMethodNotAllowed {
					if reply.Header.Get("Allow") != "POST" {
						t.Errorf("%s: Allow = %q", path, reply.Header.Get("Allow"))
					}
				} else if got := reply.Header.Get("Content-Type"); got != "application/problem+json" {
					t.Errorf("%s: Content-Type = %q", path, got)
				}
			}
		})
	}
}

// A scanned text that is no frame of ours names no session.
func TestBadPayload(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: manyTries})
	c, p := openQR(t, s, "cli", nil), newPhone(t, s)
	tv := openQR(t, s, "tv", nil)
	before, good := c.record(), payload(c.opened)
	last := good[len(good)-1:]
	flipped := "A"
	if last == "A" {
		flipped = "Q"
	}
	for name, text := range map[string]string{
		"another issuer":                 strings.Replace(good, s.Issuer, "https://"+canary, 1),
		"the issuer in other case":       strings.Replace(good, "https://", "HTTPS://", 1),
		"another version":                strings.Replace(good, "#1", "#2", 1),
		"lower case":                     s.Issuer + "/Q#1" + strings.ToLower(strings.SplitN(good, "#1", 2)[1]),
		"cut short":                      good[:len(good)-1],
		"one character more":             good + "A",
		"another tag":                    good[:len(good)-1] + flipped,
		"another frame number":           good[:len(good)-17] + "7" + good[len(good)-16:],
		"the tag of another session":     payload(openQR(t, s, "cli", nil).opened)[:len(s.Issuer)+4+26] + good[len(s.Issuer)+4+26:],
		"a session of the device grant":  s.Issuer + "/Q#1" + tv.id.String() + good[len(s.Issuer)+4+26:],
		"the reference alone":            c.id.String(),
		"white space in front":           " " + good,
		"the device code":                c.deviceCode(),
		"a link with a broken user code": s.Issuer + "/device?user_code=" + canary,
	} {
		reply := p.scan(text, "scanner")
		wantRefusal(t, reply, http.StatusNotFound, "not_found")
		if strings.Contains(reply.Body, canary) {
			t.Errorf("%s: echoed", name)
		}
		wantUnchanged(t, before, c.record())
	}
	// The QR grant has no static link.
	wantRefusal(t, p.scan(s.Issuer+"/device?user_code="+c.userCode(), "link"), http.StatusNotFound, "unknown_code")
	wantUnchanged(t, before, c.record())
	mustAnswer(t, p.scan(good, "scanner"), http.StatusOK)
}

// Every credential that a phone endpoint refuses, with what it answers and with which challenge.
func TestTokensOfTheWrongKind(t *testing.T) {
	t.Parallel()
	const (
		bare    = `Bearer`
		invalid = `Bearer error="invalid_token"`
		scope   = `Bearer error="insufficient_scope", scope="` + qr.ApproveScope + `"`
	)
	authorization := func(value string) func(*testing.T, *target) http.Header {
		return func(*testing.T, *target) http.Header { return http.Header{"Authorization": {value}} }
	}
	bearer := func(get func(t *testing.T, g *target) string) func(*testing.T, *target) http.Header {
		return func(t *testing.T, g *target) http.Header {
			t.Helper()
			return http.Header{"Authorization": {"Bearer " + get(t, g)}}
		}
	}
	approver := "openid offline_access " + qr.ApproveScope
	for _, row := range []struct {
		name      string
		header    func(t *testing.T, g *target) http.Header
		status    int
		code      string
		challenge string
	}{
		{"no token", func(*testing.T, *target) http.Header { return http.Header{} }, 401, "invalid_token", bare},
		{"an empty header", authorization(""), 401, "invalid_token", bare},
		{"a scheme without a token", authorization("Bearer"), 401, "invalid_token", bare},
		{"Basic", authorization("Basic cGhvbmU6eA=="), 401, "invalid_token", bare},
		{"the DPoP scheme", func(_ *testing.T, g *target) http.Header {
			return http.Header{"Authorization": {"DPoP " + g.p.token}}
		}, 401, "invalid_token", `DPoP error="invalid_token", algs="ES256 ES384 EdDSA Ed25519 PS256"`},
		{"two headers", func(_ *testing.T, g *target) http.Header {
			return http.Header{"Authorization": {"Bearer " + g.p.token, "Bearer " + g.p.token}}
		}, 401, "invalid_token", bare},
		{"garbage", authorization("Bearer " + canary), 401, "invalid_token", invalid},
		{"a token with a character more", func(_ *testing.T, g *target) http.Header {
			return http.Header{"Authorization": {"Bearer " + g.p.token + "x"}}
		}, 401, "invalid_token", invalid},
		{"a refresh token", bearer(func(t *testing.T, g *target) string {
			t.Helper()
			return personTokens(t, g.s, "alice", "phone", approver).RefreshToken
		}), 401, "invalid_token", invalid},
		{"an ID token", bearer(func(t *testing.T, g *target) string {
			t.Helper()
			return personTokens(t, g.s, "alice", "phone", approver).IDToken
		}), 401, "invalid_token", invalid},
		{"an authorization code", bearer(func(t *testing.T, g *target) string {
			t.Helper()
			_, challenge := providertest.Verifier()
			return g.s.Code(t.Context(), g.s.Browser(), providertest.AuthorizeQuery("phone", approver, challenge)).Location().Query().Get("code")
		}), 401, "invalid_token", invalid},
		{"a client-credentials token", bearer(func(t *testing.T, g *target) string {
			t.Helper()
			return g.s.PostAs(t.Context(), "svc", "/token", url.Values{"grant_type": {"client_credentials"}, "scope": {"reports:read"}}).Text("access_token")
		}), 401, "invalid_token", invalid},
		{"a device code", bearer(func(_ *testing.T, g *target) string { return g.c.deviceCode() }), 401, "invalid_token", invalid},
		{"a revoked token", bearer(func(t *testing.T, g *target) string {
			t.Helper()
			mustAnswer(t, g.s.Post(t.Context(), g.s.Client(), "/revoke", url.Values{"client_id": {"phone"}, "token": {g.p.token}}), http.StatusOK)
			return g.p.token
		}), 401, "invalid_token", invalid},
		{"an access token without the scope", bearer(func(t *testing.T, g *target) string {
			t.Helper()
			return personTokens(t, g.s, "alice", "phone", "openid profile").AccessToken
		}), 403, "insufficient_scope", scope},
		{"an access token of another client", bearer(func(t *testing.T, g *target) string {
			t.Helper()
			return personTokens(t, g.s, "alice", "web", "openid profile").AccessToken
		}), 403, "insufficient_scope", scope},
		{"an access token of a QR sign-in", bearer(func(t *testing.T, g *target) string {
			t.Helper()
			_, tokens := signIn(t, g.s, "tv", nil)
			g.openings++
			return tokens.AccessToken
		}), 403, "approver_not_allowed", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := newTarget(t, "cli")
			header := row.header(t, g)
			if got := header.Get("Authorization"); got == "Bearer " {
				t.Fatal("there is no such token")
			}
			stranger := &phone{t: t, s: g.s, header: header}
			for _, reply := range []*providertest.Reply{stranger.scan(payload(g.c.opened), "scanner"), stranger.decide(g.scan, "approve", g.code)} {
				g.check(t, reply, row.status, row.code)
				if got := reply.Header.Get("WWW-Authenticate"); got != row.challenge {
					t.Errorf("WWW-Authenticate = %q, want %q", got, row.challenge)
				}
			}
		})
	}
	t.Run("an expired token", func(t *testing.T) {
		t.Parallel()
		s := providertest.NewServer(t, providertest.Options{})
		p := newPhone(t, s)
		s.Clock.Advance(10 * time.Minute)
		c := openQR(t, s, "cli", nil)
		reply := p.scan(payload(c.opened), "scanner")
		wantRefusal(t, reply, http.StatusUnauthorized, "invalid_token")
		if got := reply.Header.Get("WWW-Authenticate"); got != invalid {
			t.Errorf("WWW-Authenticate = %q", got)
		}
		if q := c.record(); q.State != storage.QRPending {
			t.Errorf("state = %s", q.State)
		}
	})
	for _, where := range []string{"in the query", "in the body"} {
		t.Run("a token "+where, func(t *testing.T) {
			t.Parallel()
			g := newTarget(t, "cli")
			stranger := &phone{t: t, s: g.s}
			body, query := decision(g.scan, "approve", g.code), ""
			maps.Copy(body, map[string]string{"payload": payload(g.c.opened), "entry": "scanner"})
			if where == "in the query" {
				query = "?access_token=" + url.QueryEscape(g.p.token)
			} else {
				body["access_token"] = g.p.token
			}
			g.check(t, stranger.post(t.Context(), "/qr/scan"+query, body), http.StatusUnauthorized, "invalid_token")
			g.check(t, stranger.post(t.Context(), "/qr/decision"+query, body), http.StatusUnauthorized, "invalid_token")
		})
	}
	// An approver client whose mark was taken away, and a person who was disabled.
	t.Run("a client that is no approver any more", func(t *testing.T) {
		t.Parallel()
		g := newTarget(t, "cli")
		client, err := g.s.Store.Client(t.Context(), "phone")
		if err != nil {
			t.Fatal(err)
		}
		client.Approver = false
		if err := g.s.Store.PutClient(t.Context(), client); err != nil {
			t.Fatal(err)
		}
		g.check(t, g.p.decide(g.scan, "approve", g.code), http.StatusForbidden, "approver_not_allowed")
	})
	t.Run("a person who was disabled", func(t *testing.T) {
		t.Parallel()
		g := newTarget(t, "cli")
		user := providertest.Alice()
		user.Disabled = true
		if err := g.s.Store.PutUser(t.Context(), user); err != nil {
			t.Fatal(err)
		}
		g.check(t, g.p.decide(g.scan, "approve", g.code), http.StatusUnauthorized, "invalid_token")
	})
}
