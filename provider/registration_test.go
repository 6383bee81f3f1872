package provider_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// sendJSON sends a JSON body, with a bearer token unless that is empty.
func sendJSON(ctx context.Context, t *testing.T, s *providertest.Server, method, path, token string, body any) *providertest.Reply {
	t.Helper()
	encoded, isText := body.(string)
	if !isText && body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		encoded = string(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.URL(path), bytes.NewReader([]byte(encoded)))
	if err != nil {
		t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return s.Do(s.Client(), req)
}

// jsonObject is a JSON object.
type jsonObject = map[string]any

// with returns a good registration with some members in place of others; nil leaves one out.
func with(changes jsonObject) jsonObject {
	all := jsonObject{"redirect_uris": []string{"https://rp.example/callback"}}
	for name, value := range changes {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	return all
}

// openServer is a provider where anybody may register.
func openServer(t *testing.T, change func(*provider.Config)) *providertest.Server {
	t.Helper()
	return providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) {
		c.Registration.Open = true
		if change != nil {
			change(c)
		}
	}})
}

// registered registers a client and returns the answer.
func registered(t *testing.T, s *providertest.Server, body jsonObject) *providertest.Reply {
	t.Helper()
	reply := sendJSON(t.Context(), t, s, http.MethodPost, "/register", "", body)
	if reply.Status != http.StatusCreated {
		t.Fatalf("registration: %d %s", reply.Status, reply.Body)
	}
	return reply
}

// postBasic sends a form as a client with a secret of its own.
func postBasic(t *testing.T, s *providertest.Server, id, secret, path string, form url.Values) *providertest.Reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL(path), strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	return s.Do(s.Client(), req)
}

// signInTo runs the code flow of a registered client for Alice and returns the tokens.
func signInTo(t *testing.T, s *providertest.Server, browser *http.Client, client *providertest.Reply, redirect, scope string) *providertest.Reply {
	t.Helper()
	query := url.Values{
		"client_id": {client.Text("client_id")}, "response_type": {"code"}, "redirect_uri": {redirect}, "scope": {scope},
		"state": {"state-of-a-test"}, "nonce": {"nonce-of-a-test"},
	}
	back := s.Code(t.Context(), browser, query)
	code := back.Location().Query().Get("code")
	if code == "" {
		t.Fatalf("no code: %d %q %s", back.Status, back.Header.Get("Location"), back.Body)
	}
	reply := postBasic(t, s, client.Text("client_id"), client.Text("client_secret"), "/token", url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect},
	})
	if reply.Status != http.StatusOK {
		t.Fatalf("token: %d %s", reply.Status, reply.Body)
	}
	return reply
}

func TestRegistrationRefusesBadMetadata(t *testing.T) {
	t.Parallel()
	s := openServer(t, func(c *provider.Config) { c.Hybrid, c.Pairwise = true, true })
	const metadata, redirect = "invalid_client_metadata", "invalid_redirect_uri"
	signs := func(alg string, keys ...*assertionKey) jsonObject {
		return with(jsonObject{
			"token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": alg, "jwks": json.RawMessage(jwksOf(t, keys...)),
		})
	}
	p256, p384 := newAssertionKey(t, jose.ES256, "k1"), newAssertionKey(t, jose.ES384, "k2")
	rows := []struct {
		name string
		body any
		want string
	}{
		{"no redirect URI", with(jsonObject{"redirect_uris": nil}), redirect},
		{"an empty list of redirect URIs", with(jsonObject{"redirect_uris": []string{}}), redirect},
		{"a redirect URI with a fragment", with(jsonObject{"redirect_uris": []string{"https://rp.example/cb#here"}}), redirect},
		{"a redirect URI with an empty fragment", with(jsonObject{"redirect_uris": []string{"https://rp.example/cb#"}}), redirect},
		{"a redirect URI over http", with(jsonObject{"redirect_uris": []string{"http://rp.example/cb"}}), redirect},
		{"a redirect URI that runs script", with(jsonObject{"redirect_uris": []string{"javascript:alert(1)"}}), redirect},
		{"a relative redirect URI", with(jsonObject{"redirect_uris": []string{"/callback"}}), redirect},
		{"an app's own scheme for a web client", with(jsonObject{"redirect_uris": []string{"com.example.app:/cb"}}), redirect},
		{"tokens without the token endpoint to this device", with(jsonObject{"redirect_uris": []string{"http://localhost/cb"}, "response_types": []string{"code id_token"}}), redirect},
		{"the same redirect URI twice", with(jsonObject{"redirect_uris": []string{"https://rp.example/cb", "https://rp.example/cb"}}), redirect},
		{"redirect URIs that are no list", with(jsonObject{"redirect_uris": "https://rp.example/cb"}), metadata},
		{"the device grant", with(jsonObject{"grant_types": []string{"authorization_code", qr.DeviceGrantType}}), metadata},
		{"the QR grant", with(jsonObject{"grant_types": []string{"authorization_code", qr.GrantType}}), metadata},
		{"tokens of the client's own", with(jsonObject{"grant_types": []string{"authorization_code", "client_credentials"}}), metadata},
		{"an unknown grant", with(jsonObject{"grant_types": []string{"authorization_code", "password"}}), metadata},
		{"a grant without its response type", with(jsonObject{"grant_types": []string{"authorization_code", "implicit"}, "response_types": []string{"code"}}), metadata},
		{"a response type without its grant", with(jsonObject{"grant_types": []string{"authorization_code"}, "response_types": []string{"code id_token"}}), metadata},
		{"refresh tokens alone", with(jsonObject{"grant_types": []string{"refresh_token"}}), metadata},
		{"an unknown response type", with(jsonObject{"response_types": []string{"cookie"}}), metadata},
		{"a response type that is switched off", with(jsonObject{"response_types": []string{"id_token"}}), metadata},
		{"a scope that approves sign-ins", with(jsonObject{"scope": "openid " + qr.ApproveScope}), metadata},
		{"an operator's scope", with(jsonObject{"scope": "openid reports:read"}), metadata},
		{"an unknown way to authenticate", with(jsonObject{"token_endpoint_auth_method": "tls_client_auth"}), metadata},
		{"a key without a key", with(jsonObject{"token_endpoint_auth_method": "private_key_jwt"}), metadata},
		{"keys that are none", with(jsonObject{"jwks": jsonObject{"keys": []any{}}}), metadata},
		{"keys on another curve than the algorithm's", signs("ES256", p384), metadata},
		{"keys of another kind than the algorithm's", signs("RS256", p256, p384), metadata},
		{"keys that are for another algorithm", with(jsonObject{
			"token_endpoint_auth_method": "private_key_jwt",
			"jwks":                       jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: newAssertionKey(t, jose.PS256, "").private.Public(), Algorithm: "PS512"}}},
		}), metadata},
		{"tokens in front that are to be bound", with(jsonObject{"dpop_bound_access_tokens": true, "response_types": []string{"code", "code token"}}), metadata},
		{"keys over http", with(jsonObject{"jwks_uri": "http://rp.example/jwks"}), metadata},
		{"ID tokens without a signature", with(jsonObject{"id_token_signed_response_alg": "none"}), metadata},
		{"an unknown signature", with(jsonObject{"userinfo_signed_response_alg": "HS256"}), metadata},
		{"encrypted ID tokens", with(jsonObject{"id_token_encrypted_response_alg": "RSA-OAEP"}), metadata},
		{"signed requests without a key", with(jsonObject{"require_signed_request_object": true}), metadata},
		{"requests over http", with(jsonObject{"request_uris": []string{"http://rp.example/request"}}), metadata},
		{"a logo in a script", with(jsonObject{"logo_uri": "data:text/html,hello"}), metadata},
		{"a name that turns the page round", with(jsonObject{"client_name": "Bank\u202eevil"}), metadata},
		{"a name of many lines", with(jsonObject{"client_name": "Bank\nis asking"}), metadata},
		{"a name that is no text", with(jsonObject{"client_name": 7}), metadata},
		{"a long name", with(jsonObject{"client_name": strings.Repeat("n", 201)}), metadata},
		{"a start over http", with(jsonObject{"initiate_login_uri": "http://rp.example/start"}), metadata},
		{"a negative age", with(jsonObject{"default_max_age": -1}), metadata},
		{"an age with a fraction", with(jsonObject{"default_max_age": 1.5}), metadata},
		{"a logout address over http", with(jsonObject{"backchannel_logout_uri": "http://rp.example/logout"}), metadata},
		{"an unknown subject type", with(jsonObject{"subject_type": "private"}), metadata},
		{"pairwise subjects of two hosts", with(jsonObject{"subject_type": "pairwise", "redirect_uris": []string{"https://a.example/cb", "https://b.example/cb"}}), metadata},
		{"a member twice", `{"redirect_uris":["https://rp.example/cb"],"scope":"openid","scope":"openid"}`, metadata},
		{"an array", `[]`, metadata},
		{"no JSON", `{`, metadata},
		{"a statement about the software", with(jsonObject{"software_statement": "e30.e30."}), "unapproved_software_statement"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s.Clock.Advance(time.Minute) // the limit of the network is another test's
			reply := sendJSON(t.Context(), t, s, http.MethodPost, "/register", "", row.body)
			if reply.Status != http.StatusBadRequest || reply.Text("error") != row.want {
				t.Errorf("%d %s, want %s", reply.Status, reply.Body, row.want)
			}
		})
	}
}

// Without an algorithm the keys say which is meant.
func TestRegistrationNamesTheAlgorithmOfTheKeys(t *testing.T) {
	t.Parallel()
	s := openServer(t, func(c *provider.Config) { c.Hybrid = true })
	p256, p384, rsa := newAssertionKey(t, jose.ES256, "k1"), newAssertionKey(t, jose.ES384, "k2"), newAssertionKey(t, jose.RS256, "k3")
	for name, row := range map[string]struct {
		keys []*assertionKey
		want string
	}{
		"P-384":           {[]*assertionKey{p384}, "ES384"},
		"P-384 and P-256": {[]*assertionKey{p384, p256}, ""},
		"RSA":             {[]*assertionKey{rsa}, "RS256"},
		"RSA and P-384":   {[]*assertionKey{rsa, p384}, ""},
	} {
		client := registered(t, s, with(jsonObject{
			"token_endpoint_auth_method": "private_key_jwt", "jwks": json.RawMessage(jwksOf(t, row.keys...)),
			// What comes in front is no token here.
			"dpop_bound_access_tokens": true, "response_types": []string{"code id_token"},
		}))
		if got := client.Text("token_endpoint_auth_signing_alg"); got != row.want {
			t.Errorf("%s: %q, want %q", name, got, row.want)
		}
	}
}

func TestRegistrationNeverGivesMoreThanAPersonsOwn(t *testing.T) {
	t.Parallel()
	s := openServer(t, nil)
	client := registered(t, s, with(jsonObject{
		"approver": true, "first_party": true, "qr": jsonObject{"enabled": true}, "Scope": "qr:approve", "pkce_optional": true,
		"client_id": "web", "client_secret": "mine", "grant_types": nil, "token_endpoint_auth_method": "none",
	}))
	stored, err := s.Store.Client(t.Context(), client.Text("client_id"))
	if err != nil {
		t.Fatal(err)
	}
	if stored.ID == "web" || stored.Approver || stored.FirstParty || stored.QR.Enabled || stored.PKCEOptional || stored.Source != storage.ClientRegistered {
		t.Errorf("%+v", stored)
	}
	want := []string{"openid", "profile", "email", "address", "phone", "offline_access"}
	if diff := cmp.Diff(want, stored.Scopes); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"authorization_code"}, stored.GrantTypes); diff != "" {
		t.Error(diff)
	}
}

func TestRegisteredClient(t *testing.T) {
	t.Parallel()
	s := openServer(t, nil)
	client := registered(t, s, with(jsonObject{
		"client_name": "Fruit Shop", "grant_types": []string{"authorization_code", "refresh_token"},
		"initiate_login_uri": "https://rp.example/start", "logo_uri": "https://rp.example/logo.png", "unknown": "ignored", "client_uri": nil, "tos_uri": "",
	}))
	got := client.JSON()
	for name, want := range (jsonObject{
		"client_id_issued_at": float64(s.Clock.Now().Unix()), "client_secret_expires_at": 0.0, "client_name": "Fruit Shop",
		"redirect_uris": []any{"https://rp.example/callback"}, "response_types": []any{"code"}, "grant_types": []any{"authorization_code", "refresh_token"},
		"application_type": "web", "scope": "openid profile email address phone offline_access", "token_endpoint_auth_method": "client_secret_basic",
		"subject_type": "public", "id_token_signed_response_alg": "RS256", "initiate_login_uri": "https://rp.example/start", "logo_uri": "https://rp.example/logo.png",
		"registration_client_uri": s.Issuer + "/register/" + client.Text("client_id"),
	}) {
		if diff := cmp.Diff(want, got[name]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for _, absent := range []string{"unknown", "client_uri", "tos_uri", "jwks"} {
		if _, present := got[absent]; present {
			t.Errorf("%s stands in the answer", absent)
		}
	}
	if client.Header.Get("Cache-Control") != "no-store" || len(client.Text("client_secret")) < 43 || len(client.Text("registration_access_token")) < 43 {
		t.Errorf("%v %s", client.Header, client.Body)
	}
	stored, err := s.Store.Client(t.Context(), client.Text("client_id"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(stored)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"client_secret", "registration_access_token"} {
		if bytes.Contains(raw, []byte(client.Text(secret))) {
			t.Errorf("the %s is stored", secret)
		}
	}

	tokens := signInTo(t, s, s.Browser(), client, "https://rp.example/callback", "openid email offline_access")
	if tokens.Text("id_token") == "" || tokens.Text("refresh_token") == "" {
		t.Error(tokens.Body)
	}
	reply := s.Bearer(t.Context(), "/userinfo", tokens.Text("access_token"))
	if reply.Text("email") != "alice@example.org" {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
}

func TestRegistrationIsOffUnlessItIsOn(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	if reply := sendJSON(t.Context(), t, s, http.MethodPost, "/register", "", with(nil)); reply.Status != http.StatusNotFound {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	for _, document := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"} {
		if reply := s.Get(t.Context(), s.Client(), document); strings.Contains(reply.Body, "registration_endpoint") {
			t.Error(reply.Body)
		}
	}
	s = openServer(t, nil)
	for _, document := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"} {
		if reply := s.Get(t.Context(), s.Client(), document); reply.Text("registration_endpoint") != s.Issuer+"/register" {
			t.Error(reply.Body)
		}
	}
}

func TestRegistrationWithAnInitialToken(t *testing.T) {
	t.Parallel()
	const token, other = "an-initial-access-token-of-256-bits-0123456789", "another-initial-access-token-of-256-bits-01234"
	s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) {
		c.Registration.InitialTokens = [][32]byte{sha256.Sum256([]byte(other)), sha256.Sum256([]byte(token))}
	}})
	none := sendJSON(t.Context(), t, s, http.MethodPost, "/register", "", with(nil))
	if none.Status != http.StatusUnauthorized || none.Body != `{"error_description":"Send an initial access token as Bearer."}` ||
		!cmp.Equal(none.Header.Values("WWW-Authenticate"), []string{`Bearer realm="qrgrant"`}) {
		t.Errorf("none: %d %q %s", none.Status, none.Header.Values("WWW-Authenticate"), none.Body)
	}
	for name, sent := range map[string]string{"a wrong one": "wrong", "an access token": s.ApproverToken(t.Context())} {
		reply := sendJSON(t.Context(), t, s, http.MethodPost, "/register", sent, with(nil))
		challenge := reply.Header.Get("WWW-Authenticate")
		if reply.Status != http.StatusUnauthorized || reply.Text("error") != "invalid_token" || !strings.HasPrefix(challenge, "Bearer ") {
			t.Errorf("%s: %d %q %s", name, reply.Status, challenge, reply.Body)
		}
	}
	for _, good := range []string{token, other, token} {
		if reply := sendJSON(t.Context(), t, s, http.MethodPost, "/register", good, with(nil)); reply.Status != http.StatusCreated {
			t.Errorf("%d %s", reply.Status, reply.Body)
		}
	}
}

func TestRegistrationManagement(t *testing.T) {
	t.Parallel()
	log := &logbook{}
	s := openServer(t, func(c *provider.Config) { c.Logger = log.logger() })
	client := registered(t, s, with(jsonObject{"client_name": "Before", "initiate_login_uri": "https://rp.example/start"}))
	id, token, secret := client.Text("client_id"), client.Text("registration_access_token"), client.Text("client_secret")
	path := "/register/" + id
	do := func(method, token string, body any) *providertest.Reply {
		t.Helper()
		return sendJSON(t.Context(), t, s, method, path, token, body)
	}

	reply := do(http.MethodGet, token, nil)
	if reply.Status != http.StatusOK || reply.Text("initiate_login_uri") != "https://rp.example/start" || reply.Text("registration_access_token") != token {
		t.Errorf("GET: %d %s", reply.Status, reply.Body)
	}
	if _, shown := reply.JSON()["client_secret"]; shown {
		t.Error("the secret can be shown again: it is stored")
	}

	for name, body := range map[string]jsonObject{
		"no client_id":      with(nil),
		"another client_id": with(jsonObject{"client_id": "web"}),
		"another secret":    with(jsonObject{"client_id": id, "client_secret": "guess"}),
		"our own members":   with(jsonObject{"client_id": id, "registration_access_token": token}),
		"bad metadata":      with(jsonObject{"client_id": id, "grant_types": []string{qr.GrantType}}),
		"a greater scope":   with(jsonObject{"client_id": id, "scope": "openid " + qr.ApproveScope}),
	} {
		if reply := do(http.MethodPut, token, body); reply.Status != http.StatusBadRequest || reply.Text("error") != "invalid_client_metadata" {
			t.Errorf("PUT with %s: %d %s", name, reply.Status, reply.Body)
		}
	}
	reply = do(http.MethodPut, token, with(jsonObject{"client_id": id, "client_secret": secret, "client_name": "After"}))
	if reply.Status != http.StatusOK || reply.Text("client_name") != "After" || reply.Text("initiate_login_uri") != "" || reply.Text("client_secret") != secret {
		t.Errorf("PUT: %d %s", reply.Status, reply.Body)
	}
	if reply := do(http.MethodPut, token, with(jsonObject{"client_id": id, "token_endpoint_auth_method": "none"})); reply.Status != http.StatusOK || reply.Text("client_secret") != "" {
		t.Errorf("PUT: %d %s", reply.Status, reply.Body)
	}
	reply = do(http.MethodPut, token, with(jsonObject{"client_id": id, "token_endpoint_auth_method": "client_secret_post"}))
	if reply.Status != http.StatusOK || reply.Text("client_secret") == "" || reply.Text("client_secret") == secret {
		t.Errorf("PUT: %d %s", reply.Status, reply.Body)
	}
	if logged := strings.Count(log.text(), `"msg":"a client has changed its registration","client_id":"`+id+`"}`); logged != 3 {
		t.Errorf("%d changes are in the log: %s", logged, log.text())
	}
	if reply := do(http.MethodPatch, token, nil); reply.Status != http.StatusMethodNotAllowed || reply.Header.Get("Allow") != "DELETE, GET, PUT" {
		t.Errorf("PATCH: %d %v", reply.Status, reply.Header)
	}
	if do(http.MethodDelete, token, nil); !strings.Contains(log.text(), `"msg":"a client has removed its registration","client_id":"`+id+`"}`) {
		t.Errorf("the removal is not in the log: %s", log.text())
	}
}

func TestRegistrationManagementNeedsTheClientsToken(t *testing.T) {
	t.Parallel()
	s := openServer(t, nil)
	client, other := registered(t, s, with(nil)), registered(t, s, with(nil))
	// A row of the operator's that happens to have the hash: the endpoint is not for it.
	web, err := s.Store.Client(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	web.RegistrationTokenHash = sha256.Sum256([]byte("token of the operator"))
	if err := s.Store.PutClient(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	good := client.Text("registration_access_token")
	var answers []string
	for _, row := range []struct{ name, id, token string }{
		{"no token", client.Text("client_id"), ""},
		{"a wrong token", client.Text("client_id"), "wrong"},
		{"the token of another client", client.Text("client_id"), other.Text("registration_access_token")},
		{"a client that is not there", "nobody", good},
		{"a client of the operator's", "web", "token of the operator"},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
			reply := sendJSON(t.Context(), t, s, method, "/register/"+row.id, row.token, with(jsonObject{"client_id": row.id}))
			if reply.Status != http.StatusUnauthorized || !strings.HasPrefix(reply.Header.Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("%s %s: %d %s", method, row.name, reply.Status, reply.Body)
			}
			answers = append(answers, reply.Body)
		}
	}
	for _, answer := range answers {
		if answer != answers[0] {
			t.Errorf("%s tells more than %s", answer, answers[0])
		}
	}
	if reply := sendJSON(t.Context(), t, s, http.MethodGet, "/register/"+client.Text("client_id"), good, nil); reply.Status != http.StatusOK {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
}

func TestADeletedClientLeavesNothing(t *testing.T) {
	t.Parallel()
	s := openServer(t, nil)
	const redirect = "https://rp.example/callback"
	client := registered(t, s, with(jsonObject{"grant_types": []string{"authorization_code", "refresh_token"}}))
	id := client.Text("client_id")
	tokens := signInTo(t, s, s.Browser(), client, redirect, "openid offline_access")
	if _, err := s.Store.Consent(t.Context(), providertest.AliceSubject, id); err != nil {
		t.Fatal(err)
	}
	reply := sendJSON(t.Context(), t, s, http.MethodDelete, "/register/"+id, client.Text("registration_access_token"), nil)
	if reply.Status != http.StatusNoContent || reply.Body != "" {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	if _, err := s.Store.Consent(t.Context(), providertest.AliceSubject, id); err == nil {
		t.Error("the consent is still there")
	}
	if reply := s.Bearer(t.Context(), "/userinfo", tokens.Text("access_token")); reply.Status != http.StatusUnauthorized {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	for name, kind := range map[string]storage.TokenKind{"access_token": storage.TokenAccess, "refresh_token": storage.TokenRefresh} {
		stored, err := s.Store.Token(t.Context(), kind, sha256.Sum256([]byte(tokens.Text(name))))
		if err != nil || stored.Active {
			t.Errorf("the %s: %+v, %v", name, stored, err)
		}
	}
	if reply := postBasic(t, s, id, client.Text("client_secret"), "/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens.Text("refresh_token")}}); reply.Status != http.StatusUnauthorized {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	if reply := sendJSON(t.Context(), t, s, http.MethodGet, "/register/"+id, client.Text("registration_access_token"), nil); reply.Status != http.StatusUnauthorized {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
}

func TestOpenRegistrationIsLimitedPerNetwork(t *testing.T) {
	t.Parallel()
	s := openServer(t, nil)
	for range 60 {
		// A bad one counts as well: it costs as much.
		if reply := sendJSON(t.Context(), t, s, http.MethodPost, "/register", "", `{}`); reply.Status != http.StatusBadRequest {
			t.Fatalf("%d %s", reply.Status, reply.Body)
		}
	}
	reply := sendJSON(t.Context(), t, s, http.MethodPost, "/register", "", with(nil))
	if reply.Status != http.StatusTooManyRequests || reply.Header.Get("Retry-After") != "1" {
		t.Errorf("%d %v %s", reply.Status, reply.Header, reply.Body)
	}
	s.Clock.Advance(time.Second)
	registered(t, s, with(nil))
}

func TestRegisteredClientsAreBounded(t *testing.T) {
	t.Parallel()
	s := openServer(t, func(c *provider.Config) { c.Registration.MaxClients = 2 })
	first, second := registered(t, s, with(nil)), registered(t, s, with(nil))
	full := sendJSON(t.Context(), t, s, http.MethodPost, "/register", "", with(nil))
	if full.Status != http.StatusTooManyRequests || full.Header.Get("Retry-After") == "" {
		t.Fatalf("%d %s", full.Status, full.Body)
	}
	// One that goes leaves its place.
	sendJSON(t.Context(), t, s, http.MethodDelete, "/register/"+first.Text("client_id"), first.Text("registration_access_token"), nil)
	third := registered(t, s, with(nil))

	// After a day those are forgotten that nobody has used.
	signInTo(t, s, s.Browser(), second, "https://rp.example/callback", "openid")
	s.Clock.Advance(24*time.Hour + time.Minute)
	registered(t, s, with(nil))
	if reply := sendJSON(t.Context(), t, s, http.MethodGet, "/register/"+second.Text("client_id"), second.Text("registration_access_token"), nil); reply.Status != http.StatusOK {
		t.Errorf("the used one: %d %s", reply.Status, reply.Body)
	}
	if reply := sendJSON(t.Context(), t, s, http.MethodGet, "/register/"+third.Text("client_id"), third.Text("registration_access_token"), nil); reply.Status != http.StatusUnauthorized {
		t.Errorf("the unused one: %d %s", reply.Status, reply.Body)
	}
}

func TestRegisteredClientsAreBoundedByDefault(t *testing.T) {
	t.Parallel()
	s := openServer(t, nil)
	err := s.Store.Tx(t.Context(), func(ctx context.Context) error {
		for i := range 9_999 {
			if err := s.Store.PutClient(ctx, &storage.Client{ID: fmt.Sprint("registered-", i), Source: storage.ClientRegistered}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	registered(t, s, with(nil))
	if full := sendJSON(t.Context(), t, s, http.MethodPost, "/register", "", with(nil)); full.Status != http.StatusTooManyRequests {
		t.Errorf("%d %s", full.Status, full.Body)
	}
}

// An update is no use: a client to which nobody has granted anything is forgotten all the same.
func TestAnUpdateDoesNotKeepAClient(t *testing.T) {
	t.Parallel()
	s := openServer(t, nil)
	client := registered(t, s, with(nil))
	id, token := client.Text("client_id"), client.Text("registration_access_token")
	if reply := sendJSON(t.Context(), t, s, http.MethodPut, "/register/"+id, token, with(jsonObject{"client_id": id})); reply.Status != http.StatusOK {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	s.Clock.Advance(24*time.Hour + time.Minute)
	registered(t, s, with(nil))
	if reply := sendJSON(t.Context(), t, s, http.MethodGet, "/register/"+id, token, nil); reply.Status != http.StatusUnauthorized {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
}

// An update that began before the operator switched the client off does not switch it on again.
func TestAnUpdateLeavesAClientSwitchedOff(t *testing.T) {
	t.Parallel()
	s := openServer(t, nil)
	client := registered(t, s, with(nil))
	id, token := client.Text("client_id"), client.Text("registration_access_token")
	body, send := io.Pipe()
	reading := make(chan struct{})
	traced := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { close(reading) }})
	req, err := http.NewRequestWithContext(traced, http.MethodPut, s.URL("/register/"+id), body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Expect", "100-continue")
	answer := make(chan *providertest.Reply, 1)
	go func() { answer <- s.Do(s.Client(), req) }()
	<-reading
	stored, err := s.Store.Client(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	stored.Disabled = true
	if err := s.Store.PutClient(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
	if err := json.NewEncoder(send).Encode(with(jsonObject{"client_id": id, "client_name": "After"})); err != nil {
		t.Fatal(err)
	}
	_ = send.Close()
	if reply := <-answer; reply.Status != http.StatusOK {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	if stored, err = s.Store.Client(t.Context(), id); err != nil || !stored.Disabled || stored.Name != "After" {
		t.Errorf("%+v, %v", stored, err)
	}
}
