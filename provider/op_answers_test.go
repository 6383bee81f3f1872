package provider_test

import (
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

// A thousand codes differ, and what is random in them measures at least 96 bits.
func TestOPBasicCodeHas96BitsOfEntropy(t *testing.T) {
	t.Parallel()
	o := newOP(t, "query", opClients(), nil)
	o.code()
	const codes = 1000
	seen := make(map[string]bool)
	var first string
	alphabet := make(map[rune]int)
	// What is the same in all codes, position by position, holds nothing.
	var fixed []bool
	for range codes {
		code := o.silent("prompt", "none").Get("code")
		if seen[code] {
			t.Fatal("a code came twice")
		}
		seen[code] = true
		if first == "" {
			first, fixed = code, slices.Repeat([]bool{true}, len(code))
		}
		if len(code) != len(first) {
			t.Fatalf("codes of %d and %d characters", len(first), len(code))
		}
		for i := range code {
			fixed[i] = fixed[i] && code[i] == first[i]
		}
		for _, r := range strings.TrimPrefix(code, "qrg_ac_") {
			alphabet[r]++
		}
	}
	for r := range alphabet {
		if !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~", r) {
			t.Errorf("%q has to be escaped in a URL", r)
		}
	}
	varying, total := 0, 0
	for _, same := range fixed {
		if !same {
			varying++
		}
	}
	for _, n := range alphabet {
		total += n
	}
	perCharacter := 0.0
	for _, n := range alphabet {
		share := float64(n) / float64(total)
		perCharacter -= share * math.Log2(share)
	}
	if bits := float64(varying) * perCharacter; bits < 96 || perCharacter < 3.9 {
		t.Errorf("%d varying characters of %.1f bits: %.0f bits", varying, perCharacter, bits)
	}
}

// opAnswer is a request whose answer goes to the client.
type opAnswer struct {
	name, wants string
	changes     []string
	decision    string
}

// opAnswers are all kinds of answers: codes and errors, before and after the person was asked.
func opAnswers() []opAnswer {
	return []opAnswer{
		{"a person who is not signed in", "login_required", []string{"prompt", "none"}, ""},
		{"a no", "access_denied", []string{"prompt", "consent"}, "deny"},
		{"a code after the pages", "", []string{"prompt", "consent"}, "allow"},
		{"a code without a page", "", []string{"prompt", "none"}, ""},
		{"a fresh sign-in without a page", "invalid_request", []string{"prompt", "none login"}, ""},
		{"consent without a page", "consent_required", []string{"prompt", "none", "scope", "openid email"}, ""},
		{"no response type", "unsupported_response_type", []string{"response_type", ""}, ""},
		{"an implicit response type", "unsupported_response_type", []string{"response_type", "token"}, ""},
		{"a scope that is not the client's", "invalid_scope", []string{"scope", "openid qr:approve"}, ""},
		{"a request object", "request_not_supported", []string{"request", unsignedObject}, ""},
		{"the address of a request object", "request_uri_not_supported", []string{"request_uri", "https://web.example/o"}, ""},
		{"a negative age", "invalid_request", []string{"max_age", "-1"}, ""},
		{"claims that are none", "invalid_request", []string{"claims", "{"}, ""},
		{"a hint that is none", "invalid_request", []string{"id_token_hint", "a.b.c"}, ""},
		{"a plain challenge", "invalid_request", []string{"code_challenge", strings.Repeat("a", 43), "code_challenge_method", "plain"}, ""},
	}
}

// answered makes the request of a row and returns what the client gets.
func (o *op) answered(row opAnswer, changes ...string) url.Values {
	o.t.Helper()
	reply := o.ask(slices.Concat(row.changes, changes)...)
	if row.decision != "" {
		if reply.Hidden("next") != "" {
			reply = o.SignIn(o.t.Context(), o.browser, reply)
		}
		reply = o.Post(o.t.Context(), o.browser, "/consent", url.Values{"csrf": {reply.Hidden("csrf")}, "request": {reply.Hidden("request")}, "decision": {row.decision}})
	}
	answer := o.answerOf(reply)
	if answer == nil || answer.Get("error") != row.wants || answer.Has("code") == (row.wants != "") {
		o.t.Errorf("%s: %d %v", row.name, reply.Status, answer)
	}
	return answer
}

// wantMembers checks that an answer has each member once and none but these.
func wantMembers(t *testing.T, name string, answer url.Values, members ...string) {
	t.Helper()
	slices.Sort(members)
	if diff := cmp.Diff(members, slices.Sorted(maps.Keys(answer))); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
	for member, values := range answer {
		if len(values) != 1 {
			t.Errorf("%s: %s stands there %d times", name, member, len(values))
		}
	}
}

// allowedInErrors reports whether text is of the characters that RFC 6749 §5.2 lets stand in error
// and error_description.
func allowedInErrors(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 || r > 0x7e || r == '"' || r == '\\' })
}

// Every answer, code or error, by redirect or by form, bears the issuer, the state as it was sent
// and nothing else that no specification knows.
func TestOPBasicEveryAnswerBearsStateAndIss(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		states := []string{longState, "", `a b+c%20&d=e"<f>'\;é`, strings.Repeat("~", 128)}
		if len(longState) != 128 {
			t.Fatalf("%d characters", len(longState))
		}
		for _, row := range opAnswers() {
			for _, state := range states {
				if row.name == "a person who is not signed in" && state != longState {
					// The next row signs in.
					continue
				}
				answer := o.answered(row, "state", state)
				if answer.Get("state") != state || answer.Get("iss") != o.Issuer {
					t.Errorf("%s: state %q, want %q; iss %q", row.name, answer.Get("state"), state, answer.Get("iss"))
				}
				want := []string{"iss"}
				if state != "" {
					want = append(want, "state")
				}
				if row.wants == "" {
					wantMembers(t, row.name, answer, append(want, "code")...)
					continue
				}
				wantMembers(t, row.name, answer, append(want, "error", "error_description")...)
				if !allowedInErrors(answer.Get("error")) || !allowedInErrors(answer.Get("error_description")) {
					t.Errorf("%s: %v", row.name, answer)
				}
			}
		}
	})
}

// wantTokenHeaders checks what RFC 6749 §5.1 asks of an answer of the token endpoint.
func wantTokenHeaders(t *testing.T, name string, reply *providertest.Reply, status int) {
	t.Helper()
	h := reply.Header
	if reply.Status != status || h.Get("Content-Type") != "application/json" || h.Get("Cache-Control") != "no-store" || h.Get("Pragma") != "no-cache" || reply.JSON() == nil {
		t.Errorf("%s: %d %v %s", name, reply.Status, h, reply.Body)
	}
}

// A token answer of every grant is JSON that nobody stores, with the members of RFC 6749 §5.1 and
// OpenID Connect Core §3.1.3.3 and no others.
func TestOPBasicTokenAnswer(t *testing.T) {
	t.Parallel()
	o := newOP(t, "query", opClients(), nil)
	answers := map[string]*providertest.Reply{
		"code":                    o.redeem("rp", o.code()),
		"code and offline access": o.redeem("rp", o.code("scope", "openid offline_access", "prompt", "consent")),
		"client credentials":      o.PostAs(t.Context(), "svc", "/token", url.Values{"grant_type": {"client_credentials"}, "scope": {"reports:read"}}),
	}
	answers["refresh token"] = refresh(t, o.Server, "rp", tokensOf(t, answers["code and offline access"]).RefreshToken, nil)
	for _, client := range []string{"cli", "tv"} {
		c := openQR(t, o.Server, client, nil)
		c.approve(newPhone(t, o.Server))
		answers[client] = c.poll(t.Context())
	}
	always := []string{"access_token", "expires_in", "scope", "token_type"}
	for name, more := range map[string][]string{
		"code": {"id_token"}, "code and offline access": {"id_token", "refresh_token"}, "refresh token": {"id_token", "refresh_token"},
		"client credentials": nil, "cli": {"id_token"}, "tv": {"id_token"},
	} {
		reply := answers[name]
		wantTokenHeaders(t, name, reply, http.StatusOK)
		want := slices.Sorted(slices.Values(append(more, always...)))
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(reply.JSON()))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if seconds, ok := reply.JSON()["expires_in"].(float64); !ok || seconds < 1 || seconds != math.Trunc(seconds) || reply.Text("token_type") != "Bearer" {
			t.Errorf("%s: %s", name, reply.Body)
		}
	}
}

// A token error has error and error_description, of allowed characters, and nothing else.
func TestOPBasicTokenErrors(t *testing.T) {
	t.Parallel()
	o := newOP(t, "query", opClients(), nil)
	used := o.code()
	o.redeem("rp", used)
	code := func(changes ...string) func() *providertest.Reply {
		return func() *providertest.Reply { return o.redeem("rp", o.code(), changes...) }
	}
	for _, row := range []struct {
		name   string
		reply  func() *providertest.Reply
		status int
		code   string
	}{
		{"no grant type", code("grant_type", ""), http.StatusBadRequest, "invalid_request"},
		{"an unknown grant type", code("grant_type", "\"\\\r\n\té"), http.StatusBadRequest, "unsupported_grant_type"},
		{"a grant type of others", code("grant_type", "client_credentials"), http.StatusBadRequest, "unauthorized_client"},
		{"no code", code("code", ""), http.StatusBadRequest, "invalid_request"},
		{"a code that is none", code("code", "\"\\\r\n\té"), http.StatusBadRequest, "invalid_grant"},
		{"a used code", func() *providertest.Reply { return o.redeem("rp", used) }, http.StatusBadRequest, "invalid_grant"},
		{"a code of another client", func() *providertest.Reply { return o.redeem("rp2", o.code()) }, http.StatusBadRequest, "invalid_grant"},
		{"another redirect URI", code("redirect_uri", "https://web.example/other"), http.StatusBadRequest, "invalid_grant"},
		{"a refresh token that is none", func() *providertest.Reply { return refresh(t, o.Server, "rp", "\"x\\", nil) }, http.StatusBadRequest, "invalid_grant"},
		{"a client that does not exist", func() *providertest.Reply {
			return o.PostAs(t.Context(), "nobody\"\\", "/token", url.Values{"grant_type": {"authorization_code"}, "code": {"x"}})
		}, http.StatusUnauthorized, "invalid_client"},
		{"a scope of others", func() *providertest.Reply {
			return o.PostAs(t.Context(), "svc", "/token", url.Values{"grant_type": {"client_credentials"}, "scope": {"\"openid\\"}})
		}, http.StatusBadRequest, "invalid_scope"},
		{"a device that waits", func() *providertest.Reply { return openQR(t, o.Server, "tv", nil).poll(t.Context()) }, http.StatusBadRequest, "authorization_pending"},
	} {
		reply := row.reply()
		wantTokenHeaders(t, row.name, reply, row.status)
		if reply.Text("error") != row.code || !allowedInErrors(reply.Text("error")) || !allowedInErrors(reply.Text("error_description")) {
			t.Errorf("%s: %s", row.name, reply.Body)
		}
		if diff := cmp.Diff([]string{"error", "error_description"}, slices.Sorted(maps.Keys(reply.JSON()))); diff != "" {
			t.Errorf("%s: %s", row.name, diff)
		}
	}
}

// Whatever brought the access token, userinfo takes it in all three ways and names the person of
// the ID token.
func TestOPBasicUserinfoInEveryFlow(t *testing.T) {
	t.Parallel()
	o := newOP(t, "query", opClients(), nil)
	offline := tokensOf(t, o.redeem("rp", o.code("scope", "openid offline_access", "prompt", "consent")))
	flows := map[string]providertest.Tokens{"refresh token": tokensOf(t, refresh(t, o.Server, "rp", offline.RefreshToken, nil))}
	flows["code"], _ = o.tokens()
	_, flows["QR grant"] = signIn(t, o.Server, "cli", nil)
	_, flows["device grant"] = signIn(t, o.Server, "tv", nil)
	for name, tokens := range flows {
		var want struct{ Sub string }
		decodeSegment(t, tokens.IDToken, 1, &want)
		for way, reply := range map[string]*providertest.Reply{
			"GET": o.Bearer(t.Context(), "/userinfo", tokens.AccessToken),
			"POST with a header": send(t, o.Server, http.MethodPost, "/userinfo", "", http.Header{
				"Authorization": {"Bearer " + tokens.AccessToken}, "Host": {strings.TrimPrefix(o.Issuer, "https://")},
			}),
			"POST with a body": o.Post(t.Context(), o.Client(), "/userinfo", url.Values{"access_token": {tokens.AccessToken}}),
		} {
			wantTokenHeaders(t, name+", "+way, reply, http.StatusOK)
			if want.Sub == "" || reply.Text("sub") != want.Sub {
				t.Errorf("%s, %s: sub %q, the ID token's %q", name, way, reply.Text("sub"), want.Sub)
			}
		}
	}
}
