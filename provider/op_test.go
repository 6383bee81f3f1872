package provider_test

import (
	"crypto/sha256"
	"encoding/json"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// The tests named TestOP… show, row by row, what an OpenID-certified provider shows: each bears
// the name of a module of the certification suite and makes that module's requests over HTTPS.

const (
	opBye = "https://web.example/bye?from=op"
	// longState is of the length that some modules send.
	longState = "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789ABCDEF"
)

// opClients are two relying parties as the suite registers them: confidential, nobody's own,
// RS256, no PKCE asked of them.
func opClients() []*storage.Client {
	var clients []*storage.Client
	for _, id := range []string{"rp", "rp2"} {
		clients = append(clients, &storage.Client{
			ID: id, Name: "Relying Party " + id, SecretHashes: [][32]byte{sha256.Sum256([]byte(providertest.ClientSecret))},
			RedirectURIs: []string{providertest.RedirectURI}, GrantTypes: []string{"authorization_code", "refresh_token"},
			Scopes: []string{"openid", "profile", "email", "address", "phone", "offline_access"}, PKCEOptional: true, IDTokenAlg: "RS256",
			PostLogoutRedirectURIs: []string{opBye, "https://web.example/bye"},
		})
	}
	return clients
}

// op is a provider under test, one person's browser, the client that sends it, what the client
// asks for and how it is answered.
type op struct {
	*providertest.Server
	t       *testing.T
	browser *http.Client
	client  string
	types   string
	mode    string
}

func newOP(t *testing.T, mode string, clients []*storage.Client, change func(*provider.Config)) *op {
	t.Helper()
	return opOn(t, providertest.NewServer(t, providertest.Options{Clients: clients, Change: change}), mode)
}

// opOn is newOP for a provider that runs.
func opOn(t *testing.T, s *providertest.Server, mode string) *op {
	t.Helper()
	return &op{Server: s, t: t, browser: s.Browser(), client: "rp", types: "code", mode: mode}
}

// inBothModes runs a module of the basic plan and its twin of the form-post plan.
func inBothModes(t *testing.T, module func(o *op)) {
	t.Helper()
	t.Parallel()
	for _, mode := range []string{"query", "form_post"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			module(newOP(t, mode, opClients(), nil))
		})
	}
}

// request is an authorization request; changes are names and values, an empty one leaves the
// parameter out.
func (o *op) request(changes ...string) url.Values {
	q := url.Values{
		"client_id": {o.client}, "response_type": {o.types}, "redirect_uri": {providertest.RedirectURI}, "scope": {"openid"},
		"state": {"a-state"}, "nonce": {"a-nonce"},
	}
	if o.mode == "form_post" {
		q.Set("response_mode", o.mode)
	}
	for i := 0; i < len(changes); i += 2 {
		q.Set(changes[i], changes[i+1])
		if changes[i+1] == "" {
			q.Del(changes[i])
		}
	}
	return q
}

// answerOf returns the members of an answer that goes to the client, by redirect or by form;
// nil when it stays with the person.
func (o *op) answerOf(reply *providertest.Reply) url.Values {
	o.t.Helper()
	if o.mode != "form_post" {
		address, encoded, found := strings.Cut(reply.Header.Get("Location"), map[string]string{"query": "?", "fragment": "#"}[o.mode])
		values, err := url.ParseQuery(encoded)
		if reply.Status != http.StatusSeeOther || !found || err != nil || address != providertest.RedirectURI {
			return nil
		}
		return values
	}
	if reply.Header.Get("Location") != "" {
		o.t.Errorf("the answer stands in a redirect: %s", reply.Header.Get("Location"))
	}
	if !strings.Contains(reply.Body, `<form method="post" action="`+providertest.RedirectURI+`">`) {
		return nil
	}
	values := url.Values{}
	for _, field := range regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`).FindAllStringSubmatch(reply.Body, -1) {
		values.Add(html.UnescapeString(field[1]), html.UnescapeString(field[2]))
	}
	return values
}

// ask sends the request and stops at the first page.
func (o *op) ask(changes ...string) *providertest.Reply {
	o.t.Helper()
	return o.Get(o.t.Context(), o.browser, "/authorize?"+o.request(changes...).Encode())
}

// code runs the request, signing in and allowing as asked, and returns the answer.
func (o *op) code(changes ...string) url.Values {
	o.t.Helper()
	reply := o.Code(o.t.Context(), o.browser, o.request(changes...))
	answer := o.answerOf(reply)
	if answer.Get("code") == "" {
		o.t.Fatalf("no code: %d %s %s", reply.Status, reply.Header.Get("Location"), reply.Body)
	}
	if answer.Get("iss") != o.Issuer {
		o.t.Errorf("iss %q", answer.Get("iss"))
	}
	return answer
}

// silent sends the request and wants a code without any page for the person.
func (o *op) silent(changes ...string) url.Values {
	o.t.Helper()
	reply := o.ask(changes...)
	answer := o.answerOf(reply)
	if answer.Get("code") == "" {
		o.t.Fatalf("no silent code: %d %s %s", reply.Status, reply.Header.Get("Location"), reply.Body)
	}
	return answer
}

// refusal sends the request and returns the error that goes to the client, checked for what
// may stand in it.
func (o *op) refusal(changes ...string) string {
	o.t.Helper()
	reply := o.ask(changes...)
	answer := o.answerOf(reply)
	if answer == nil {
		o.t.Fatalf("no answer to the client: %d %s", reply.Status, reply.Body)
	}
	for name, values := range answer {
		if !strings.Contains(" error error_description error_uri state iss ", " "+name+" ") || len(values) != 1 || strings.ContainsAny(values[0], "\r\n\t\"\\") {
			o.t.Errorf("%s=%q in an error", name, values)
		}
	}
	if answer.Get("iss") != o.Issuer {
		o.t.Errorf("iss %q", answer.Get("iss"))
	}
	return answer.Get("error")
}

// redeem exchanges the code of an answer as a client.
func (o *op) redeem(client string, answer url.Values, changes ...string) *providertest.Reply {
	o.t.Helper()
	form := url.Values{"grant_type": {"authorization_code"}, "code": {answer.Get("code")}, "redirect_uri": {providertest.RedirectURI}}
	for i := 0; i < len(changes); i += 2 {
		form.Set(changes[i], changes[i+1])
	}
	return o.PostAs(o.t.Context(), client, "/token", form)
}

// tokens runs the request to its end and returns the tokens and the checked ID token's claims.
func (o *op) tokens(changes ...string) (providertest.Tokens, map[string]any) {
	o.t.Helper()
	q := o.request(changes...)
	return o.checked(q.Get("client_id"), q.Get("nonce"), o.redeem(q.Get("client_id"), o.code(changes...)))
}

// checked verifies a token answer as every module does.
func (o *op) checked(client, nonce string, reply *providertest.Reply) (providertest.Tokens, map[string]any) {
	o.t.Helper()
	if reply.Status != http.StatusOK || !strings.HasPrefix(reply.Header.Get("Content-Type"), "application/json") || reply.Header.Get("Cache-Control") != "no-store" {
		o.t.Fatalf("%d %v %s", reply.Status, reply.Header, reply.Body)
	}
	var tokens providertest.Tokens
	if err := json.Unmarshal([]byte(reply.Body), &tokens); err != nil {
		o.t.Fatal(err)
	}
	if tokens.AccessToken == "" || tokens.TokenType != "Bearer" || tokens.ExpiresIn <= 0 {
		o.t.Errorf("token answer %s", reply.Body)
	}
	members := o.verified(tokens.IDToken, "JWT")
	now := float64(o.Clock.Now().Unix())
	if members["iss"] != o.Issuer || members["aud"] != client || members["sub"] != providertest.AliceSubject || members["iat"] != now ||
		members["exp"].(float64) <= now || members["auth_time"].(float64) > now {
		o.t.Errorf("ID token %v", members)
	}
	if got, _ := members["nonce"].(string); got != nonce {
		o.t.Errorf("nonce %q, want %q", got, nonce)
	}
	return tokens, members
}

// verified checks the signature of a JWS against the published keys and returns its claims.
func (o *op) verified(token, typ string) map[string]any {
	o.t.Helper()
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	if err != nil {
		o.t.Fatalf("%v: %s", err, token)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(o.Get(o.t.Context(), o.Client(), "/jwks").Body), &set); err != nil {
		o.t.Fatal(err)
	}
	header := jws.Signatures[0].Header
	keys := set.Key(header.KeyID)
	if len(keys) != 1 || header.ExtraHeaders["typ"] != typ {
		o.t.Fatalf("%d keys of kid %q, typ %v", len(keys), header.KeyID, header.ExtraHeaders["typ"])
	}
	payload, err := jws.Verify(keys[0])
	if err != nil {
		o.t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(payload, &members); err != nil {
		o.t.Fatal(err)
	}
	return members
}

// userinfo returns what the access token opens.
func (o *op) userinfo(token string) map[string]any {
	o.t.Helper()
	reply := o.Bearer(o.t.Context(), "/userinfo", token)
	if reply.Status != http.StatusOK || reply.JSON()["sub"] != providertest.AliceSubject {
		o.t.Fatalf("userinfo: %d %s", reply.Status, reply.Body)
	}
	return reply.JSON()
}

// wantErrorPage checks that an answer is a page for the person and leads nowhere.
func (o *op) wantErrorPage(reply *providertest.Reply) {
	o.t.Helper()
	if reply.Status != http.StatusBadRequest || reply.Header.Get("Location") != "" || !strings.Contains(reply.Body, `id="error-id"`) || strings.Contains(reply.Body, "<form") {
		o.t.Errorf("no error page: %d %s %s", reply.Status, reply.Header.Get("Location"), reply.Body)
	}
}
