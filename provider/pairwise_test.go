package provider_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/internal/hostile"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// pairwiseServer is a provider with pairwise subjects and open registration, which reads documents
// on loopback and tells clients there of sign-outs.
func pairwiseServer(t *testing.T) *providertest.Server {
	t.Helper()
	return openServer(t, func(c *provider.Config) {
		c.Pairwise = true
		c.FetchNetworks, c.FetchRoots = hostile.Networks(), hostile.Roots(t)
		c.BackchannelNetworks, c.BackchannelRoots = hostile.Networks(), c.FetchRoots
	})
}

// pairwiseClient registers a client with pairwise subjects that redirects to the given host.
func pairwiseClient(t *testing.T, s *providertest.Server, host string, changes jsonObject) *providertest.Reply {
	t.Helper()
	body := jsonObject{
		"redirect_uris": []string{"https://" + host + "/callback"}, "subject_type": "pairwise",
		"grant_types": []string{"authorization_code", "refresh_token"}, "post_logout_redirect_uris": []string{"https://" + host + "/bye"},
	}
	for name, value := range changes {
		body[name] = value
	}
	return registered(t, s, body)
}

func subOf(t *testing.T, jwt string) string {
	t.Helper()
	sub, _ := claimsIn(t, jwt)["sub"].(string)
	return sub
}

func TestPairwiseSubjectsAreOfTheSector(t *testing.T) {
	t.Parallel()
	s := pairwiseServer(t)
	browser := s.Browser()
	sub := func(client *providertest.Reply, host string) string {
		t.Helper()
		return subOf(t, signInTo(t, s, browser, client, "https://"+host+"/callback", "openid").Text("id_token"))
	}
	one := sub(pairwiseClient(t, s, "one.example", nil), "one.example")
	same := sub(pairwiseClient(t, s, "one.example", nil), "one.example")
	other := sub(pairwiseClient(t, s, "two.example", nil), "two.example")
	public := sub(registered(t, s, with(nil)), "rp.example")
	switch {
	case public != providertest.AliceSubject:
		t.Errorf("a public subject is %q", public)
	case one == "" || one == providertest.AliceSubject || one != same:
		t.Errorf("two clients of a sector know %q and %q", one, same)
	case other == one || other == providertest.AliceSubject:
		t.Errorf("another sector knows %q", other)
	}
}

func TestPairwiseSubjectsOutliveARestart(t *testing.T) {
	t.Parallel()
	s := pairwiseServer(t)
	client := pairwiseClient(t, s, "one.example", nil)
	first := subOf(t, signInTo(t, s, s.Browser(), client, "https://one.example/callback", "openid").Text("id_token"))

	// Another process on the same store; the switch is off by now, the client as it was.
	again := providertest.NewServer(t, providertest.Options{Store: s.Store})
	if sub := subOf(t, signInTo(t, again, again.Browser(), client, "https://one.example/callback", "openid").Text("id_token")); sub != first {
		t.Errorf("%q, before %q", sub, first)
	}
	keys, err := s.Store.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pairwise := slices.DeleteFunc(keys, func(k *storage.Key) bool { return k.Use != storage.KeyPairwise })
	if len(pairwise) != 1 || len(pairwise[0].Secret) != 32 {
		t.Errorf("%v", pairwise)
	}
	jwks := again.Get(t.Context(), again.Client(), "/jwks")
	if published, _ := jwks.JSON()["keys"].([]any); jwks.Status != http.StatusOK || len(published) != 3 || strings.Contains(jwks.Body, "pairwise") {
		t.Errorf("%d %s", jwks.Status, jwks.Body)
	}
}

func TestPairwiseKeyIsMadeOnceByTwoProcesses(t *testing.T) {
	t.Parallel()
	// The switch is off: the key is made when the first subject is.
	one := &storage.Client{
		ID: "one", SecretHashes: [][32]byte{sha256.Sum256([]byte(providertest.ClientSecret))}, RedirectURIs: []string{"https://one.example/callback"},
		Scopes: []string{"openid"}, PKCEOptional: true, Pairwise: true, Sector: "one.example",
	}
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{one}})
	other := providertest.NewServer(t, providertest.Options{Store: s.Store})
	client := &providertest.Reply{Body: `{"client_id":"one","client_secret":"` + providertest.ClientSecret + `"}`}
	subs := make([]string, 2)
	var ready, done sync.WaitGroup
	ready.Add(2)
	for i, server := range []*providertest.Server{s, other} {
		done.Go(func() {
			ready.Done()
			ready.Wait()
			subs[i] = subOf(t, signInTo(t, server, server.Browser(), client, "https://one.example/callback", "openid").Text("id_token"))
		})
	}
	done.Wait()
	again := subOf(t, signInTo(t, s, s.Browser(), client, "https://one.example/callback", "openid").Text("id_token"))
	if subs[0] == "" || subs[0] != subs[1] || subs[0] != again {
		t.Errorf("%q, %q and %q", subs[0], subs[1], again)
	}
}

func TestPairwiseSubjectInEveryArtefact(t *testing.T) {
	t.Parallel()
	s := pairwiseServer(t)
	told := make(chan string, 1)
	receiver := hostile.Start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { told <- r.FormValue("logout_token") }))
	client := pairwiseClient(t, s, "one.example", jsonObject{"backchannel_logout_uri": receiver, "userinfo_signed_response_alg": "ES256"})
	id, secret := client.Text("client_id"), client.Text("client_secret")
	stored, err := s.Store.Client(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	stored.JWTAccessTokens = true
	if err := s.Store.PutClient(t.Context(), stored); err != nil {
		t.Fatal(err)
	}

	browser := s.Browser()
	tokens := signInTo(t, s, browser, client, "https://one.example/callback", "openid email offline_access")
	want := subOf(t, tokens.Text("id_token"))
	if want == "" || want == providertest.AliceSubject {
		t.Fatalf("the ID token says %q", want)
	}
	userinfo := s.Bearer(t.Context(), "/userinfo", tokens.Text("access_token"))
	introspected := postBasic(t, s, id, secret, "/introspect", url.Values{"token": {tokens.Text("access_token")}})
	ofRefresh := postBasic(t, s, id, secret, "/introspect", url.Values{"token": {tokens.Text("refresh_token")}})
	refreshed := postBasic(t, s, id, secret, "/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens.Text("refresh_token")}})
	page := s.Get(t.Context(), browser, "/logout")
	s.Post(t.Context(), browser, "/logout", url.Values{"csrf": {page.Hidden("csrf")}, "request": {page.Hidden("request")}})
	var logout string
	select {
	case logout = <-told:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody was told of the sign-out")
	}
	for name, got := range map[string]string{
		"the access token": subOf(t, tokens.Text("access_token")), "userinfo": subOf(t, userinfo.Body),
		"introspection": introspected.Text("sub"), "introspection of a refresh token": ofRefresh.Text("sub"),
		"the ID token of a refresh": subOf(t, refreshed.Text("id_token")), "the logout token": subOf(t, logout),
	} {
		if got != want {
			t.Errorf("%s says %q, want %q", name, got, want)
		}
	}
	for name, body := range map[string]string{"userinfo": userinfo.Body, "introspection": introspected.Body, "the tokens": tokens.Body} {
		if strings.Contains(body, providertest.AliceSubject) {
			t.Errorf("%s names the person's own subject: %s", name, body)
		}
	}
}

func TestPairwiseHints(t *testing.T) {
	t.Parallel()
	s := pairwiseServer(t)
	client, browser := pairwiseClient(t, s, "one.example", nil), s.Browser()
	idToken := signInTo(t, s, browser, client, "https://one.example/callback", "openid").Text("id_token")
	sub := subOf(t, idToken)
	silent := func(browser *http.Client, name, value string) string {
		t.Helper()
		query := url.Values{
			"client_id": {client.Text("client_id")}, "response_type": {"code"}, "redirect_uri": {"https://one.example/callback"},
			"scope": {"openid"}, "prompt": {"none"}, name: {value},
		}
		answer := s.Get(t.Context(), browser, "/authorize?"+query.Encode()).Location().Query()
		if answer.Get("code") != "" {
			return "code"
		}
		return answer.Get("error")
	}
	if got := silent(browser, "id_token_hint", idToken); got != "code" {
		t.Errorf("with the hint of this very person: %s", got)
	}
	wanted := func(sub string) string { return `{"id_token":{"sub":{"value":"` + sub + `"}}}` }
	if got := silent(browser, "claims", wanted(sub)); got != "code" {
		t.Errorf("with the subject the client knows: %s", got)
	}
	if got := silent(browser, "claims", wanted(providertest.AliceSubject)); got != "login_required" {
		t.Errorf("with the person's own subject: %s", got)
	}

	// Somebody else is signed in: the hint is not theirs.
	bob := providertest.Alice()
	bob.Subject, bob.Login = "bob-19c2", "bob"
	if err := s.Store.PutUser(t.Context(), bob); err != nil {
		t.Fatal(err)
	}
	others := s.Browser()
	page := s.Get(t.Context(), others, "/account")
	s.Post(t.Context(), others, "/login", url.Values{"csrf": {page.Hidden("csrf")}, "next": {page.Hidden("next")}, "login": {"bob"}, "password": {providertest.AlicePassword}})
	if got := silent(others, "id_token_hint", idToken); got != "login_required" {
		t.Errorf("with the hint of somebody else: %s", got)
	}

	// Without the sign-in of the token nobody can say whose it was.
	sid, _ := claimsIn(t, idToken)["sid"].(string)
	signIn, err := s.Store.Session(t.Context(), sid)
	if err != nil {
		t.Fatal(err)
	}
	signIn.Subject = bob.Subject
	if err := s.Store.PutSession(t.Context(), signIn); err != nil {
		t.Fatal(err)
	}
	if got := silent(others, "id_token_hint", idToken); got != "login_required" {
		t.Errorf("with a hint that does not fit its sign-in: %s", got)
	}
}

// A client may keep the token of its last sign-in for ever, and leads the person back with it.
func TestPairwiseHintOutlivesItsSignIn(t *testing.T) {
	t.Parallel()
	s := pairwiseServer(t)
	client := pairwiseClient(t, s, "one.example", nil)
	idToken := signInTo(t, s, s.Browser(), client, "https://one.example/callback", "openid").Text("id_token")
	sid, _ := claimsIn(t, idToken)["sid"].(string)
	if err := s.Store.EndSession(t.Context(), sid, s.Clock.Now()); err != nil {
		t.Fatal(err)
	}
	s.Clock.Advance(48 * time.Hour)
	if _, err := s.Provider.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Store.Session(t.Context(), sid); !errors.Is(err, storage.ErrNotFound) {
		t.Fatalf("the sign-in is still there: %v", err)
	}
	back := s.Code(t.Context(), s.Browser(), url.Values{
		"client_id": {client.Text("client_id")}, "response_type": {"code"}, "redirect_uri": {"https://one.example/callback"},
		"scope": {"openid"}, "id_token_hint": {idToken},
	})
	if back.Location().Query().Get("code") == "" {
		t.Errorf("%d %q", back.Status, back.Header.Get("Location"))
	}
}

func TestPairwiseLogoutLeadsBack(t *testing.T) {
	t.Parallel()
	s := pairwiseServer(t)
	client, browser := pairwiseClient(t, s, "one.example", nil), s.Browser()
	idToken := signInTo(t, s, browser, client, "https://one.example/callback", "openid").Text("id_token")
	page := s.Get(t.Context(), browser, "/logout?"+url.Values{"id_token_hint": {idToken}, "post_logout_redirect_uri": {"https://one.example/bye"}}.Encode())
	if !strings.Contains(page.Body, `id="named"`) {
		t.Error("the page does not know whom the hint is about")
	}
	back := s.Post(t.Context(), browser, "/logout", url.Values{"csrf": {page.Hidden("csrf")}, "request": {page.Hidden("request")}})
	if got := back.Header.Get("Location"); got != "https://one.example/bye" {
		t.Errorf("%d %q %s", back.Status, got, back.Body)
	}
}

func TestSectorIdentifier(t *testing.T) {
	t.Parallel()
	documents := providertest.NewDocuments(t)
	s := openServer(t, func(c *provider.Config) {
		c.Pairwise = true
		documents.Reachable(c)
	})
	redirects := []string{"https://a.example/cb", "https://b.example/cb"}
	sector := documents.PutJSON("/sector", append(redirects, "https://c.example/cb"))
	register := func(changes jsonObject) *providertest.Reply {
		t.Helper()
		body := jsonObject{"redirect_uris": redirects, "subject_type": "pairwise", "sector_identifier_uri": sector}
		for name, value := range changes {
			body[name] = value
		}
		return sendJSON(t.Context(), t, s, http.MethodPost, "/register", "", body)
	}
	for name, changes := range map[string]jsonObject{
		"a list without one of the redirect URIs": {"redirect_uris": append(redirects, "https://evil.example/cb")},
		"the same for a public client":            {"redirect_uris": []string{"https://evil.example/cb"}, "subject_type": "public"},
		"nothing there":                           {"sector_identifier_uri": documents.URL + "/nothing"},
		"something else there":                    {"sector_identifier_uri": documents.PutJSON("/object", jsonObject{"redirect_uris": redirects})},
		"another media type":                      {"sector_identifier_uri": documents.Put("/text", "text/plain", `["https://a.example/cb","https://b.example/cb"]`)},
		"an address of http":                      {"sector_identifier_uri": strings.Replace(sector, "https", "http", 1)},
	} {
		if reply := register(changes); reply.Status != http.StatusBadRequest || reply.Text("error") != "invalid_client_metadata" {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Body)
		}
	}
	client := register(nil)
	if client.Status != http.StatusCreated || client.Text("sector_identifier_uri") != sector || client.Text("subject_type") != "pairwise" {
		t.Fatalf("%d %s", client.Status, client.Body)
	}

	// At each update the list is read again, and neither subjects nor sector change.
	id, token := client.Text("client_id"), client.Text("registration_access_token")
	put := func(changes jsonObject) *providertest.Reply {
		t.Helper()
		body := jsonObject{"client_id": id, "redirect_uris": redirects, "subject_type": "pairwise", "sector_identifier_uri": sector}
		for name, value := range changes {
			body[name] = value
		}
		return sendJSON(t.Context(), t, s, http.MethodPut, "/register/"+id, token, body)
	}
	if reply := put(nil); reply.Status != http.StatusOK {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	for name, changes := range map[string]jsonObject{
		"public subjects": {"subject_type": "public"},
		"another sector":  {"sector_identifier_uri": nil, "redirect_uris": []string{"https://a.example/cb"}},
	} {
		if reply := put(changes); reply.Status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Body)
		}
	}
	documents.PutJSON("/sector", []string{"https://a.example/cb"})
	if reply := put(nil); reply.Status != http.StatusBadRequest {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
}

func TestPairwiseIsOffUnlessItIsOn(t *testing.T) {
	t.Parallel()
	s := openServer(t, nil)
	if reply := sendJSON(t.Context(), t, s, http.MethodPost, "/register", "", with(jsonObject{"subject_type": "pairwise"})); reply.Text("error") != "invalid_client_metadata" {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	for server, want := range map[*providertest.Server]int{s: 1, pairwiseServer(t): 2} {
		types, _ := server.Get(t.Context(), server.Client(), "/.well-known/openid-configuration").JSON()["subject_types_supported"].([]any)
		if len(types) != want {
			t.Errorf("%v", types)
		}
	}
}

// claimsIn returns what a JWS says, which the test has got from the server itself.
func claimsIn(t *testing.T, jws string) jsonObject {
	t.Helper()
	parts := strings.Split(jws, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no JWS", jws)
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims jsonObject
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// That nobody has looked is no fault of the client's.
func TestSectorIdentifierWhileTooManyAreRead(t *testing.T) {
	t.Parallel()
	held, release := make(chan struct{}), make(chan struct{})
	sector := hostile.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		held <- struct{}{}
		<-release
		hostile.Document("application/json", []byte(`["https://rp.example/callback"]`)).ServeHTTP(w, r)
	}))
	s := openServer(t, func(c *provider.Config) {
		c.FetchNetworks, c.FetchRoots = hostile.Networks(), hostile.Roots(t)
	})
	register := func() *providertest.Reply {
		return sendJSON(t.Context(), t, s, http.MethodPost, "/register", "", with(jsonObject{"sector_identifier_uri": sector}))
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if reply := register(); reply.Status != http.StatusCreated {
				t.Errorf("%d %s", reply.Status, reply.Body)
			}
		})
		<-held
	}
	if reply := register(); reply.Status != http.StatusServiceUnavailable || reply.Text("error") != "temporarily_unavailable" {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	close(release)
	group.Wait()
}
