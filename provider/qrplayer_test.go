package provider_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// consumption is a PC or TV that has opened a QR session.
type consumption struct {
	t        testing.TB
	s        *providertest.Server
	client   *storage.Client
	verifier string
	// opened is the answer of /device_authorization; id the session it is about.
	opened *providertest.Reply
	id     storage.QRID
}

// openQR opens a session as a seeded or extra client; a value of extra replaces the
// parameter, an empty one takes it out. It fails the test when the opening is refused.
func openQR(tb testing.TB, s *providertest.Server, clientID string, extra url.Values) *consumption {
	tb.Helper()
	c := tryOpenQR(tb, s, clientID, extra)
	if c.opened.Status != http.StatusOK {
		tb.Fatalf("opening as %s: %d %s", clientID, c.opened.Status, c.opened.Body)
	}
	raw, err := base64.RawURLEncoding.DecodeString(c.deviceCode())
	if err != nil || len(raw) != 48 {
		tb.Fatalf("device_code of %d bytes: %v", len(raw), err)
	}
	copy(c.id[:], raw)
	return c
}

// tryOpenQR is openQR for openings that may be refused.
func tryOpenQR(tb testing.TB, s *providertest.Server, clientID string, extra url.Values) *consumption {
	tb.Helper()
	client, err := s.Store.Client(tb.Context(), clientID)
	if err != nil {
		tb.Fatal(err)
	}
	c := &consumption{t: tb, s: s, client: client}
	form := url.Values{"scope": {"openid profile"}}
	if slices.Contains(client.GrantTypes, qr.GrantType) {
		verifier, challenge := providertest.Verifier()
		c.verifier = verifier
		form.Set("code_challenge", challenge)
		form.Set("code_challenge_method", "S256")
	}
	maps.Copy(form, extra)
	c.opened = c.post(tb.Context(), "/device_authorization", form, nil)
	return c
}

// post sends a form as the session's client, with its secret when it has one.
func (c *consumption) post(ctx context.Context, path string, form url.Values, header http.Header) *providertest.Reply {
	c.t.Helper()
	form = maps.Clone(form)
	if c.client.Public() && !form.Has("client_id") {
		form.Set("client_id", c.client.ID)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.s.URL(path), strings.NewReader(form.Encode()))
	if err != nil {
		c.t.Error(err)
		return &providertest.Reply{Header: http.Header{}}
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if !c.client.Public() {
		req.SetBasicAuth(url.QueryEscape(c.client.ID), url.QueryEscape(providertest.ClientSecret))
	}
	client := c.s.Client()
	client.Timeout = time.Minute // a poll that nothing wakes fails its test instead of hanging it
	return c.s.Do(client, req)
}

func (c *consumption) deviceCode() string { return c.opened.Text("device_code") }
func (c *consumption) userCode() string   { return c.opened.Text("user_code") }

func (c *consumption) grantType() string {
	if slices.Contains(c.client.GrantTypes, qr.GrantType) {
		return qr.GrantType
	}
	return qr.DeviceGrantType
}

// tokenForm is the token request of this session.
func (c *consumption) tokenForm() url.Values {
	form := url.Values{"grant_type": {c.grantType()}, "device_code": {c.deviceCode()}}
	if c.verifier != "" {
		form.Set("code_verifier", c.verifier)
	}
	return form
}

// poll asks for tokens once, without Prefer.
func (c *consumption) poll(ctx context.Context) *providertest.Reply {
	c.t.Helper()
	return c.post(ctx, "/token", c.tokenForm(), nil)
}

// hold polls with Prefer: wait and returns once the server holds the poll, or has answered it
// at once. The channel gets the answer.
func (c *consumption) hold(ctx context.Context, seconds int) <-chan *providertest.Reply {
	c.t.Helper()
	return c.holdForm(ctx, seconds, c.tokenForm())
}

func (c *consumption) holdForm(ctx context.Context, seconds int, form url.Values) <-chan *providertest.Reply {
	c.t.Helper()
	return c.holdWith(ctx, form, http.Header{"Prefer": {"wait=" + strconv.Itoa(seconds)}})
}

func (c *consumption) holdWith(ctx context.Context, form url.Values, header http.Header) <-chan *providertest.Reply {
	c.t.Helper()
	before := c.s.Clock.Timers()
	answer := make(chan *providertest.Reply, 1)
	go func() { answer <- c.post(ctx, "/token", form, header) }()
	for c.s.Clock.Timers() <= before && len(answer) == 0 {
		runtime.Gosched()
	}
	return answer
}

// cancel gives the session up.
func (c *consumption) cancel(ctx context.Context) *providertest.Reply {
	c.t.Helper()
	return c.post(ctx, "/qr/cancel", url.Values{"device_code": {c.deviceCode()}}, nil)
}

// record is the session as it is stored.
func (c *consumption) record() *storage.QRSession {
	c.t.Helper()
	q, err := c.s.Store.QRSession(context.WithoutCancel(c.t.Context()), c.id)
	if err != nil {
		c.t.Fatal(err)
	}
	return q
}

// payload is what the QR code says in an answer of /device_authorization or /token.
func payload(r *providertest.Reply) string {
	frame, _ := r.JSON()["qr"].(map[string]any)
	text, _ := frame["payload"].(string)
	return text
}

// phone is an app with an access token.
type phone struct {
	t     testing.TB
	s     *providertest.Server
	token string
	// header is sent with every call, beside the token.
	header http.Header
}

// newPhone signs Alice in on a phone.
func newPhone(tb testing.TB, s *providertest.Server) *phone {
	tb.Helper()
	return newPhoneOf(tb, s, providertest.AliceLogin)
}

// newPhoneOf signs a person in on a phone; a person who is not there yet is made, with Alice's
// password and the login as subject.
func newPhoneOf(tb testing.TB, s *providertest.Server, login string) *phone {
	tb.Helper()
	addPerson(tb, s, login)
	return &phone{t: tb, s: s, token: personTokens(tb, s, login, "phone", "openid "+qr.ApproveScope).AccessToken}
}

func addPerson(tb testing.TB, s *providertest.Server, login string) {
	tb.Helper()
	if _, err := s.Store.UserByLogin(tb.Context(), login); err == nil {
		return
	}
	err := s.Store.PutUser(tb.Context(), &storage.User{
		Subject: login, Login: login, PasswordHash: providertest.Alice().PasswordHash, Claims: map[string]any{"name": login},
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// personTokens runs the code flow of a person in a browser of its own.
func personTokens(tb testing.TB, s *providertest.Server, login, clientID, scope string) providertest.Tokens {
	tb.Helper()
	ctx, browser := tb.Context(), s.Browser()
	verifier, challenge := providertest.Verifier()
	page := s.Get(ctx, browser, "/authorize?"+providertest.AuthorizeQuery(clientID, scope, challenge).Encode())
	redirect := s.Post(ctx, browser, "/login", url.Values{
		"csrf": {page.Hidden("csrf")}, "next": {page.Hidden("next")}, "login": {login}, "password": {providertest.AlicePassword},
	})
	if redirect.Location().Query().Get("code") == "" {
		redirect = s.Get(ctx, browser, redirect.Header.Get("Location"))
	}
	reply := s.Redeem(ctx, clientID, redirect, verifier)
	var tokens providertest.Tokens
	if err := json.Unmarshal([]byte(reply.Body), &tokens); err != nil || tokens.AccessToken == "" {
		tb.Fatalf("sign-in of %s at %s: %d %s", login, clientID, reply.Status, reply.Body)
	}
	return tokens
}

// post sends a JSON body with the phone's token.
func (p *phone) post(ctx context.Context, path string, body any) *providertest.Reply {
	p.t.Helper()
	encoded, err := json.Marshal(body)
	if err != nil {
		p.t.Error(err)
	}
	return p.postRaw(ctx, path, "application/json", encoded)
}

func (p *phone) postRaw(ctx context.Context, path, contentType string, body []byte) *providertest.Reply {
	p.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.s.URL(path), bytes.NewReader(body))
	if err != nil {
		p.t.Error(err)
		return &providertest.Reply{Header: http.Header{}}
	}
	req.Header.Set("Content-Type", contentType)
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	maps.Copy(req.Header, p.header)
	return p.s.Do(p.s.Client(), req)
}

// scan sends a scanned text; entry is scanner, link or typed.
func (p *phone) scan(payload, entry string) *providertest.Reply {
	p.t.Helper()
	return p.post(context.WithoutCancel(p.t.Context()), "/qr/scan", map[string]string{"payload": payload, "entry": entry})
}

// scanCode sends a user code that the person typed.
func (p *phone) scanCode(userCode string) *providertest.Reply {
	p.t.Helper()
	return p.post(context.WithoutCancel(p.t.Context()), "/qr/scan", map[string]string{"user_code": userCode, "entry": "typed"})
}

// decide answers what the scan showed: approve, deny or report. An empty check code is left out.
func (p *phone) decide(scan *providertest.Reply, verdict, checkCode string) *providertest.Reply {
	p.t.Helper()
	return p.post(context.WithoutCancel(p.t.Context()), "/qr/decision", decision(scan, verdict, checkCode))
}

// decision is the body of /qr/decision for what a scan showed.
func decision(scan *providertest.Reply, verdict, checkCode string) map[string]string {
	body := map[string]string{
		"confirm_handle": scan.Text("confirm_handle"), "context_digest": scan.Text("context_digest"), "decision": verdict,
	}
	if checkCode != "" {
		body["check_code"] = checkCode
	}
	return body
}

// wrongCode is a check code that the right one is not.
func wrongCode(right string) string {
	if right == "10" {
		return "99"
	}
	return "10"
}

// claim scans the session by its frame, or by its user code when it shows none, and returns
// the phone's answer with the check code that the consumption device now shows.
func (c *consumption) claim(p *phone) (scan *providertest.Reply, checkCode string) {
	c.t.Helper()
	if frame := payload(c.opened); frame != "" {
		scan = p.scan(frame, "scanner")
	} else {
		scan = p.scanCode(c.userCode())
	}
	if scan.Status != http.StatusOK {
		c.t.Fatalf("scan: %d %s", scan.Status, scan.Body)
	}
	return scan, c.poll(context.WithoutCancel(c.t.Context())).Text("check_code")
}

// approve claims and approves the session. It polls once in between.
func (c *consumption) approve(p *phone) (scan, decided *providertest.Reply) {
	c.t.Helper()
	scan, code := c.claim(p)
	body := decision(scan, "approve", code)
	if scan.JSON()["user_code_required"] == true {
		body["user_code"] = c.userCode()
	}
	if decided = p.post(context.WithoutCancel(c.t.Context()), "/qr/decision", body); decided.Status != http.StatusOK {
		c.t.Fatalf("approval: %d %s", decided.Status, decided.Body)
	}
	return scan, decided
}

// signIn runs a whole login of Alice and returns the session and its tokens.
func signIn(tb testing.TB, s *providertest.Server, clientID string, extra url.Values) (*consumption, providertest.Tokens) {
	tb.Helper()
	c := openQR(tb, s, clientID, extra)
	c.approve(newPhone(tb, s))
	reply := c.poll(tb.Context())
	var tokens providertest.Tokens
	if err := json.Unmarshal([]byte(reply.Body), &tokens); err != nil || reply.Status != http.StatusOK {
		tb.Fatalf("redemption: %d %s", reply.Status, reply.Body)
	}
	return c, tokens
}
