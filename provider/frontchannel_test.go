package provider_test

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// frontClients are opClients with every response type and the grant of the implicit flow.
func frontClients(alg string) []*storage.Client {
	clients := opClients()
	for _, c := range clients {
		c.IDTokenAlg = alg
		c.GrantTypes = append(c.GrantTypes, "implicit")
		c.ResponseTypes = []string{"code", "id_token", "id_token token", "code id_token", "code token", "code id_token token"}
	}
	return clients
}

func frontSwitches(c *provider.Config) { c.Implicit, c.Hybrid = true, true }

// frontAnswer returns the members of an answer in the mode that was asked for; nil when it stays
// with the person.
func frontAnswer(t *testing.T, o *op, reply *providertest.Reply) url.Values {
	t.Helper()
	if o.mode == "form_post" {
		return o.answerOf(reply)
	}
	to := reply.Location()
	if to.RawQuery != "" {
		t.Errorf("something stands in the query: %s", to)
	}
	if reply.Status != http.StatusSeeOther || !strings.HasPrefix(to.String(), providertest.RedirectURI+"#") {
		return nil
	}
	// As it stands there: url.Parse has unescaped Fragment once.
	_, raw, _ := strings.Cut(reply.Header.Get("Location"), "#")
	values, err := url.ParseQuery(raw)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func front(t *testing.T, o *op, changes ...string) url.Values {
	t.Helper()
	reply := o.Code(t.Context(), o.browser, o.request(changes...))
	answer := frontAnswer(t, o, reply)
	if answer == nil || answer.Has("error") {
		t.Fatalf("%v: %d %s %s", changes, reply.Status, reply.Header.Get("Location"), reply.Body)
	}
	return answer
}

// leftHalf is at_hash and c_hash as the algorithm of the ID token has them.
func leftHalf(alg, value string) string {
	if alg == "EdDSA" {
		sum := sha512.Sum512([]byte(value))
		return base64.RawURLEncoding.EncodeToString(sum[:32])
	}
	sum := sha256.Sum256([]byte(value))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// Every response type in every mode: what is in the answer and nothing else, and an ID token that
// go-oidc verifies and that vouches for what came with it.
func TestFrontChannelAnswers(t *testing.T) {
	t.Parallel()
	for mode, alg := range map[string]string{"fragment": "ES256", "form_post": "EdDSA", "": "RS256"} {
		t.Run("mode "+mode, func(t *testing.T) {
			t.Parallel()
			o := newOP(t, mode, frontClients(alg), frontSwitches)
			if mode == "" {
				o.mode = "query" // request then sends no response_mode
			}
			verifier := oidcVerifier(t, o)
			for _, responseType := range []string{"id_token", "token id_token", "code id_token", "token code", "id_token code token"} {
				answer := front(t, o, "response_type", responseType, "scope", "openid email")
				checkFrontAnswer(t, o, verifier, alg, responseType, answer)
			}
		})
	}
}

func oidcVerifier(t *testing.T, o *op) *oidc.IDTokenVerifier {
	t.Helper()
	ctx := oidc.ClientContext(t.Context(), o.HTTP.Client())
	p, err := oidc.NewProvider(ctx, o.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	return p.VerifierContext(ctx, &oidc.Config{ClientID: "rp", Now: o.Clock.Now, SupportedSigningAlgs: []string{"ES256", "EdDSA", "RS256"}})
}

func checkFrontAnswer(t *testing.T, o *op, verifier *oidc.IDTokenVerifier, alg, responseType string, answer url.Values) {
	t.Helper()
	want := map[string]bool{"iss": true, "state": true}
	for word := range strings.SplitSeq(responseType, " ") {
		switch word {
		case "token":
			want["access_token"], want["token_type"], want["expires_in"] = true, true, true
		default:
			want[word] = true
		}
	}
	got := make(map[string]bool)
	for name := range answer {
		got[name] = true
	}
	if diff := cmp.Diff(want, got); diff != "" || answer.Get("iss") != o.Issuer || answer.Get("state") != "a-state" {
		t.Errorf("%s: %v %s", responseType, answer, diff)
	}
	if want["access_token"] {
		if answer.Get("token_type") != "Bearer" || answer.Get("expires_in") != "600" {
			t.Errorf("%s: %v", responseType, answer)
		}
		if info := o.userinfo(answer.Get("access_token")); info["email"] != "alice@example.org" {
			t.Errorf("%s: userinfo %v", responseType, info)
		}
	}
	if want["code"] {
		o.redeemed(responseType, o.redeem("rp", answer))
	}
	if !want["id_token"] {
		return
	}
	token, err := verifier.Verify(t.Context(), answer.Get("id_token"))
	if err != nil {
		t.Errorf("%s: %v", responseType, err)
		return
	}
	var members struct {
		CodeHash string `json:"c_hash"`
		Email    string `json:"email"`
	}
	if err := token.Claims(&members); err != nil {
		t.Fatal(err)
	}
	wantHash := map[bool]string{true: leftHalf(alg, answer.Get("access_token"))}[want["access_token"]]
	wantCode := map[bool]string{true: leftHalf(alg, answer.Get("code"))}[want["code"]]
	// Without any access token the scope's claims have no other way (Core §5.4).
	wantMail := map[bool]string{true: "alice@example.org"}[responseType == "id_token"]
	if diff := cmp.Diff([]string{"a-nonce", wantHash, wantCode, wantMail}, []string{token.Nonce, token.AccessTokenHash, members.CodeHash, members.Email}); diff != "" {
		t.Errorf("%s: %s", responseType, diff)
	}
}

// redeemed wants tokens for a code of the hybrid flow.
func (o *op) redeemed(responseType string, reply *providertest.Reply) {
	o.t.Helper()
	if reply.Status != http.StatusOK || reply.Text("access_token") == "" || claims(o.t, reply.Text("id_token"))["nonce"] != "a-nonce" {
		o.t.Errorf("%s: %d %s", responseType, reply.Status, reply.Body)
	}
}

// The error goes back in the mode of the answer, and never in a query where a token could stand.
func TestFrontChannelRefusals(t *testing.T) {
	t.Parallel()
	clients := frontClients("")
	clients = append(clients,
		&storage.Client{ID: "bound", RedirectURIs: []string{providertest.RedirectURI}, Scopes: []string{"openid"}, RequireDPoP: true, ResponseTypes: []string{"id_token token"}, GrantTypes: []string{"implicit"}},
		&storage.Client{ID: "codeonly", RedirectURIs: []string{providertest.RedirectURI}, Scopes: []string{"openid"}},
		&storage.Client{ID: "ungranted", RedirectURIs: []string{providertest.RedirectURI}, Scopes: []string{"openid"}, ResponseTypes: []string{"id_token", "code"}},
		&storage.Client{ID: "implicitonly", RedirectURIs: []string{providertest.RedirectURI}, Scopes: []string{"openid"}, ResponseTypes: []string{"id_token", "code id_token"}, GrantTypes: []string{"implicit"}},
		&storage.Client{ID: "app", RedirectURIs: []string{providertest.RedirectURI}, Scopes: []string{"openid", "qr:approve"}, Approver: true, ResponseTypes: []string{"id_token token"}, GrantTypes: []string{"implicit"}},
	)
	for _, mode := range []string{"fragment", "form_post"} {
		o := newOP(t, mode, clients, frontSwitches)
		for name, row := range map[string]struct {
			changes []string
			want    string
		}{
			"no nonce":                          {[]string{"response_type", "id_token", "nonce", ""}, "invalid_request"},
			"no nonce, hybrid":                  {[]string{"response_type", "code id_token", "nonce", ""}, "invalid_request"},
			"no openid":                         {[]string{"response_type", "id_token", "scope", "email"}, "invalid_request"},
			"a key for a bearer token":          {[]string{"response_type", "code token", "dpop_jkt", strings.Repeat("a", 43)}, "invalid_request"},
			"a client that binds its tokens":    {[]string{"client_id", "bound", "response_type", "id_token token"}, "invalid_request"},
			"not registered":                    {[]string{"client_id", "codeonly", "response_type", "code id_token"}, "unauthorized_client"},
			"not granted":                       {[]string{"client_id", "ungranted", "response_type", "id_token"}, "unauthorized_client"},
			"hybrid without the grant of codes": {[]string{"client_id", "implicitonly", "response_type", "code id_token"}, "unauthorized_client"},
			"what approves":                     {[]string{"client_id", "app", "response_type", "id_token token", "scope", "openid qr:approve"}, "invalid_scope"},
			"nobody is there":                   {[]string{"response_type", "id_token token", "prompt", "none"}, "login_required"},
		} {
			reply := o.ask(row.changes...)
			answer := frontAnswer(t, o, reply)
			if diff := cmp.Diff([]string{row.want, "a-state", o.Issuer}, []string{answer.Get("error"), answer.Get("state"), answer.Get("iss")}); diff != "" {
				t.Errorf("%s, %s: %d %s", mode, name, reply.Status, diff)
			}
		}
	}
	o := newOP(t, "fragment", clients, frontSwitches)
	if got := frontAnswer(t, o, o.ask("response_type", "id_token", "response_mode", "query")); got.Get("error") != "invalid_request" {
		t.Errorf("a query: %v", got)
	}
	o.mode = "query"
	for name, changes := range map[string][]string{
		"a token of nobody": {"response_type", "token"}, "a word twice": {"response_type", "code code"}, "an unknown word": {"response_type", "code none"},
		"two spaces": {"response_type", "code  id_token"},
	} {
		if got := o.refusal(changes...); got != "unsupported_response_type" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := o.refusal("response_mode", "fragment"); got != "invalid_request" {
		t.Errorf("a code in a fragment: %q", got)
	}
}

// Each switch is for its own flow, and both are off.
func TestFrontChannelIsOff(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change func(*provider.Config)
		types  []any
		modes  []any
		grants int
	}{
		"off":      {nil, []any{"code"}, []any{"query", "form_post"}, 5},
		"implicit": {func(c *provider.Config) { c.Implicit = true }, []any{"code", "id_token", "id_token token"}, []any{"query", "fragment", "form_post"}, 6},
		"hybrid":   {func(c *provider.Config) { c.Hybrid = true }, []any{"code", "code id_token", "code token", "code id_token token"}, []any{"query", "fragment", "form_post"}, 5},
	} {
		o := newOP(t, "query", frontClients(""), row.change)
		document := o.Get(t.Context(), o.Client(), "/.well-known/openid-configuration").JSON()
		if diff := cmp.Diff([]any{row.types, row.modes}, []any{document["response_types_supported"], document["response_modes_supported"]}); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if got, _ := document["grant_types_supported"].([]any); len(got) != row.grants {
			t.Errorf("%s: %v", name, got)
		}
		for _, responseType := range frontClients("")[0].ResponseTypes {
			reply := o.ask("response_type", responseType)
			refused := strings.Contains(reply.Header.Get("Location"), "error=unsupported_response_type")
			offered := false
			for _, t := range row.types {
				offered = offered || t == responseType
			}
			if refused == offered || !refused && !isSignIn(reply) {
				t.Errorf("%s: %s: %d %s", name, responseType, reply.Status, reply.Header.Get("Location"))
			}
		}
	}
}

// What comes of one request is one family, and part of the sign-in.
func TestFrontChannelTokenEnds(t *testing.T) {
	t.Parallel()
	o := newOP(t, "fragment", frontClients(""), frontSwitches)
	answer := front(t, o, "response_type", "code token", "scope", "openid offline_access", "prompt", "consent")
	if answer.Get("scope") != "openid" || answer.Has("refresh_token") {
		t.Errorf("%v", answer)
	}
	token := answer.Get("access_token")
	o.userinfo(token)
	if reply := o.redeem("rp", answer); reply.Status != http.StatusOK {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	o.userinfo(token)
	o.redeem("rp", answer) // a replay
	if reply := o.Bearer(t.Context(), "/userinfo", token); reply.Status != http.StatusUnauthorized {
		t.Errorf("after the replay of its code: %d", reply.Status)
	}
	// It lasts as long as it said.
	token = front(t, o, "response_type", "id_token token").Get("access_token")
	o.Clock.Advance(10*time.Minute - time.Second)
	o.userinfo(token)
	o.Clock.Advance(time.Second)
	if reply := o.Bearer(t.Context(), "/userinfo", token); reply.Status != http.StatusUnauthorized {
		t.Errorf("after its end: %d", reply.Status)
	}
	// The client took part in the sign-in (Back-Channel Logout).
	sid, _ := claims(t, front(t, o, "response_type", "id_token").Get("id_token"))["sid"].(string)
	if took, err := o.Store.SessionClients(t.Context(), sid); err != nil || len(took) != 1 || took[0] != "rp" {
		t.Errorf("%v %v", took, err)
	}
}

// A secret protects a code, not a token that stands in the redirect: where the redirect stays on
// the device, the person is asked each time.
func TestFrontChannelOnTheDeviceIsAskedFor(t *testing.T) {
	t.Parallel()
	clients := frontClients("")
	clients[0].RedirectURIs = []string{"http://127.0.0.1/cb"}
	o := newOP(t, "query", clients, frontSwitches)
	o.Code(t.Context(), o.browser, o.request("redirect_uri", "http://127.0.0.1/cb"))
	if reply := o.ask("redirect_uri", "http://127.0.0.1/cb"); !strings.Contains(reply.Header.Get("Location"), "code=") {
		t.Errorf("a code: %d %s", reply.Status, reply.Header.Get("Location"))
	}
	if reply := o.ask("redirect_uri", "http://127.0.0.1/cb", "response_type", "id_token"); reply.Hidden("request") == "" {
		t.Errorf("a token: %d %s", reply.Status, reply.Header.Get("Location"))
	}
}

// The hybrid flow holds PKCE where the code flow does; the implicit one has no code to protect.
func TestFrontChannelPKCE(t *testing.T) {
	t.Parallel()
	clients := frontClients("")
	clients[0].PKCEOptional = false
	o := newOP(t, "fragment", clients, frontSwitches)
	if got := frontAnswer(t, o, o.ask("response_type", "code id_token")); got.Get("error") != "invalid_request" {
		t.Errorf("no challenge: %v", got)
	}
	verifier, challenge := providertest.Verifier()
	answer := front(t, o, "response_type", "code id_token", "code_challenge", challenge, "code_challenge_method", "S256")
	if reply := o.redeem("rp", answer, "code_verifier", "x"+verifier); reply.Status != http.StatusBadRequest {
		t.Errorf("a wrong verifier: %d", reply.Status)
	}
	if reply := o.redeem("rp", answer, "code_verifier", verifier); reply.Status != http.StatusOK {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	front(t, o, "response_type", "id_token")
}

// A pushed request of the hybrid flow, answered by a form.
func TestFrontChannelPushed(t *testing.T) {
	t.Parallel()
	o := newOP(t, "form_post", frontClients(""), frontSwitches)
	q := pushed(t, o.Server, "rp", o.request("response_type", "code id_token token", "scope", "openid email"), "response_mode", "query", "response_type", "code")
	answer := frontAnswer(t, o, o.Code(t.Context(), o.browser, q))
	checkFrontAnswer(t, o, oidcVerifier(t, o), "ES256", "code id_token token", answer)
}
