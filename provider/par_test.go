package provider_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// pushed sends a request to /par as a confidential client and returns what the browser is sent
// with; front are parameters that it brings beside.
func pushed(t *testing.T, s *providertest.Server, clientID string, form url.Values, front ...string) url.Values {
	t.Helper()
	reply := s.PostAs(t.Context(), clientID, "/par", form)
	uri, isText := reply.JSON()["request_uri"].(string)
	if reply.Status != http.StatusCreated || !isText || reply.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v %s", reply.Status, reply.Header, reply.Body)
	}
	q := url.Values{"client_id": {clientID}, "request_uri": {uri}}
	for i := 0; i < len(front); i += 2 {
		q.Add(front[i], front[i+1])
	}
	return q
}

// webRequest is a request of the web client with changes; an empty value leaves a parameter out.
func webRequest(challenge string, changes ...string) url.Values {
	return altered(providertest.AuthorizeQuery("web", "openid", challenge), changes...)
}

func altered(form url.Values, changes ...string) url.Values {
	for i := 0; i < len(changes); i += 2 {
		form.Set(changes[i], changes[i+1])
		if changes[i+1] == "" {
			form.Del(changes[i])
		}
	}
	return form
}

// wantPast wants the page for a pushed request that is not there any more, and no redirect.
func wantPast(t *testing.T, what string, reply *providertest.Reply) {
	t.Helper()
	if reply.Status != http.StatusBadRequest || reply.Header.Get("Location") != "" || !strings.Contains(reply.Body, "invalid_request_uri") || !strings.Contains(reply.Body, `id="error-id"`) {
		t.Errorf("%s: %d %s %s", what, reply.Status, reply.Header.Get("Location"), reply.Body)
	}
}

func TestPushedRequest(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	verifier, challenge := providertest.Verifier()
	reply := s.PostAs(t.Context(), "web", "/par", webRequest(challenge, "nonce", "pushed-nonce", "client_id", ""))
	name, ok := strings.CutPrefix(reply.Text("request_uri"), "urn:ietf:params:oauth:request_uri:")
	if reply.Status != http.StatusCreated || !ok || len(name) != 43 || reply.JSON()["expires_in"] != 300.0 || len(reply.JSON()) != 2 {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	q := url.Values{"client_id": {"web"}, "request_uri": {reply.Text("request_uri")}}
	browser := s.Browser()
	// Looking does not use it up.
	for range 2 {
		if page := s.Get(t.Context(), browser, "/authorize?"+q.Encode()); !isSignIn(page) {
			t.Fatalf("%d %s", page.Status, page.Body)
		}
	}
	redirect := s.Code(t.Context(), browser, q)
	if diff := cmp.Diff([]string{"state-of-a-test", s.Issuer}, []string{redirect.Location().Query().Get("state"), redirect.Location().Query().Get("iss")}); diff != "" {
		t.Error(diff)
	}
	tokens := tokensOf(t, s.Redeem(t.Context(), "web", redirect, verifier))
	if got := claims(t, tokens.IDToken)["nonce"]; got != "pushed-nonce" {
		t.Errorf("nonce %v", got)
	}
	wantPast(t, "used", s.Get(t.Context(), browser, "/authorize?"+q.Encode()))
}

// Nothing that the browser brings beside the request_uri counts (RFC 9126 §4), not even a fault.
func TestPushedRequestIgnoresTheFrontChannel(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	verifier, challenge := providertest.Verifier()
	_, foreign := providertest.Verifier()
	for name, front := range map[string][]string{
		"nonce":          {"nonce", "of the front"},
		"prompt":         {"prompt", "none"},
		"max_age":        {"max_age", "x"},
		"code_challenge": {"code_challenge", foreign, "code_challenge_method", "S256"},
		"redirect_uri":   {"redirect_uri", "https://evil.example/"},
		"scope":          {"scope", "openid email"},
		"state":          {"state", "of the front"},
		"response_mode":  {"response_mode", "form_post", "response_type", "token"},
		"resource":       {"resource", "https://evil.example/"},
		"dpop_jkt":       {"dpop_jkt", foreign},
		"request":        {"request", "a.b.c"},
		"sent twice":     {"state", "a", "state", "b", "redirect_uri", "c", "redirect_uri", "d"},
	} {
		redirect := s.Code(t.Context(), browser, pushed(t, s, "web", webRequest(challenge, "nonce", "pushed"), front...))
		if got := redirect.Location(); !strings.HasPrefix(got.String(), providertest.RedirectURI+"?") || got.Query().Get("state") != "state-of-a-test" {
			t.Errorf("%s: %d %s", name, redirect.Status, got)
			continue
		}
		tokens := tokensOf(t, s.Redeem(t.Context(), "web", redirect, verifier))
		if claims(t, tokens.IDToken)["nonce"] != "pushed" || strings.Contains(tokens.Scope, "email") {
			t.Errorf("%s: %v, scope %q", name, claims(t, tokens.IDToken), tokens.Scope)
		}
	}
	// What was pushed counts: nobody is there for a request without pages.
	q := pushed(t, s, "web", webRequest(challenge, "prompt", "none", "response_mode", "form_post"), "prompt", "login", "response_mode", "query")
	page := s.Get(t.Context(), s.Browser(), "/authorize?"+q.Encode())
	if page.Status != http.StatusOK || page.Hidden("error") != "login_required" || page.Hidden("state") != "state-of-a-test" {
		t.Errorf("%d %s", page.Status, page.Body)
	}
}

func TestPushedRequestIsJudgedWhenItIsPushed(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	_, challenge := providertest.Verifier()
	for name, row := range map[string]struct {
		changes []string
		want    string
	}{
		"no redirect_uri":             {[]string{"redirect_uri", "", "scope", "profile"}, "invalid_request"},
		"another redirect_uri":        {[]string{"redirect_uri", "https://evil.example/"}, "invalid_request"},
		"a request_uri":               {[]string{"request_uri", "urn:ietf:params:oauth:request_uri:x"}, "invalid_request"},
		"another client_id":           {[]string{"client_id", "thirdparty"}, "invalid_request"},
		"no challenge":                {[]string{"code_challenge", "", "code_challenge_method", ""}, "invalid_request"},
		"a plain challenge":           {[]string{"code_challenge_method", "plain"}, "invalid_request"},
		"a malformed challenge":       {[]string{"code_challenge", "short"}, "invalid_request"},
		"another scope":               {[]string{"scope", "openid admin"}, "invalid_scope"},
		"a resource of nobody's":      {[]string{"resource", "https://api.example/"}, "invalid_target"},
		"a malformed dpop_jkt":        {[]string{"dpop_jkt", strings.Repeat("=", 43)}, "invalid_request"},
		"a short dpop_jkt":            {[]string{"dpop_jkt", "x"}, "invalid_request"},
		"a long nonce":                {[]string{"nonce", strings.Repeat("n", 2000)}, "invalid_request"},
		"an unknown prompt":           {[]string{"prompt", "dance"}, "invalid_request"},
		"a malformed max_age":         {[]string{"max_age", "-1"}, "invalid_request"},
		"malformed claims":            {[]string{"claims", "[]"}, "invalid_request"},
		"a forged hint":               {[]string{"id_token_hint", "a.b.c"}, "invalid_request"},
		"a response_type that is off": {[]string{"response_type", "code id_token"}, "unsupported_response_type"},
		"no response_type":            {[]string{"response_type", ""}, "unsupported_response_type"},
		"a response_mode":             {[]string{"response_mode", "fragment"}, "invalid_request"},
		"a request object":            {[]string{"request", "a.b.c"}, "request_not_supported"},
		"a registration":              {[]string{"registration", "{}"}, "registration_not_supported"},
		"more than is kept":           {[]string{"state", strings.Repeat("s", 20000)}, "invalid_request"},
	} {
		reply := s.PostAs(t.Context(), "web", "/par", webRequest(challenge, row.changes...))
		if reply.Status != http.StatusBadRequest {
			t.Errorf("%s: %d", name, reply.Status)
		}
		wantError(t, reply, http.StatusBadRequest, row.want)
	}
	form := webRequest(challenge)
	wantError(t, s.Post(t.Context(), s.Client(), "/par", form), http.StatusUnauthorized, "invalid_client")
	form["nonce"] = []string{"a", "b"}
	wantError(t, s.PostAs(t.Context(), "web", "/par", form), http.StatusBadRequest, "invalid_request")
	wantError(t, s.PostAs(t.Context(), "svc", "/par", altered(webRequest(challenge), "client_id", "svc", "scope", "reports:read")), http.StatusBadRequest, "invalid_request")
	if reply := s.Get(t.Context(), s.Client(), "/par"); reply.Status != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", reply.Status)
	}
}

func TestPushedRequestOfNobodyHere(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	_, challenge := providertest.Verifier()
	q := pushed(t, s, "web", webRequest(challenge))
	for name, changes := range map[string][]string{
		"unknown":           {"request_uri", "urn:ietf:params:oauth:request_uri:" + strings.Repeat("A", 43)},
		"of another client": {"client_id", "thirdparty"},
		"nothing":           {"request_uri", "urn:ietf:params:oauth:request_uri:"},
	} {
		query, err := url.ParseQuery(q.Encode())
		if err != nil {
			t.Fatal(err)
		}
		// A redirect URI of the client's own changes nothing.
		query.Set("redirect_uri", providertest.RedirectURI)
		wantPast(t, name, s.Get(t.Context(), s.Browser(), "/authorize?"+altered(query, changes...).Encode()))
	}
	if reply := s.Get(t.Context(), s.Browser(), "/authorize?"+q.Encode()+"&request_uri=urn%3Aietf%3Aparams%3Aoauth%3Arequest_uri%3Ax"); reply.Status != http.StatusBadRequest {
		t.Errorf("two of them: %d", reply.Status)
	}
}

// It expires on its way to the first page. How long the person takes then is bounded by the pages.
func TestPushedRequestExpires(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	_, challenge := providertest.Verifier()
	browser := s.Browser()
	request := func() url.Values {
		return pushed(t, s, "thirdparty", altered(providertest.AuthorizeQuery("thirdparty", "openid", challenge)))
	}
	q, late := request(), request()
	s.Clock.Advance(5*time.Minute - time.Nanosecond)
	page := s.Get(t.Context(), browser, "/authorize?"+q.Encode())
	if !isSignIn(page) {
		t.Fatalf("in time: %d %s", page.Status, page.Body)
	}
	s.Clock.Advance(time.Nanosecond)
	wantPast(t, "at its end", s.Get(t.Context(), s.Browser(), "/authorize?"+late.Encode()))
	// The page vouches for it, and the next page then.
	s.Clock.Advance(59 * time.Minute)
	if _, err := s.Provider.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	consent := s.SignIn(t.Context(), browser, page)
	if consent.Hidden("request") == "" {
		t.Fatalf("%d %s", consent.Status, consent.Body)
	}
	s.Clock.Advance(9 * time.Minute)
	allow := url.Values{"csrf": {consent.Hidden("csrf")}, "request": {consent.Hidden("request")}, "decision": {"allow"}}
	if reply := s.Post(t.Context(), browser, "/consent", allow); reply.Location().Query().Get("code") == "" {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	// Whoever opens the address again is late, and nobody has a page to show.
	wantPast(t, "opened again", s.Get(t.Context(), s.Browser(), "/authorize?"+q.Encode()))
}

// A page that is kept open for longer than any page may be finds the request gone.
func TestPushedRequestIsForgotten(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	_, challenge := providertest.Verifier()
	q := pushed(t, s, "shop", providertest.AuthorizeQuery("shop", "openid", challenge))
	b := &tab{t: t, s: s, browser: s.Browser(), clientID: "shop", query: q}
	b.load()
	// New codes for the same request keep the page alive, but not the request.
	for range 5 {
		s.Clock.Advance(15 * time.Minute)
		if reply := b.press("new"); reply.Status != http.StatusSeeOther {
			wantPast(t, "after its retention", reply)
			return
		}
		b.load()
	}
	t.Errorf("the request never went: %d %s", b.page.Status, b.page.Body)
}

// Of browsers that come with the same request at once one is answered.
func TestPushedRequestIsAnsweredOnce(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	const racing = 8
	browsers := make([]*http.Client, racing)
	for i := range browsers {
		browsers[i] = s.Browser()
		s.SignedIn(t.Context(), browsers[i], "web", "openid")
	}
	for range 5 {
		_, challenge := providertest.Verifier()
		q := pushed(t, s, "web", webRequest(challenge))
		replies := make([]*providertest.Reply, racing)
		var group sync.WaitGroup
		for i := range replies {
			group.Go(func() { replies[i] = s.Get(t.Context(), browsers[i], "/authorize?"+q.Encode()) })
		}
		group.Wait()
		codes := 0
		for _, reply := range replies {
			if reply.Location().Query().Get("code") != "" {
				codes++
				continue
			}
			wantPast(t, "the loser", reply)
		}
		if codes != 1 {
			t.Fatalf("%d codes", codes)
		}
	}
}

// A no of the person is an answer too.
func TestPushedRequestEndsWithARefusal(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	_, challenge := providertest.Verifier()
	browser := s.Browser()
	s.SignedIn(t.Context(), browser, "web", "openid")
	q := pushed(t, s, "thirdparty", providertest.AuthorizeQuery("thirdparty", "openid", challenge))
	page := s.Get(t.Context(), browser, "/authorize?"+q.Encode())
	form := url.Values{"csrf": {page.Hidden("csrf")}, "request": {page.Hidden("request")}, "decision": {"cancel"}}
	if reply := s.Post(t.Context(), browser, "/consent", form); errorOf(reply) != "access_denied" {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	form.Set("decision", "allow")
	wantPast(t, "a yes after the no", s.Post(t.Context(), browser, "/consent", form))
	wantPast(t, "opened again", s.Get(t.Context(), browser, "/authorize?"+q.Encode()))
}

// What a client authenticates with is never stored (fosite stores all of the form).
func TestPushedRequestKeepsNoCredentials(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "par.db")
	store, err := bolt.Open(file, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	key := providertest.NewClientKey(t, "ES256", "k1")
	signer := keyClient(t, "signer", key)
	s := providertest.NewServer(t, providertest.Options{Store: store, Clients: []*storage.Client{signer}})
	_, challenge := providertest.Verifier()
	form := webRequest(challenge, "state", "state-that-is-stored", "client_secret", providertest.ClientSecret, "unknown", "parameter-of-nobody")
	if reply := s.Post(t.Context(), s.Client(), "/par", form); reply.Status != http.StatusCreated {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	assertion := s.Assertion(key, "signer", nil)
	reply := s.Post(t.Context(), s.Client(), "/par", providertest.AssertionForm(altered(providertest.AuthorizeQuery("signer", "openid", challenge), "state", "state-of-the-signer"), assertion))
	if reply.Status != http.StatusCreated {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	name := strings.TrimPrefix(reply.Text("request_uri"), "urn:ietf:params:oauth:request_uri:")
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"state-that-is-stored": true, "state-of-the-signer": true,
		providertest.ClientSecret: false, "client_secret": false, "client_assertion": false, assertion: false, "parameter-of-nobody": false, name: false,
	} {
		if bytes.Contains(raw, []byte(text)) != want {
			t.Errorf("%.60q in the file: want %v", text, want)
		}
	}
}

// The hosted door: the QR code, its picture, "New code" and the answer go by the pushed request,
// and the QR code vouches for it when the page is loaded again after its end.
func TestPushedRequestThroughTheHostedDoor(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	verifier, challenge := providertest.Verifier()
	q := pushed(t, s, "shop", providertest.AuthorizeQuery("shop", "openid profile", challenge))
	b := &tab{t: t, s: s, browser: s.Browser(), clientID: "shop", query: q, verifier: verifier}
	b.load()
	first := b.flow()
	s.Clock.Advance(4*time.Minute + 30*time.Second)
	if reply := b.press("new"); reply.Status != http.StatusSeeOther {
		t.Fatalf("new: %d %s", reply.Status, reply.Body)
	}
	s.Clock.Advance(time.Minute)
	b.load() // beyond the five minutes
	if b.flow() == "" || b.flow() == first || b.status() != "pending" {
		t.Fatalf("%q after %q: %d %s", b.flow(), first, b.page.Status, b.page.Body)
	}
	wantPast(t, "another browser", s.Get(t.Context(), s.Browser(), "/authorize?"+q.Encode()))
	if frame := s.Get(t.Context(), b.browser, b.attribute("data-state")); frame.Status != http.StatusOK {
		t.Errorf("state: %d", frame.Status)
	}
	p := newPhone(t, s)
	tokens := b.signedIn(p)
	if claims(t, tokens.IDToken)["sub"] != providertest.AliceSubject {
		t.Errorf("%v", claims(t, tokens.IDToken))
	}
	wantPast(t, "used", s.Get(t.Context(), b.browser, "/authorize?"+q.Encode()))
}

func TestRequirePAR(t *testing.T) {
	t.Parallel()
	client := opClients()[0]
	client.RequirePAR = true
	o := newOP(t, "query", []*storage.Client{client}, nil)
	if got := o.refusal(); got != "invalid_request" {
		t.Errorf("a request that was not pushed: %q", got)
	}
	o.wantErrorPage(o.ask("redirect_uri", "https://evil.example/"))
	if reply := o.Code(t.Context(), o.browser, pushed(t, o.Server, "rp", o.request())); reply.Location().Query().Get("code") == "" {
		t.Errorf("pushed: %d %s", reply.Status, reply.Body)
	}
}

// A public client pushes too; it proves as little as at the token endpoint.
func TestPublicClientPushes(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	_, challenge := providertest.Verifier()
	reply := s.Post(t.Context(), s.Client(), "/par", providertest.AuthorizeQuery("phone", "openid", challenge))
	if reply.Status != http.StatusCreated {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	q := url.Values{"client_id": {"phone"}, "request_uri": {reply.Text("request_uri")}}
	if redirect := s.Code(t.Context(), s.Browser(), q); redirect.Location().Query().Get("code") == "" {
		t.Errorf("%d %s", redirect.Status, redirect.Body)
	}
}

// The code is bound to the key that dpop_jkt names, or that proves itself at /par (RFC 9449 §10).
func TestCodeIsBoundToAKey(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	p, other := newProver(t, s), newProver(t, s)
	browser := s.Browser()
	par := func(form url.Values, proof string) *providertest.Reply {
		return send(t, s, http.MethodPost, "/par", form.Encode(), http.Header{
			"Authorization": {basic("web", providertest.ClientSecret)}, "Dpop": {proof}, "Content-Type": {"application/x-www-form-urlencoded"},
		})
	}
	verifier, challenge := providertest.Verifier()
	reply := par(webRequest(challenge, "dpop_jkt", other.jkt()), p.proof(http.MethodPost, "/par", ""))
	wantError(t, reply, http.StatusBadRequest, "invalid_dpop_proof")
	wantError(t, par(webRequest(challenge), p.proof(http.MethodPost, "/token", "")), http.StatusBadRequest, "invalid_dpop_proof")

	for name, query := range map[string]func() url.Values{
		"dpop_jkt":        func() url.Values { return webRequest(challenge, "dpop_jkt", p.jkt()) },
		"dpop_jkt pushed": func() url.Values { return pushed(t, s, "web", webRequest(challenge, "dpop_jkt", p.jkt())) },
		"a proof at /par": func() url.Values { return uriOf(t, par(webRequest(challenge), p.proof(http.MethodPost, "/par", ""))) },
		"both, and the same": func() url.Values {
			return uriOf(t, par(webRequest(challenge, "dpop_jkt", p.jkt()), p.proof(http.MethodPost, "/par", "")))
		},
	} {
		redeem := func(as *prover) *providertest.Reply {
			form := url.Values{
				"grant_type": {"authorization_code"}, "redirect_uri": {providertest.RedirectURI}, "code_verifier": {verifier},
				"code": {s.Code(t.Context(), browser, query()).Location().Query().Get("code")},
			}
			if as == nil {
				return s.PostAs(t.Context(), "web", "/token", form)
			}
			return as.token("web", form)
		}
		if reply := redeem(nil); reply.Status != http.StatusBadRequest {
			t.Errorf("%s, without a proof: %d %s", name, reply.Status, reply.Body)
		}
		if reply := redeem(other); reply.Status != http.StatusBadRequest {
			t.Errorf("%s, with another key: %d %s", name, reply.Status, reply.Body)
		}
		if reply := redeem(p); reply.Status != http.StatusOK || reply.Text("token_type") != "DPoP" {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Body)
		}
	}
	if got := errorOf(ask(t, s, browser, "web", "dpop_jkt", "short")); got != "invalid_request" {
		t.Errorf("a malformed dpop_jkt: %q", got)
	}
}

func uriOf(t *testing.T, reply *providertest.Reply) url.Values {
	t.Helper()
	if reply.Status != http.StatusCreated {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	return url.Values{"client_id": {"web"}, "request_uri": {reply.Text("request_uri")}}
}

// The resources that a request names are the audience of what comes of it, and the person is told.
func TestResourcesOfARequest(t *testing.T) {
	t.Parallel()
	client := opClients()[0]
	client.Resources = []string{"https://api.example/one", "https://api.example/<two>"}
	o := newOP(t, "query", []*storage.Client{client}, nil)
	request := o.request("prompt", "consent")
	request["resource"] = []string{"https://api.example/one", "https://api.example/<two>", o.Issuer}
	for name, query := range map[string]url.Values{"sent": request, "pushed": pushed(t, o.Server, "rp", request)} {
		browser := o.Browser()
		page := o.SignIn(t.Context(), browser, o.Get(t.Context(), browser, "/authorize?"+query.Encode()))
		if !strings.Contains(page.Body, "https://api.example/one<") || !strings.Contains(page.Body, "https://api.example/&lt;two&gt;<") || strings.Contains(page.Body, "<code>"+o.Issuer) {
			t.Errorf("%s: %s", name, page.Body)
		}
		page = o.Post(t.Context(), browser, "/consent", url.Values{"csrf": {page.Hidden("csrf")}, "request": {page.Hidden("request")}, "decision": {"allow"}})
		tokens, _ := o.checked("rp", "a-nonce", o.redeem("rp", page.Location().Query()))
		answer := o.PostAs(t.Context(), "rp", "/introspect", url.Values{"token": {tokens.AccessToken}}).JSON()
		if diff := cmp.Diff([]any{"https://api.example/one", "https://api.example/<two>", o.Issuer}, answer["aud"]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for _, resource := range []string{"https://evil.example/", "https://api.example/one/", "not a resource", "https://api.example/one#f"} {
		if got := o.refusal("resource", resource); got != "invalid_target" {
			t.Errorf("%s: %q", resource, got)
		}
	}
}

// What the client registered stands where the request says nothing.
func TestDefaultMaxAge(t *testing.T) {
	t.Parallel()
	hour := int64(3600)
	client := opClients()[0]
	client.DefaultMaxAge, client.DefaultACRValues = &hour, []string{"urn:example:gold"}
	o := newOP(t, "query", []*storage.Client{client}, nil)
	o.tokens()
	o.Clock.Advance(time.Hour)
	o.silent()
	o.Clock.Advance(time.Second)
	if !isSignIn(o.ask()) {
		t.Error("the sign-in was not too old")
	}
	if got := o.refusal("prompt", "none"); got != "login_required" {
		t.Errorf("prompt=none: %q", got)
	}
	o.silent("max_age", "3602")
	o.silent("max_age", "3602", "acr_values", "urn:example:silver")
}

// FuzzPushedRequest pushes any form: the answer is JSON, and what is taken leads to a page or to
// the registered redirect URI.
func FuzzPushedRequest(f *testing.F) {
	good := providertest.AuthorizeQuery("web", "openid", strings.Repeat("a", 43)).Encode()
	for _, body := range []string{
		"", good, good + "&prompt=none", good + "&request_uri=x", good + "&request=a.b.c", good + "&resource=x&resource=y", good + "&state=%00",
		good + "&response_mode=form_post&prompt=none", good + "&dpop_jkt=" + strings.Repeat("b", 43), "client_id=web&redirect_uri=https://evil.example", "%",
		good + "&ui_locales=zh&claims=%7B%7D&max_age=0",
	} {
		f.Add(body)
	}
	s := providertest.NewServer(f, providertest.Options{Change: func(c *provider.Config) { c.RequestObjects, c.Hybrid, c.Implicit = true, true, true }})
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, s.Issuer+"/par", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.SetBasicAuth("web", providertest.ClientSecret)
		w := httptest.NewRecorder()
		s.Provider.ServeHTTP(w, r)
		reply := &providertest.Reply{Status: w.Code, Body: w.Body.String()}
		if w.Code >= 500 || reply.JSON() == nil || (w.Code == http.StatusCreated) == (reply.Text("error") != "") {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if w.Code != http.StatusCreated {
			return
		}
		q := url.Values{"client_id": {"web"}, "request_uri": {reply.Text("request_uri")}}
		w = httptest.NewRecorder()
		s.Provider.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, s.Issuer+"/authorize?"+q.Encode(), nil))
		to := w.Header().Get("Location")
		if w.Code != http.StatusOK && (w.Code != http.StatusSeeOther || !strings.HasPrefix(to, providertest.RedirectURI)) {
			t.Fatalf("what was taken is refused: %d %s %s", w.Code, to, w.Body)
		}
	})
}

// Script of a public client may push, and read the answer.
func TestScriptPushes(t *testing.T) {
	t.Parallel()
	s := corsServer(t)
	_, challenge := providertest.Verifier()
	form := altered(providertest.AuthorizeQuery("spa", "openid", challenge), "redirect_uri", "https://SPA.example:443/callback")
	reply := fromOrigin(t, s, http.MethodPost, "/par", otherOrigin, form, nil)
	if reply.Status != http.StatusCreated || reply.Header.Get("Access-Control-Allow-Origin") != otherOrigin {
		t.Errorf("%d %v %s", reply.Status, reply.Header, reply.Body)
	}
}

// Whoever comes with a used request is told before anybody signs in for it.
func TestPushedRequestThatWasUsed(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	_, challenge := providertest.Verifier()
	q := pushed(t, s, "web", webRequest(challenge))
	if redirect := s.Code(t.Context(), s.Browser(), q); redirect.Location().Query().Get("code") == "" {
		t.Fatalf("%d %s", redirect.Status, redirect.Body)
	}
	wantPast(t, "a stranger", s.Get(t.Context(), s.Browser(), "/authorize?"+q.Encode()))
}
