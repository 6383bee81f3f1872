package provider_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

func TestOPBasicServer(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		answer := o.code("state", longState)
		if answer.Get("state") != longState {
			t.Errorf("state %q", answer.Get("state"))
		}
		if code := strings.TrimPrefix(answer.Get("code"), "qrg_ac_"); len(code) < 43 {
			t.Errorf("the code %q is short", code)
		}
		tokens, _ := o.checked("rp", "a-nonce", o.redeem("rp", answer))
		o.userinfo(tokens.AccessToken)
	})
}

func TestOPBasicResponseTypeMissing(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		if got := o.refusal("response_type", ""); got != "unsupported_response_type" && got != "invalid_request" {
			t.Errorf("error %q", got)
		}
	})
}

func TestOPBasicIDTokenSignature(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		tokens, _ := o.tokens() // checks signature, kid and key set
		var header struct{ Alg string }
		decodeSegment(t, tokens.IDToken, 0, &header)
		if header.Alg != "RS256" {
			t.Errorf("alg %q", header.Alg)
		}
	})
}

// The module is skipped because discovery does not offer the algorithm none.
func TestOPBasicIDTokenUnsigned(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		algs, _ := o.Get(t.Context(), o.Client(), "/.well-known/openid-configuration").JSON()["id_token_signing_alg_values_supported"].([]any)
		if slices.Contains(algs, any("none")) || !slices.Contains(algs, any("RS256")) {
			t.Errorf("algorithms %v", algs)
		}
	})
}

func TestOPBasicUserinfoGet(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		tokens, members := o.tokens("scope", "openid profile")
		if info := o.userinfo(tokens.AccessToken); info["sub"] != members["sub"] {
			t.Errorf("sub %v", info["sub"])
		}
	})
}

func TestOPBasicUserinfoPostHeader(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		tokens, _ := o.tokens()
		reply := send(t, o.Server, http.MethodPost, "/userinfo", "", http.Header{"Authorization": {"Bearer " + tokens.AccessToken}})
		if reply.Status != http.StatusOK || reply.Text("sub") != providertest.AliceSubject {
			t.Errorf("%d %s", reply.Status, reply.Body)
		}
	})
}

func TestOPBasicUserinfoPostBody(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		tokens, _ := o.tokens()
		reply := o.Post(t.Context(), o.Client(), "/userinfo", url.Values{"access_token": {tokens.AccessToken}})
		if reply.Status != http.StatusOK || reply.Text("sub") != providertest.AliceSubject {
			t.Errorf("%d %s", reply.Status, reply.Body)
		}
	})
}

func TestOPBasicEnsureRequestWithoutNonceSucceedsForCodeFlow(t *testing.T) {
	inBothModes(t, func(o *op) { o.tokens("nonce", "") })
}

// wantClaims checks that userinfo has these claims, of the right types and no others, and that
// the ID token has none of them.
func wantClaims(t *testing.T, o *op, scope string, names ...string) {
	t.Helper()
	tokens, members := o.tokens("scope", scope)
	info := o.userinfo(tokens.AccessToken)
	var got []string
	for name, value := range info {
		if name == "sub" {
			continue
		}
		got = append(got, name)
		switch want := providertest.Alice().Claims[name].(type) {
		case string, bool:
			if value != want {
				t.Errorf("%s is %v, want %v", name, value, want)
			}
		case map[string]any:
			if diff := cmp.Diff(any(want), value); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		case int:
			if value != float64(want) {
				t.Errorf("%s is %v, want %v", name, value, want)
			}
		default:
			t.Errorf("%s is %v, which Alice has not", name, value)
		}
		if _, unasked := members[name]; unasked {
			t.Errorf("%s stands in the ID token", name)
		}
	}
	slices.Sort(got)
	slices.Sort(names)
	if diff := cmp.Diff(names, got); diff != "" {
		t.Error(diff)
	}
}

func profileClaims() []string {
	return []string{
		"name", "family_name", "given_name", "middle_name", "nickname", "preferred_username", "profile", "picture", "website",
		"gender", "birthdate", "zoneinfo", "locale", "updated_at",
	}
}

func TestOPBasicScopeProfile(t *testing.T) {
	inBothModes(t, func(o *op) { wantClaims(o.t, o, "openid profile", profileClaims()...) })
}

func TestOPBasicScopeEmail(t *testing.T) {
	inBothModes(t, func(o *op) { wantClaims(o.t, o, "openid email", "email", "email_verified") })
}

func TestOPBasicScopePhone(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		wantClaims(t, o, "openid phone", "phone_number", "phone_number_verified")
	})
}

func TestOPBasicScopeAddress(t *testing.T) {
	inBothModes(t, func(o *op) { wantClaims(o.t, o, "openid address", "address") })
}

func TestOPBasicScopeAll(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		wantClaims(t, o, "openid profile email address phone",
			append(profileClaims(), "email", "email_verified", "address", "phone_number", "phone_number_verified")...)
	})
}

func TestOPBasicAlternateHappyFlow(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		q := o.request("scope", "email openid")
		var parts []string
		for name := range q {
			parts = append(parts, name+"="+url.QueryEscape(q.Get(name)))
		}
		slices.Sort(parts)
		slices.Reverse(parts)
		page := o.Get(t.Context(), o.browser, "/authorize?"+strings.Join(parts, "&"))
		reply := o.SignIn(t.Context(), o.browser, page)
		reply = o.Post(t.Context(), o.browser, "/consent", url.Values{"csrf": {reply.Hidden("csrf")}, "request": {reply.Hidden("request")}, "decision": {"allow"}})
		o.checked("rp", "a-nonce", o.redeem("rp", o.answerOf(reply)))
	})
}

func TestOPBasicDisplayPage(t *testing.T) {
	inBothModes(t, func(o *op) { o.tokens("display", "page") })
}

func TestOPBasicDisplayPopup(t *testing.T) {
	inBothModes(t, func(o *op) {
		// A client that opened the window watches it (window.closed): no page of the way through may
		// cut itself off, and none may be framed instead.
		watched := func(name string, page *providertest.Reply) {
			if page.Status == http.StatusOK && page.Body == "" || page.Header.Get("Cross-Origin-Opener-Policy") != "" {
				t.Errorf("%s: %d, opener policy %q", name, page.Status, page.Header.Get("Cross-Origin-Opener-Policy"))
			}
			if page.Status != http.StatusSeeOther && !strings.Contains(page.Header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
				t.Errorf("%s may be framed", name)
			}
		}
		signIn := o.ask("display", "popup", "prompt", "consent")
		watched("sign-in", signIn)
		consent := o.SignIn(o.t.Context(), o.browser, signIn)
		if consent.Hidden("request") == "" {
			t.Fatalf("no consent page: %d", consent.Status)
		}
		watched("consent", consent)
		watched("answer", o.Post(o.t.Context(), o.browser, "/consent", url.Values{"csrf": {consent.Hidden("csrf")}, "request": {consent.Hidden("request")}, "decision": {"allow"}}))
		failure := o.ask("client_id", "nobody")
		o.wantErrorPage(failure)
		watched("error", failure)
		o.tokens("display", "popup")
		for _, path := range []string{"/device", "/logout", "/Q"} {
			if got := o.Get(o.t.Context(), o.browser, path).Header.Get("Cross-Origin-Opener-Policy"); got != "same-origin" {
				t.Errorf("%s: opener policy %q", path, got)
			}
		}
	})
}

func TestOPBasicPromptLogin(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		_, first := o.tokens()
		o.Clock.Advance(2 * time.Second)
		if page := o.ask("prompt", "login"); !isSignIn(page) {
			t.Fatalf("no sign-in page: %d %s", page.Status, page.Body)
		}
		_, second := o.tokens("prompt", "login")
		if first["sub"] != second["sub"] || second["auth_time"].(float64) <= first["auth_time"].(float64) {
			t.Errorf("auth_time %v, then %v", first["auth_time"], second["auth_time"])
		}
	})
}

func TestOPBasicPromptNoneNotLoggedIn(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		reply := o.ask("prompt", "none", "state", longState)
		if answer := o.answerOf(reply); answer.Get("error") != "login_required" || answer.Get("state") != longState || answer.Get("code") != "" {
			t.Errorf("answer %v", answer)
		}
	})
}

func TestOPBasicPromptNoneLoggedIn(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		_, first := o.tokens()
		o.Clock.Advance(2 * time.Second)
		_, second := o.checked("rp", "a-nonce", o.redeem("rp", o.silent("prompt", "none")))
		if first["sub"] != second["sub"] || first["auth_time"] != second["auth_time"] || first["sid"] != second["sid"] {
			t.Errorf("%v, then %v", first, second)
		}
	})
}

func TestOPBasicMaxAge1(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		_, first := o.tokens()
		o.Clock.Advance(2 * time.Second)
		if page := o.ask("max_age", "1"); !isSignIn(page) {
			t.Fatalf("no sign-in page: %d %s", page.Status, page.Body)
		}
		_, second := o.tokens("max_age", "1")
		if second["auth_time"].(float64) <= first["auth_time"].(float64) || second["auth_time"] != float64(o.Clock.Now().Unix()) {
			t.Errorf("auth_time %v, then %v", first["auth_time"], second["auth_time"])
		}
	})
}

func TestOPBasicMaxAge10000(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		_, first := o.tokens("max_age", "15000")
		o.Clock.Advance(2 * time.Second)
		_, second := o.checked("rp", "a-nonce", o.redeem("rp", o.silent("max_age", "10000")))
		if first["auth_time"] != second["auth_time"] {
			t.Errorf("auth_time %v, then %v", first["auth_time"], second["auth_time"])
		}
	})
}

func TestOPBasicEnsureRequestWithUnknownParameterSucceeds(t *testing.T) {
	inBothModes(t, func(o *op) { o.tokens("extra", "foobar") })
}

func TestOPBasicIDTokenHint(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		tokens, first := o.tokens()
		// Long after the hint itself has expired.
		o.Clock.Advance(time.Hour)
		_, second := o.checked("rp", "a-nonce", o.redeem("rp", o.silent("prompt", "none", "id_token_hint", tokens.IDToken)))
		if first["sub"] != second["sub"] || first["auth_time"] != second["auth_time"] {
			t.Errorf("%v, then %v", first, second)
		}
	})
}

func TestOPBasicLoginHint(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		if page := o.ask("login_hint", providertest.AliceLogin); !strings.Contains(page.Body, `value="`+providertest.AliceLogin+`"`) {
			t.Errorf("the user name is not filled in: %s", page.Body)
		}
		o.tokens("login_hint", providertest.AliceLogin)
	})
}

func TestOPBasicUILocales(t *testing.T) {
	inBothModes(t, func(o *op) { o.tokens("ui_locales", "se") })
}

func TestOPBasicClaimsLocales(t *testing.T) {
	inBothModes(t, func(o *op) { o.tokens("claims_locales", "se") })
}

func TestOPBasicEnsureRequestWithACRValuesSucceeds(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		offered, _ := o.Get(t.Context(), o.Client(), "/.well-known/openid-configuration").JSON()["acr_values_supported"].([]any)
		if _, members := o.tokens("acr_values", "1 2"); !slices.Contains(offered, members["acr"]) {
			t.Errorf("acr %v, offered %v", members["acr"], offered)
		}
	})
}

func TestOPBasicCodeReuse(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		answer := o.code()
		o.checked("rp", "a-nonce", o.redeem("rp", answer))
		wantError(t, o.redeem("rp", answer), http.StatusBadRequest, "invalid_grant")
	})
}

func TestOPBasicCodeReuse30Seconds(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		answer := o.code("scope", "openid offline_access")
		tokens, _ := o.checked("rp", "a-nonce", o.redeem("rp", answer))
		o.userinfo(tokens.AccessToken)
		o.Clock.Advance(30 * time.Second)
		wantError(t, o.redeem("rp", answer), http.StatusBadRequest, "invalid_grant")
		wantError(t, o.Bearer(t.Context(), "/userinfo", tokens.AccessToken), http.StatusUnauthorized, "invalid_token")
		wantError(t, refresh(t, o.Server, "rp", tokens.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
	})
}

func TestOPBasicEnsureRegisteredRedirectURI(t *testing.T) {
	inBothModes(t, func(o *op) {
		for _, uri := range []string{"https://web.example/callback/", "https://web.example/callback?x=1", "https://WEB.example/callback", "https://evil.example/callback"} {
			o.wantErrorPage(o.ask("redirect_uri", uri))
		}
	})
}

func TestOPBasicEnsurePostRequestSucceeds(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		back := o.Post(t.Context(), o.browser, "/authorize", o.request())
		page := o.Get(t.Context(), o.browser, o.HTTP.URL+back.Location().String())
		reply := o.SignIn(t.Context(), o.browser, page)
		reply = o.Post(t.Context(), o.browser, "/consent", url.Values{"csrf": {reply.Hidden("csrf")}, "request": {reply.Hidden("request")}, "decision": {"allow"}})
		o.checked("rp", "a-nonce", o.redeem("rp", o.answerOf(reply)))
	})
}

func TestOPBasicServerClientSecretPost(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		answer := o.code()
		form := url.Values{
			"grant_type": {"authorization_code"}, "code": {answer.Get("code")}, "redirect_uri": {providertest.RedirectURI},
			"client_id": {"rp"}, "client_secret": {providertest.ClientSecret},
		}
		o.checked("rp", "a-nonce", o.Post(t.Context(), o.Client(), "/token", form))
	})
}

func TestOPBasicRequestURIUnsignedSupportedCorrectlyOrRejectedAsUnsupported(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		if got := o.refusal("request_uri", "https://web.example/request.jwt"); got != "request_uri_not_supported" {
			t.Errorf("error %q", got)
		}
	})
}

// unsignedObject is a request object with alg none.
const unsignedObject = "eyJhbGciOiJub25lIn0.eyJyZWRpcmVjdF91cmkiOiJodHRwczovL2V2aWwuZXhhbXBsZS8ifQ."

func TestOPBasicUnsignedRequestObjectSupportedCorrectlyOrRejectedAsUnsupported(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		if got := o.refusal("request", unsignedObject); got != "request_not_supported" {
			t.Errorf("error %q", got)
		}
	})
}

func TestOPBasicClaimsEssential(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		tokens, members := o.tokens("claims", `{"userinfo":{"name":{"essential":true}}}`)
		want := map[string]any{"sub": providertest.AliceSubject, "name": "Alice Arden"}
		if diff := cmp.Diff(want, o.userinfo(tokens.AccessToken)); diff != "" {
			t.Error(diff)
		}
		if _, unasked := members["name"]; unasked {
			t.Error("the name stands in the ID token")
		}
	})
}

// The object names another address: it is refused as a whole, at the registered one or by page.
func TestOPBasicEnsureRequestObjectWithRedirectURI(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		if got := o.refusal("request", unsignedObject); got != "request_not_supported" {
			t.Errorf("error %q", got)
		}
		o.wantErrorPage(o.ask("request", unsignedObject, "redirect_uri", "https://evil.example/"))
	})
}

func TestOPBasicRefreshToken(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		tokens, first := o.tokens("scope", "openid offline_access", "prompt", "consent")
		if tokens.RefreshToken == "" {
			t.Fatal("no refresh token")
		}
		other, _ := o.tokens("client_id", "rp2", "scope", "openid offline_access", "prompt", "consent")
		o.Clock.Advance(2 * time.Second)
		_, second := o.checked("rp", "", refresh(t, o.Server, "rp", tokens.RefreshToken, nil))
		for _, name := range []string{"iss", "sub", "aud", "auth_time", "sid"} {
			if first[name] != second[name] {
				t.Errorf("%s %v, then %v", name, first[name], second[name])
			}
		}
		if second["iat"].(float64) <= first["iat"].(float64) {
			t.Errorf("iat %v, then %v", first["iat"], second["iat"])
		}
		wantError(t, refresh(t, o.Server, "rp", other.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
	})
}

func TestOPBasicEnsureRequestWithValidPKCESucceeds(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		verifier, challenge := providertest.Verifier()
		answer := o.code("code_challenge", challenge, "code_challenge_method", "S256")
		wantError(t, o.redeem("rp", answer, "code_verifier", challenge), http.StatusBadRequest, "invalid_grant")
		answer = o.code("code_challenge", challenge, "code_challenge_method", "S256")
		o.checked("rp", "a-nonce", o.redeem("rp", answer, "code_verifier", verifier))
	})
}

// What every module asks before its own point (op.md §1): nothing unasked in the ID token.
func TestOPIDTokenCarriesNothingUnasked(t *testing.T) {
	inBothModes(t, func(o *op) {
		t := o.t
		_, members := o.tokens("scope", "openid profile email address phone")
		var names []string
		for name := range members {
			names = append(names, name)
		}
		slices.Sort(names)
		want := []string{"acr", "amr", "at_hash", "aud", "auth_time", "exp", "iat", "iss", "jti", "nonce", "sid", "sub"}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOPKeySetIsPublicAndDistinct(t *testing.T) {
	t.Parallel()
	o := newOP(t, "query", opClients(), nil)
	o.tokens()
	var set struct{ Keys []map[string]any }
	reply := o.Get(t.Context(), o.Client(), "/jwks")
	if err := json.Unmarshal([]byte(reply.Body), &set); err != nil || len(set.Keys) < 2 {
		t.Fatalf("%v %s", err, reply.Body)
	}
	seen, algs := map[any]bool{}, map[any]bool{}
	for _, key := range set.Keys {
		for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "k"} {
			if _, leaked := key[private]; leaked {
				t.Errorf("the key set holds %q", private)
			}
		}
		if seen[key["kid"]] || key["kid"] == nil {
			t.Errorf("kid %v", key["kid"])
		}
		seen[key["kid"]], algs[key["alg"]] = true, true
	}
	if !algs["RS256"] || !algs["ES256"] {
		t.Errorf("algorithms %v", algs)
	}
}

func TestOPConfigDiscoveryEndpointVerification(t *testing.T) {
	t.Parallel()
	o := newOP(t, "query", opClients(), nil)
	reply := o.Get(t.Context(), o.Client(), "/.well-known/openid-configuration")
	if reply.Status != http.StatusOK || reply.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %s", reply.Status, reply.Header.Get("Content-Type"))
	}
	document := reply.JSON()
	if document["issuer"] != o.Issuer || !strings.HasPrefix(o.Issuer, "https://") {
		t.Errorf("issuer %v", document["issuer"])
	}
	for name, value := range document {
		if address, _ := value.(string); strings.HasSuffix(name, "_endpoint") && !strings.HasPrefix(address, "https://") {
			t.Errorf("%s %v", name, value)
		}
	}
	for name, want := range map[string]any{
		"response_types_supported": []any{"code"}, "response_modes_supported": []any{"query", "form_post"}, "subject_types_supported": []any{"public"},
		"claims_parameter_supported": true, "request_parameter_supported": false, "request_uri_parameter_supported": false,
		"prompt_values_supported": []any{"none", "login", "consent", "select_account"}, "code_challenge_methods_supported": []any{"S256"},
		"end_session_endpoint": o.Issuer + "/logout", "backchannel_logout_supported": true, "backchannel_logout_session_supported": true,
		"authorization_response_iss_parameter_supported": true, "jwks_uri": o.Issuer + "/jwks",
	} {
		if diff := cmp.Diff(want, document[name]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for name, want := range map[string]string{
		"id_token_signing_alg_values_supported": "RS256", "scopes_supported": "openid", "grant_types_supported": "authorization_code",
		"claims_supported": "sub", "token_endpoint_auth_methods_supported": "client_secret_basic",
	} {
		if list, _ := document[name].([]any); !slices.Contains(list, any(want)) {
			t.Errorf("%s %v lacks %s", name, document[name], want)
		}
	}
}

// The page of the form-post row: a script of ours or a button sends the form to the redirect
// URI's origin and nowhere else, and nothing of the answer stands in an address.
func TestOPFormPostPage(t *testing.T) {
	t.Parallel()
	clients := append(opClients(), &storage.Client{
		ID: "native", RedirectURIs: []string{"com.example.app:/cb"}, Scopes: []string{"openid"}, FirstParty: true,
	})
	o := newOP(t, "form_post", clients, nil)
	for name, changes := range map[string][]string{
		"an answer": {"scope", "openid"}, "an error": {"scope", "openid unknown"}, "a state to escape": {"state", `"><script>alert(1)</script>`},
	} {
		reply := o.Code(t.Context(), o.browser, o.request(changes...))
		csp := reply.Header.Get("Content-Security-Policy")
		if reply.Status != http.StatusOK || reply.Header.Get("Location") != "" || reply.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v", name, reply.Status, reply.Header)
		}
		if !strings.HasSuffix(csp, "; form-action https://web.example") || !strings.Contains(csp, "script-src 'self'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: CSP %q", name, csp)
		}
		if !strings.Contains(reply.Body, `<script src="/static/submit.js"></script>`) || !strings.Contains(reply.Body, `<button id="continue" type="submit"`) ||
			strings.Count(reply.Body, "<script") != 1 || strings.Contains(reply.Body, "onload") {
			t.Errorf("%s: %s", name, reply.Body)
		}
		if answer := o.answerOf(reply); answer.Get("state") != o.request(changes...).Get("state") || answer.Get("iss") != o.Issuer {
			t.Errorf("%s: %v", name, answer)
		}
	}
	script := o.Get(t.Context(), o.Client(), "/static/submit.js")
	if script.Status != http.StatusOK || script.Header.Get("Content-Type") != "text/javascript; charset=utf-8" || !strings.Contains(script.Body, "submit()") {
		t.Errorf("%d %v", script.Status, script.Header)
	}
	_, challenge := providertest.Verifier()
	app := o.Code(t.Context(), o.browser, o.request("client_id", "native", "redirect_uri", "com.example.app:/cb", "code_challenge", challenge, "code_challenge_method", "S256"))
	if !strings.Contains(app.Body, `action="com.example.app:/cb"`) || !strings.HasSuffix(app.Header.Get("Content-Security-Policy"), "; form-action com.example.app:") {
		t.Errorf("an app's scheme: %v %s", app.Header, app.Body)
	}
}

// decodeSegment decodes one part of a compact JWS.
func decodeSegment(t *testing.T, token string, part int, into any) {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[part])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}
