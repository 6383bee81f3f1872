package provider_test

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// send sends a request with headers that a client library would not.
func send(t *testing.T, s *providertest.Server, method, path, body string, header http.Header) *providertest.Reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL(path), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Host = header.Get("Host")
	return s.Do(s.Client(), req)
}

// TestForgedHostNamesNothing: the issuer is configured, and no header of a request is it.
func TestForgedHostNamesNothing(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	_, challenge := providertest.Verifier()
	forged := http.Header{
		"Host": {"evil.example"}, "X-Forwarded-Host": {"evil.example"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Prefix": {"/evil.example"},
		"Forwarded": {"host=evil.example;proto=http"}, "X-Original-Url": {"/evil.example"}, "X-Rewrite-Url": {"/evil.example"}, "X-Http-Method-Override": {"DELETE"},
		"X-Host": {"evil.example"}, "X-Real-Ip": {"203.0.113.1"},
	}
	opening := url.Values{"client_id": {"cli"}, "scope": {"openid"}, "qr_image": {"svg"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"}}.Encode()
	query := providertest.AuthorizeQuery("web", "openid", challenge).Encode()
	for _, call := range []struct{ method, path, body string }{
		{"GET", "/.well-known/openid-configuration", ""},
		{"GET", "/.well-known/oauth-authorization-server", ""},
		{"GET", "/.well-known/qr-configuration", ""},
		{"POST", "/device_authorization", opening},
		{"POST", "/device_authorization", "client_id=tv&scope=openid"},
		{"GET", "/authorize?" + query, ""},
		{"POST", "/authorize", query},
		{"GET", "/authorize?" + query + "&prompt=none", ""},
		{"GET", "/device", ""},
		{"GET", "/device?user_code=BCDF-GHJK", ""},
		{"GET", "/Q", ""},
		{"GET", "/nowhere", ""},
		{"GET", "/jwks", ""},
		{"POST", "/login", ""},
	} {
		reply := send(t, s, call.method, call.path, call.body, forged)
		if reply.Status >= http.StatusInternalServerError {
			t.Errorf("%s %s: %d", call.method, call.path, reply.Status)
		}
		if text := reply.Body + headerText(reply); strings.Contains(text, "evil.example") || strings.Contains(strings.ToLower(text), "domain=") {
			t.Errorf("%s %s repeats a forged host: %s", call.method, call.path, text)
		}
		if strings.HasPrefix(call.path, "/.well-known/o") && reply.Text("issuer") != s.Issuer {
			t.Errorf("%s: issuer %q", call.path, reply.Text("issuer"))
		}
	}
}

// TestForwardedAddressesOfStrangersCountForNothing: a limit per network cannot be walked around
// by a header, and behind a trusted proxy only the hop that it saw counts.
func TestForwardedAddressesOfStrangersCountForNothing(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		trusted  []netip.Prefix
		via      string
		distinct bool
	}{
		"nobody is trusted":             {via: "203.0.%d.1"},
		"the proxy is, its hop counts":  {trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, via: "203.0.%d.1", distinct: true},
		"the sender wrote more hops":    {trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, via: "203.0.%d.1, 198.51.100.1"},
		"hops that claim to be trusted": {trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, via: "127.0.%d.1, 198.51.100.1"},
		"no address":                    {trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, via: "unknown-%d"},
		"other spellings of one":        {trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, via: "::ffff:198.51.100.%d"},
		"one customer's IPv6 network":   {trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, via: "2001:db8:0:1%d::1"},
		"zones":                         {trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, via: "fe80::1%%%d"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{HTTP: true, Change: func(c *provider.Config) {
				c.TrustedProxies, c.QRLimits.OpensPerMinute = row.trusted, 3
			}})
			var last *providertest.Reply
			for i := range 4 {
				via := strings.NewReplacer("%%", "%", "%d", string(rune('1'+i))).Replace(row.via)
				last = send(t, s, "POST", "/device_authorization", "client_id=tv&scope=openid", http.Header{"X-Forwarded-For": {via}, "X-Real-Ip": {via}, "Cf-Connecting-Ip": {via}})
			}
			if row.distinct {
				if last.Status != http.StatusOK {
					t.Errorf("four networks share a limit: %d %s", last.Status, last.Body)
				}
				return
			}
			wantError(t, last, http.StatusTooManyRequests, "temporarily_unavailable")
			if last.Header.Get("Retry-After") == "" {
				t.Error("429 without Retry-After")
			}
		})
	}
}

// TestAnswersAreNeitherCachedNorSharedNorSniffed asks every endpoint that holds something, with
// and without success.
func TestAnswersAreNeitherCachedNorSharedNorSniffed(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	c, tokens := signIn(t, s, "cli", nil)
	open := openQR(t, s, "cli", nil)
	p := newPhone(t, s)
	origin := http.Header{"Origin": {"https://evil.example"}}
	p.header = origin
	scan := p.scan(payload(open.opened), "scanner")
	replies := map[string]*providertest.Reply{
		"opening": open.opened, "scan": scan, "used scan": p.scan(payload(c.opened), "scanner"),
		"decision": p.decide(scan, "deny", ""), "malformed decision": p.decide(scan, "maybe", ""),
		"poll": c.post(t.Context(), "/token", c.tokenForm(), origin), "pending": openQR(t, s, "tv", nil).poll(t.Context()),
		"cancel": c.post(t.Context(), "/qr/cancel", url.Values{"device_code": {c.deviceCode()}}, origin),
		"tokens": refreshed(t, s, "cli", "unknown"), "userinfo": s.Bearer(t.Context(), "/userinfo", tokens.AccessToken), "no userinfo": s.Bearer(t.Context(), "/userinfo", "x"),
		"introspection": s.PostAs(t.Context(), "web", "/introspect", url.Values{"token": {tokens.AccessToken}}),
		"revocation":    s.PostAs(t.Context(), "web", "/revoke", url.Values{"token": {"x"}}),
		"sign-in page":  ask(t, s, s.Browser(), "web"), "device page": s.Get(t.Context(), s.Client(), "/device"), "Q": s.Get(t.Context(), s.Client(), "/Q"),
		"error page": s.Get(t.Context(), s.Client(), "/authorize?client_id=nobody"), "nowhere": s.Get(t.Context(), s.Client(), "/nowhere"),
		"refused form": send(t, s, "POST", "/login", "", origin), "wrong method": send(t, s, "GET", "/token", "", origin),
		"preflight": send(t, s, "OPTIONS", "/token", "", http.Header{"Origin": origin["Origin"], "Access-Control-Request-Method": {"POST"}}),
	}
	for what, reply := range replies {
		if got := reply.Header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("%s: Cache-Control %q (%d)", what, got, reply.Status)
		}
		if got := reply.Header.Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("%s: X-Content-Type-Options %q", what, got)
		}
		if got := reply.Header.Get("Access-Control-Allow-Origin"); got != "" {
			t.Errorf("%s: Access-Control-Allow-Origin %q", what, got)
		}
		if !strings.HasPrefix(reply.Header.Get("Content-Type"), "text/html") {
			continue
		}
		policy := reply.Header.Get("Content-Security-Policy")
		for _, directive := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(policy, directive) {
				t.Errorf("%s: Content-Security-Policy %q lacks %s", what, policy, directive)
			}
		}
		if reply.Header.Get("X-Frame-Options") != "DENY" || reply.Header.Get("Referrer-Policy") != "same-origin" || !strings.Contains(reply.Header.Get("Permissions-Policy"), "camera=()") {
			t.Errorf("%s: %s", what, headerText(reply))
		}
	}
}

// TestLineBreaksDoNotBecomeHeaders: what a request says comes back escaped or not at all.
func TestLineBreaksDoNotBecomeHeaders(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	_, challenge := providertest.Verifier()
	const evil = "x\r\nSet-Cookie: evil=1\r\n\r\n<script>alert(1)</script>"
	for _, name := range []string{"state", "nonce", "scope", "login_hint", "prompt", "response_mode", "response_type", "client_id", "redirect_uri", "max_age", "user_code"} {
		query := providertest.AuthorizeQuery("web", "openid", challenge)
		query.Set(name, evil)
		for _, reply := range []*providertest.Reply{
			s.Get(t.Context(), s.Client(), "/authorize?"+query.Encode()), s.Post(t.Context(), s.Client(), "/authorize", query),
			s.Get(t.Context(), s.Client(), "/device?"+query.Encode()), s.Post(t.Context(), s.Client(), "/device_authorization", query),
		} {
			for _, cookie := range reply.Header.Values("Set-Cookie") {
				if strings.Contains(cookie, "evil") {
					t.Errorf("%s set %q", name, cookie)
				}
			}
			if strings.Contains(reply.Body, "<script") || strings.ContainsAny(reply.Header.Get("Location"), "\r\n<>") {
				t.Errorf("%s came back: %d %q %s", name, reply.Status, reply.Header.Get("Location"), reply.Body)
			}
		}
	}
	// The same text in what the person is shown, on the card of the page.
	c := openQR(t, s, "tv", url.Values{"device_name": {evil + "\u202egnp.exe"}, "binding_message": {"\u2066" + evil}, "scope": {"openid"}})
	browser := s.Browser()
	s.SignedIn(t.Context(), browser, "web", "openid")
	page := s.Get(t.Context(), browser, "/device")
	card := s.Post(t.Context(), browser, "/device", url.Values{"csrf": {page.Hidden("csrf")}, "step": {"claim"}, "user_code": {c.userCode()}})
	if card.Hidden("card") == "" || strings.Contains(card.Body, "<script") || strings.ContainsAny(card.Body, "\u202e\u2066") {
		t.Errorf("the card: %d %s", card.Status, card.Body)
	}
}

// TestDeviceFormsAreNotInterchangeable: each token is for one form of one browser, and the card
// is the one that was shown.
func TestDeviceFormsAreNotInterchangeable(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	mine, yours := s.Browser(), s.Browser()
	s.SignedIn(t.Context(), mine, "web", "openid")
	s.SignedIn(t.Context(), yours, "web", "openid")
	c, other := openQR(t, s, "tv", nil), openQR(t, s, "tv", nil)
	claim := func(browser *http.Client, c *consumption) (page, card *providertest.Reply) {
		page = s.Get(t.Context(), browser, "/device")
		return page, s.Post(t.Context(), browser, "/device", url.Values{"csrf": {page.Hidden("csrf")}, "step": {"claim"}, "user_code": {c.userCode()}})
	}
	page, card := claim(mine, c)
	_, otherCard := claim(mine, other)
	_, foreign := claim(yours, openQR(t, s, "tv", nil))
	was := c.record()
	signIn := s.Get(t.Context(), s.Browser(), "/device")
	for what, form := range map[string]url.Values{
		"the claim's token":                {"csrf": {page.Hidden("csrf")}, "card": {card.Hidden("card")}},
		"another card's token":             {"csrf": {otherCard.Hidden("csrf")}, "card": {card.Hidden("card")}},
		"another browser's card and token": {"csrf": {foreign.Hidden("csrf")}, "card": {foreign.Hidden("card")}},
		"the sign-in form's token":         {"csrf": {signIn.Hidden("csrf")}, "card": {card.Hidden("card")}},
		"a changed card":                   {"csrf": {card.Hidden("csrf")}, "card": {card.Hidden("card")[:20] + "A" + card.Hidden("card")[21:]}},
		"an empty card":                    {"csrf": {card.Hidden("csrf")}},
		"no token":                         {"card": {card.Hidden("card")}},
		"a later token":                    {"csrf": {"zzzzzz." + strings.SplitN(card.Hidden("csrf"), ".", 2)[1]}, "card": {card.Hidden("card")}},
	} {
		form.Set("step", "decide")
		form.Set("decision", "approve")
		if reply := s.Post(t.Context(), mine, "/device", form); reply.Status != http.StatusForbidden {
			t.Errorf("%s: %d %s", what, reply.Status, reply.Body)
		}
	}
	if reply := s.Post(t.Context(), mine, "/logout", url.Values{"csrf": {page.Hidden("csrf")}}); reply.Status != http.StatusForbidden {
		t.Errorf("the claim's token signs out: %d", reply.Status)
	}
	for _, header := range []http.Header{{"Origin": {"https://evil.example"}}, {"Sec-Fetch-Site": {"cross-site"}}, {"Sec-Fetch-Site": {"same-site"}}, {"Origin": {"null"}}} {
		form := url.Values{"csrf": {card.Hidden("csrf")}, "card": {card.Hidden("card")}, "step": {"decide"}, "decision": {"approve"}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL("/device"), strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if reply := s.Do(mine, req); reply.Status != http.StatusForbidden {
			t.Errorf("from another site %v: %d", header, reply.Status)
		}
	}
	wantUnmoved(t, c, was)
	form := url.Values{"csrf": {card.Hidden("csrf")}, "card": {card.Hidden("card")}, "step": {"decide"}, "decision": {"approve"}}
	if reply := s.Post(t.Context(), mine, "/device", form); reply.Status != http.StatusOK || c.record().State != storage.QRApproved {
		t.Errorf("the form as it was shown: %d %s", reply.Status, reply.Body)
	}
}

// TestPhoneBodiesAreReadOneWay: two parsers must not read two decisions from one body.
func TestPhoneBodiesAreReadOneWay(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	p := newPhone(t, s)
	c := openQR(t, s, "cli", nil)
	scan, code := c.claim(p)
	was := c.record()
	handle, digest := scan.Text("confirm_handle"), scan.Text("context_digest")
	body := func(rest string) string {
		return `{"confirm_handle":"` + handle + `","context_digest":"` + digest + `","check_code":"` + code + `"` + rest + `}`
	}
	for name, text := range map[string]string{
		"two decisions":              body(`,"decision":"deny","decision":"approve"`),
		"two spelt differently":      body(`,"decision":"approve","\u0064ecision":"approve"`),
		"a decision in another case": body(`,"Decision":"approve"`),
		"a verdict in another case":  body(`,"decision":"Approve"`),
		"a verdict with a space":     body(`,"decision":"approve "`),
		"a list":                     body(`,"decision":["approve"]`),
		"a scope as a list":          body(`,"decision":"approve","scope":["openid"]`),
		"a number":                   strings.Replace(body(`,"decision":"approve"`), `"`+code+`"`, code, 1),
		"a code with a sign":         strings.Replace(body(`,"decision":"approve"`), `"`+code+`"`, `"+`+code+`"`, 1),
		"a code with a space":        strings.Replace(body(`,"decision":"approve"`), `"`+code+`"`, `" `+code+`"`, 1),
		"a code with a line":         strings.Replace(body(`,"decision":"approve"`), `"`+code+`"`, `"`+code+`\n"`, 1),
		"a code in other digits":     strings.Replace(body(`,"decision":"approve"`), `"`+code+`"`, `"`+fullWidthDigits(code)+`"`, 1),
		"three digits":               strings.Replace(body(`,"decision":"approve"`), `"`+code+`"`, `"`+code+`0"`, 1),
		"two bodies":                 body(`,"decision":"deny"`) + body(`,"decision":"approve"`),
		"a byte order mark":          "\ufeff" + body(`,"decision":"approve"`),
		"a comment":                  body(`,"decision":"approve"/**/`),
		"an array around it":         "[" + body(`,"decision":"approve"`) + "]",
		"deep":                       `{"x":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `,"decision":"approve"}`,
	} {
		reply := p.postRaw(t.Context(), "/qr/decision", "application/json", []byte(text))
		if reply.Status != http.StatusBadRequest || reply.Text("error") != "invalid_request" {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Body)
		}
	}
	for _, media := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/json-seq", "application/problem+json", "multipart/form-data; boundary=x", "application/json, text/plain"} {
		if reply := p.postRaw(t.Context(), "/qr/decision", media, []byte(body(`,"decision":"approve"`))); reply.Status != http.StatusUnsupportedMediaType {
			t.Errorf("%q: %d %s", media, reply.Status, reply.Body)
		}
	}
	wantUnmoved(t, c, was)
	// A member in another case beside the right one is an unknown member.
	if reply := p.postRaw(t.Context(), "/qr/decision", "application/json; charset=utf-8", []byte(body(`,"decision":"deny","DECISION":"approve"`))); reply.Text("state") != "denied" {
		t.Errorf("deny beside another case: %d %s", reply.Status, reply.Body)
	}
}

func fullWidthDigits(code string) string {
	return strings.Map(func(r rune) rune { return r - '0' + '\uff10' }, code)
}

// TestHandleOfAnExpiredSession: it says that it is over, and nothing more.
func TestHandleOfAnExpiredSession(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: lasting})
	p := newPhone(t, s)
	for _, sweep := range []bool{false, true} {
		c := openQR(t, s, "cli", nil)
		scan, code := c.claim(p)
		s.Clock.Advance(120 * time.Second)
		if sweep {
			if _, err := s.Provider.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for _, verdict := range []string{"approve", "deny", "report"} {
			wantError(t, p.decide(scan, verdict, code), http.StatusGone, "gone")
		}
		wantError(t, p.scan(payload(c.opened), "scanner"), http.StatusGone, "gone")
		wantError(t, c.poll(t.Context()), http.StatusBadRequest, "expired_token")
		if reply := c.cancel(t.Context()); reply.Status != http.StatusOK {
			t.Errorf("cancel: %d %s", reply.Status, reply.Body)
		}
		if state := c.record().State; state != storage.QRScanned {
			t.Errorf("the expired session moved to %s", state)
		}
	}
}

// TestAskingClientGoneMeanwhile: a client that is switched off ends what it started, without a
// failure of ours.
func TestAskingClientGoneMeanwhile(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*storage.Client){
		"disabled":               func(c *storage.Client) { c.Disabled = true },
		"no QR sign-in any more": func(c *storage.Client) { c.QR.Enabled = false },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{Change: roomy})
			p := newPhone(t, s)
			pending, claimed, approved := openQR(t, s, "cli", nil), openQR(t, s, "cli", nil), openQR(t, s, "cli", nil)
			scan, code := claimed.claim(p)
			approvedScan, _ := approved.approve(p)
			mustChange(t, s, "cli", change)

			wantError(t, p.scan(payload(pending.opened), "scanner"), http.StatusGone, "gone")
			wantError(t, p.scanCode(pending.userCode()), http.StatusNotFound, "unknown_code")
			if reply := p.decide(scan, "approve", code); reply.Status/100 != 4 || reply.Text("sid") != "" {
				t.Errorf("approval: %d %s", reply.Status, reply.Body)
			}
			for what, c := range map[string]*consumption{"claimed": claimed, "approved": approved} {
				if reply := c.poll(t.Context()); reply.Status/100 != 4 || reply.Text("access_token") != "" {
					t.Errorf("%s: %d %s", what, reply.Status, reply.Body)
				}
			}
			if approved.record().State == storage.QRRedeemed {
				t.Error("redeemed for a client that is gone")
			}
			// A no is always taken.
			if reply := p.decide(scan, "deny", ""); reply.Text("state") != "denied" {
				t.Errorf("deny: %d %s", reply.Status, reply.Body)
			}
			if reply := p.decide(approvedScan, "deny", ""); reply.Status/100 == 5 {
				t.Errorf("deny after the approval: %d %s", reply.Status, reply.Body)
			}
		})
	}
}

// TestProblemsAreFixedSentences: a refusal never repeats what was sent.
func TestProblemsAreFixedSentences(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Change: roomy})
	p := newPhone(t, s)
	const canary = "canary-4711"
	for _, body := range []map[string]string{
		{"payload": canary, "entry": "scanner"},
		{"payload": s.Issuer + "/Q#1" + canary, "entry": "link"},
		{"user_code": canary},
		{"payload": "x", "entry": canary},
		{"confirm_handle": canary, "decision": "deny"},
		{"confirm_handle": randomSecret(nil), "decision": canary},
		{"confirm_handle": randomSecret(nil), "decision": "approve", "scope": canary},
	} {
		for _, path := range []string{"/qr/scan", "/qr/decision"} {
			reply := p.post(t.Context(), path, body)
			var problem map[string]json.RawMessage
			if err := json.Unmarshal([]byte(reply.Body), &problem); err != nil || reply.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s %v: %d %s", path, body, reply.Status, reply.Body)
			}
			if strings.Contains(reply.Body+headerText(reply), canary) || reply.Status >= http.StatusInternalServerError {
				t.Errorf("%s %v: %d %s", path, body, reply.Status, reply.Body)
			}
		}
	}
	for _, name := range []string{"client_id", "scope", "grant_type", "device_code", "code_verifier", "code_challenge_method", "resource", "qr_image", "max_age", "token", canary} {
		form := url.Values{"client_id": {"cli"}, "grant_type": {qr.GrantType}}
		form.Set(name, canary)
		for _, path := range []string{"/token", "/device_authorization", "/qr/cancel", "/revoke", "/introspect"} {
			reply := s.Post(t.Context(), s.Client(), path, form)
			if strings.Contains(reply.Body+headerText(reply), canary) || reply.Status >= http.StatusInternalServerError {
				t.Errorf("%s %s: %d %s", path, name, reply.Status, reply.Body)
			}
		}
	}
}
