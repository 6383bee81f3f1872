package provider_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/internal/hostile"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

const typRequestObject = "oauth-authz-req+jwt"

// keyClient is a client of our own that signs with keys it registered by value.
func keyClient(tb testing.TB, id string, keys ...*providertest.ClientKey) *storage.Client {
	tb.Helper()
	set, err := json.Marshal(providertest.JWKS(keys...))
	if err != nil {
		tb.Fatal(err)
	}
	return &storage.Client{
		ID: id, Name: "Signing Party", AuthMethod: storage.AuthPrivateKeyJWT, JWKS: set, RedirectURIs: []string{providertest.RedirectURI},
		GrantTypes: []string{"authorization_code", "refresh_token"}, Scopes: []string{"openid", "profile", "email", "offline_access"}, FirstParty: true,
	}
}

// objects is a provider that takes request objects, a client that signs them and where it may
// publish them.
type objects struct {
	*providertest.Server
	t         *testing.T
	key       *providertest.ClientKey
	published *providertest.Documents
	verifier  string
	challenge string
}

func newObjects(t *testing.T, alg jose.SignatureAlgorithm, change func(*storage.Client)) *objects {
	t.Helper()
	o := &objects{t: t, key: providertest.NewClientKey(t, alg, "k1"), published: providertest.NewDocuments(t)}
	client := keyClient(t, "signer", o.key)
	client.RequestURIs = []string{o.published.URL + "/ro#1", o.published.URL + "/missing", o.published.URL + "/plain", strings.Replace(o.published.URL, "https:", "http:", 1) + "/ro"}
	client.AuthAlg = string(alg)
	if change != nil {
		change(client)
	}
	o.Server = providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{client, keyClient(t, "other", o.key)}, Change: func(c *provider.Config) {
		c.RequestObjects, c.RequestURIs = true, true
		o.published.Reachable(c)
	}})
	o.verifier, o.challenge = providertest.Verifier()
	return o
}

// claims are those of a good request object; changes replace them, nil leaves one out.
func (o *objects) claims(changes map[string]any) map[string]any {
	now := o.Clock.Now()
	all := map[string]any{
		"iss": "signer", "aud": o.Issuer, "client_id": "signer", "response_type": "code", "redirect_uri": providertest.RedirectURI,
		"scope": "openid", "state": "signed-state", "nonce": "signed-nonce", "code_challenge": o.challenge, "code_challenge_method": "S256",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Minute).Unix(), "jti": "an-id",
	}
	maps.Copy(all, changes)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	return all
}

func (o *objects) signed(changes map[string]any) string {
	o.t.Helper()
	return o.key.Sign(o.t, typRequestObject, o.claims(changes))
}

// by is a request by value; front are parameters beside it.
func (o *objects) by(object string, front ...string) url.Values {
	return altered(url.Values{"client_id": {"signer"}, "request": {object}}, front...)
}

// redeemed runs a request to its end and returns the claims of its ID token.
func (o *objects) redeemed(what string, query url.Values) map[string]any {
	o.t.Helper()
	redirect := o.Code(o.t.Context(), o.Browser(), query)
	to := redirect.Location()
	if !strings.HasPrefix(to.String(), providertest.RedirectURI+"?") || to.Query().Get("state") != "signed-state" || to.Query().Get("code") == "" {
		o.t.Errorf("%s: %d %s %s", what, redirect.Status, to, redirect.Body)
		return nil
	}
	reply := o.PostSigned(o.t.Context(), o.key, "signer", "/token", url.Values{
		"grant_type": {"authorization_code"}, "code": {to.Query().Get("code")}, "redirect_uri": {providertest.RedirectURI}, "code_verifier": {o.verifier},
	})
	return claims(o.t, tokensOf(o.t, reply).IDToken)
}

func TestRequestObject(t *testing.T) {
	t.Parallel()
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.PS256, jose.EdDSA, jose.RS256} {
		t.Run(string(alg), func(t *testing.T) {
			t.Parallel()
			o := newObjects(t, alg, nil)
			for name, query := range map[string]url.Values{
				"as it is":                  o.by(o.signed(nil)),
				"what OAuth 2.0 wants too":  o.by(o.signed(nil), "response_type", "code", "scope", "openid"),
				"all of it ignored":         o.by(o.signed(nil), "state", "front", "nonce", "front", "prompt", "none", "max_age", "x", "redirect_uri", "https://evil.example/", "scope", "admin"),
				"of several audiences":      o.by(o.signed(map[string]any{"aud": []string{"https://other.example", o.Issuer}})),
				"with typ JWT":              o.by(o.key.Sign(t, "JWT", o.claims(nil))),
				"with the whole media type": o.by(o.key.Sign(t, "application/oauth-authz-req+jwt", o.claims(nil))),
				"without typ":               o.by(o.key.Sign(t, "", o.claims(nil))),
				"numbers and objects":       o.by(o.signed(map[string]any{"max_age": 3600, "claims": map[string]any{"id_token": map[string]any{"email": nil}}})),
				"nobody knows these":        o.by(o.signed(map[string]any{"extra": map[string]any{"a": 1}, "display": "popup"})),
				"an hour ahead":             o.by(o.signed(map[string]any{"exp": o.Clock.Now().Add(time.Hour).Unix()})),
				"a clock that is fast":      o.by(o.signed(map[string]any{"iat": o.Clock.Now().Add(10 * time.Second).Unix(), "nbf": o.Clock.Now().Add(10 * time.Second).Unix()})),
			} {
				got := o.redeemed(name, query)
				if got["nonce"] != "signed-nonce" || (name == "numbers and objects") != (got["email"] == "alice@example.org") {
					t.Errorf("%s: %v", name, got)
				}
			}
		})
	}
}

// A max_age of an object is a number and counts as one (fosite garbles it).
func TestRequestObjectMaxAge(t *testing.T) {
	t.Parallel()
	o := newObjects(t, jose.ES256, nil)
	browser := o.Browser()
	o.Code(t.Context(), browser, o.by(o.signed(nil)))
	o.Clock.Advance(30 * time.Second)
	if reply := o.Get(t.Context(), browser, "/authorize?"+o.by(o.signed(map[string]any{"max_age": 30})).Encode()); reply.Location().Query().Get("code") == "" {
		t.Errorf("young enough: %d %s", reply.Status, reply.Body)
	}
	o.Clock.Advance(time.Second)
	if reply := o.Get(t.Context(), browser, "/authorize?"+o.by(o.signed(map[string]any{"max_age": 30})).Encode()); !isSignIn(reply) {
		t.Errorf("too old: %d %s", reply.Status, reply.Header.Get("Location"))
	}
}

// malformed are objects that nobody follows; the values are signed by the key unless they say
// otherwise.
func (o *objects) malformed() map[string]string {
	now := o.Clock.Now()
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	good := o.signed(nil)
	parts := strings.Split(good, ".")
	encode := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	payload, err := json.Marshal(o.claims(nil))
	if err != nil {
		o.t.Fatal(err)
	}
	stranger := providertest.NewClientKey(o.t, o.key.Algorithm, "k1")
	all := map[string]string{
		"no JWS":                     "abc",
		"three empty parts":          "..",
		"unsigned":                   encode(`{"alg":"none"}`) + "." + encode(string(payload)) + ".",
		"unsigned in capitals":       encode(`{"alg":"NONE","typ":"JWT"}`) + "." + encode(string(payload)) + ".",
		"without its signature":      parts[0] + "." + parts[1] + ".",
		"another payload":            parts[0] + "." + encode(strings.Replace(string(payload), `"openid"`, `"openid email"`, 1)) + "." + parts[2],
		"by a stranger":              stranger.Sign(o.t, typRequestObject, o.claims(nil)),
		"an ID token's audience":     o.signed(map[string]any{"aud": "signer"}),
		"the typ of an assertion":    o.key.Sign(o.t, "client-authentication+jwt", o.claims(nil)),
		"the typ of a logout token":  o.key.Sign(o.t, "logout+jwt", o.claims(nil)),
		"the typ of an access token": o.key.Sign(o.t, "at+jwt", o.claims(nil)),
		"the typ of a proof":         o.key.Sign(o.t, "dpop+jwt", o.claims(nil)),
		"a client's assertion":       o.Assertion(o.key, "signer", nil),
		"an assertion with more":     o.signed(map[string]any{"sub": "signer"}),
		"an HMAC with the public key": func() string {
			signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(strings.Repeat("k", 64))}, nil)
			if err != nil {
				o.t.Fatal(err)
			}
			jws, err := signer.Sign(payload)
			if err != nil {
				o.t.Fatal(err)
			}
			compact, err := jws.CompactSerialize()
			if err != nil {
				o.t.Fatal(err)
			}
			return compact
		}(),
	}
	for name, changes := range map[string]map[string]any{
		"no iss":                     {"iss": nil},
		"the iss of another":         {"iss": "other"},
		"no aud":                     {"aud": nil},
		"the aud of another":         {"aud": "https://other.example"},
		"the aud of our endpoint":    {"aud": o.Issuer + "/authorize"},
		"an empty list as aud":       {"aud": []string{}},
		"a list of no texts as aud":  {"aud": []any{o.Issuer, 1}},
		"no client_id":               {"client_id": nil},
		"the client_id of another":   {"client_id": "other"},
		"another object in it":       {"request": "a.b.c"},
		"another address in it":      {"request_uri": "https://web.example/ro"},
		"no exp":                     {"exp": nil},
		"exp is now":                 {"exp": at(0)},
		"exp is over":                {"exp": at(-time.Second)},
		"exp is too far ahead":       {"exp": at(time.Hour + time.Second)},
		"exp is a text":              {"exp": "tomorrow"},
		"exp is beyond all time":     {"exp": 1e300},
		"exp is negative":            {"exp": -1},
		"not good yet":               {"nbf": at(time.Minute)},
		"made in the future":         {"iat": at(time.Minute)},
		"iat is an object":           {"iat": map[string]any{}},
		"scope is a list":            {"scope": []string{"openid"}},
		"state is a number":          {"state": 1},
		"nonce is true":              {"nonce": true},
		"claims is a text":           {"claims": "{}"},
		"claims is a list":           {"claims": []any{}},
		"max_age is a fraction":      {"max_age": 1.5},
		"max_age is negative":        {"max_age": -1},
		"max_age is a list":          {"max_age": []int{1}},
		"resource is a number":       {"resource": 1},
		"redirect_uri is an object":  {"redirect_uri": map[string]any{}},
		"response_type is a list":    {"response_type": []string{"code"}},
		"code_challenge is a number": {"code_challenge": 1},
		"state has a NUL in it":      {"state": "a\x00b"},
	} {
		all[name] = o.signed(changes)
	}
	return all
}

func TestRequestObjectRefusals(t *testing.T) {
	t.Parallel()
	o := newObjects(t, jose.ES256, nil)
	browser := o.Browser()
	for name, object := range o.malformed() {
		// Where the request beside it says a good way back, the client hears of it.
		reply := o.Get(t.Context(), browser, "/authorize?"+o.by(object, "redirect_uri", providertest.RedirectURI, "state", "front", "scope", "openid", "response_type", "code").Encode())
		got := reply.Location().Query()
		if diff := cmp.Diff([]string{"invalid_request_object", "front", o.Issuer}, []string{got.Get("error"), got.Get("state"), got.Get("iss")}); diff != "" {
			t.Errorf("%s: %d %s %s", name, reply.Status, diff, reply.Header.Get("Location"))
		}
		// Otherwise nobody but the person does.
		reply = o.Get(t.Context(), browser, "/authorize?"+o.by(object, "redirect_uri", "https://evil.example/").Encode())
		if reply.Status != http.StatusBadRequest || !strings.Contains(reply.Body, "invalid_request_object") {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Header.Get("Location"))
		}
		// At /par the answer is JSON.
		form := url.Values{"request": {object}}
		wantError(t, o.PostSigned(t.Context(), o.key, "signer", "/par", altered(form, "client_id", "signer")), http.StatusBadRequest, "invalid_request_object")
	}
	for name, row := range map[string]struct {
		query url.Values
		want  string
	}{
		"another response_type beside it":    {o.by(o.signed(nil), "response_type", "code id_token"), "invalid_request_object"},
		"by value and by reference":          {o.by(o.signed(nil), "request_uri", o.published.URL+"/ro#1"), "invalid_request"},
		"what is signed is judged":           {o.by(o.signed(map[string]any{"scope": "openid admin"})), "invalid_scope"},
		"a challenge must be in it":          {o.by(o.signed(map[string]any{"code_challenge": nil, "code_challenge_method": nil}), "code_challenge", o.challenge, "code_challenge_method", "S256"), "invalid_request"},
		"a registration in it":               {o.by(o.signed(map[string]any{"registration": map[string]any{}})), "registration_not_supported"},
		"a resource in it":                   {o.by(o.signed(map[string]any{"resource": []string{"https://evil.example/"}})), "invalid_target"},
		"no response_type in it, one beside": {o.by(o.signed(map[string]any{"response_type": nil})), "unsupported_response_type"},
	} {
		if !row.query.Has("redirect_uri") {
			row.query.Set("redirect_uri", providertest.RedirectURI)
			row.query.Set("scope", "openid")
		}
		if got := errorOf(o.Get(t.Context(), browser, "/authorize?"+row.query.Encode())); got != row.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	// Another client's object is not this one's, though the key is the same.
	query := o.by(o.signed(nil), "client_id", "other")
	if got := errorOf(o.Get(t.Context(), browser, "/authorize?"+query.Encode())); got != "invalid_request_object" {
		t.Errorf("of another client: %q", got)
	}
}

// A member that stands twice could be read in two ways.
func TestRequestObjectSaysNothingTwice(t *testing.T) {
	t.Parallel()
	o := newObjects(t, jose.ES256, nil)
	payload, err := json.Marshal(o.claims(nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string]string{
		"twice":  strings.TrimSuffix(string(payload), "}") + `,"scope":"openid email"}`,
		"more":   string(payload) + "{}",
		"null":   "null",
		"a list": "[" + string(payload) + "]",
	} {
		object := o.key.SignBytes(t, typRequestObject, []byte(raw))
		if got := errorOf(o.Get(t.Context(), o.Browser(), "/authorize?"+o.by(object).Encode())); got != "invalid_request_object" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// The pages in between go on after the end of the object; it is judged when it comes.
func TestRequestObjectIsJudgedWhenItComes(t *testing.T) {
	t.Parallel()
	o := newObjects(t, jose.ES256, func(c *storage.Client) { c.FirstParty = false })
	browser := o.Browser()
	query := o.by(o.signed(nil))
	page := o.Get(t.Context(), browser, "/authorize?"+query.Encode())
	o.Clock.Advance(30 * time.Minute)
	consent := o.SignIn(t.Context(), browser, page)
	o.Clock.Advance(9 * time.Minute)
	reply := o.Post(t.Context(), browser, "/consent", url.Values{"csrf": {consent.Hidden("csrf")}, "request": {consent.Hidden("request")}, "decision": {"allow"}})
	if reply.Location().Query().Get("code") == "" {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	if got := errorOf(o.Get(t.Context(), browser, "/authorize?"+query.Encode())); got != "invalid_request_object" {
		t.Errorf("again: %q", got)
	}
}

func TestRequestObjectByReference(t *testing.T) {
	t.Parallel()
	o := newObjects(t, jose.RS256, func(c *storage.Client) { c.FirstParty = false })
	uri := o.published.URL + "/ro#1"
	query := url.Values{"client_id": {"signer"}, "request_uri": {uri}, "response_type": {"code"}, "scope": {"openid"}, "state": {"front"}}
	for _, media := range []string{"application/oauth-authz-req+jwt", "application/jwt"} {
		// The certification suite's has no exp: whoever published it can take it down.
		o.published.Put("/ro", media, o.signed(map[string]any{"exp": nil, "nbf": nil, "iat": nil, "jti": nil}))
		if got := o.redeemed(media, query); got["nonce"] != "signed-nonce" {
			t.Errorf("%s: %v", media, got)
		}
	}
	// An object that is made anew for whoever asks: the pages go on with the one they began with.
	browser := o.Browser()
	o.published.Put("/ro", "application/jwt", o.signed(map[string]any{"prompt": "consent"}))
	page := o.Get(t.Context(), browser, "/authorize?"+query.Encode())
	o.published.Put("/ro", "application/jwt", o.signed(map[string]any{"prompt": "consent", "scope": "openid email"}))
	consent := o.SignIn(t.Context(), browser, page)
	if consent.Hidden("request") == "" || strings.Contains(consent.Body, "e-mail") {
		t.Errorf("another object than at the beginning: %d %s", consent.Status, consent.Body)
	}
	reads := o.published.Reads("/ro")
	reply := o.Post(t.Context(), browser, "/consent", url.Values{"csrf": {consent.Hidden("csrf")}, "request": {consent.Hidden("request")}, "decision": {"allow"}})
	if reply.Location().Query().Get("code") == "" || o.published.Reads("/ro") != reads {
		t.Errorf("%d %s, read %d times more", reply.Status, reply.Body, o.published.Reads("/ro")-reads)
	}
	// Whoever begins now is asked about the new one.
	if page := o.Get(t.Context(), browser, "/authorize?"+query.Encode()); !strings.Contains(page.Body, "e-mail") {
		t.Errorf("the new object: %d %s", page.Status, page.Body)
	}
}

// Where it is not kept any more, as in another process, the page's object must still be the one at the address:
// nobody is asked about one and answers another.
func TestRequestObjectThatChanges(t *testing.T) {
	t.Parallel()
	o := newObjects(t, jose.ES256, func(c *storage.Client) { c.FirstParty = false })
	o.published.Put("/ro", "application/jwt", o.signed(nil))
	query := url.Values{"client_id": {"signer"}, "request_uri": {o.published.URL + "/ro#1"}}
	browser := o.Browser()
	consent := o.SignIn(t.Context(), browser, o.Get(t.Context(), browser, "/authorize?"+query.Encode()))
	form := url.Values{"csrf": {consent.Hidden("csrf")}, "request": {consent.Hidden("request")}, "decision": {"allow"}}
	// Others come in between, until it is forgotten here.
	o.Clock.Advance(time.Second)
	for i := range 64 {
		o.published.Put("/ro", "application/jwt", o.signed(map[string]any{"jti": i}))
		o.Get(t.Context(), o.Client(), "/authorize?"+query.Encode())
	}
	o.published.Put("/ro", "application/jwt", o.signed(map[string]any{"scope": "openid email"}))
	if got := errorOf(o.Post(t.Context(), browser, "/consent", form)); got != "invalid_request_uri" {
		t.Errorf("swapped: %q", got)
	}
	o.published.Put("/ro", "application/jwt", o.signed(nil)+"\n")
	if got := errorOf(o.Post(t.Context(), browser, "/consent", form)); got != "invalid_request_uri" {
		t.Errorf("signed anew: %q", got) // ECDSA never signs twice alike
	}
}

func TestRequestObjectAddresses(t *testing.T) {
	t.Parallel()
	o := newObjects(t, jose.ES256, nil)
	o.published.Put("/ro", "application/jwt", o.signed(nil))
	o.published.Put("/plain", "text/plain", o.signed(nil))
	for name, uri := range map[string]string{
		"without its fragment":    o.published.URL + "/ro",
		"another fragment":        o.published.URL + "/ro#2",
		"more than its fragment":  o.published.URL + "/ro#1x",
		"nobody's":                "https://evil.example/ro",
		"nothing is there":        o.published.URL + "/missing",
		"another media type":      o.published.URL + "/plain",
		"plain http":              strings.Replace(o.published.URL, "https:", "http:", 1) + "/ro",
		"a name of no pushed one": "urn:ietf:params:oauth:request:x",
	} {
		query := url.Values{"client_id": {"signer"}, "request_uri": {uri}, "redirect_uri": {providertest.RedirectURI}, "scope": {"openid"}}
		if got := errorOf(o.Get(t.Context(), o.Browser(), "/authorize?"+query.Encode())); got != "invalid_request_uri" {
			t.Errorf("%s: %q", name, got)
		}
		query.Del("redirect_uri") // with openid, nothing stands for it
		if reply := o.Get(t.Context(), o.Browser(), "/authorize?"+query.Encode()); reply.Status != http.StatusBadRequest || reply.Header.Get("Location") != "" {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Header.Get("Location"))
		}
	}
	o.published.Put("/ro", "application/jwt", o.signed(nil)+strings.Repeat(" ", 64<<10))
	query := url.Values{"client_id": {"signer"}, "request_uri": {o.published.URL + "/ro#1"}}
	if got := errorOf(o.Get(t.Context(), o.Browser(), "/authorize?"+query.Encode())); got != "invalid_request_uri" {
		t.Errorf("too large: %q", got)
	}
}

func TestRequireRequestObject(t *testing.T) {
	t.Parallel()
	o := newObjects(t, jose.ES256, func(c *storage.Client) { c.RequireRequestObject, c.RequestObjectAlg = true, "ES256" })
	plain := altered(providertest.AuthorizeQuery("signer", "openid", o.challenge), "state", "signed-state")
	if got := errorOf(o.Get(t.Context(), o.Browser(), "/authorize?"+plain.Encode())); got != "invalid_request" {
		t.Errorf("unsigned: %q", got)
	}
	wantError(t, o.PostSigned(t.Context(), o.key, "signer", "/par", plain), http.StatusBadRequest, "invalid_request")
	if o.redeemed("signed", o.by(o.signed(nil))) == nil {
		t.Error("signed")
	}
	// One that is pushed stays signed; only what is in it counts.
	form := url.Values{"client_id": {"signer"}, "request": {o.signed(nil)}, "scope": {"admin"}}
	reply := o.PostSigned(t.Context(), o.key, "signer", "/par", form)
	if reply.Status != http.StatusCreated {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	o.Clock.Advance(2 * time.Minute) // the object is over, the pushed request is not
	if o.redeemed("pushed", url.Values{"client_id": {"signer"}, "request_uri": {reply.Text("request_uri")}}) == nil {
		t.Error("pushed")
	}
}

// What was pushed before the client had to sign is refused like anything else that is not signed.
func TestRequireRequestObjectOfWhatIsPushedAlready(t *testing.T) {
	t.Parallel()
	o := newObjects(t, jose.ES256, nil)
	plain := altered(providertest.AuthorizeQuery("signer", "openid", o.challenge), "state", "signed-state")
	names := make(map[string]string)
	for what, form := range map[string]url.Values{"unsigned": plain, "signed": {"client_id": {"signer"}, "request": {o.signed(nil)}}} {
		reply := o.PostSigned(t.Context(), o.key, "signer", "/par", form)
		if names[what] = reply.Text("request_uri"); reply.Status != http.StatusCreated {
			t.Fatalf("%s: %d %s", what, reply.Status, reply.Body)
		}
	}
	client, err := o.Store.Client(t.Context(), "signer")
	if err != nil {
		t.Fatal(err)
	}
	client.RequireRequestObject = true
	if err := o.Store.PutClient(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	query := url.Values{"client_id": {"signer"}, "request_uri": {names["unsigned"]}}
	if got := errorOf(o.Get(t.Context(), o.Browser(), "/authorize?"+query.Encode())); got != "invalid_request" {
		t.Errorf("unsigned: %q", got)
	}
	query.Set("request_uri", names["signed"])
	if o.redeemed("signed", query) == nil {
		t.Error("signed")
	}
}

// Where others have taken the places, the fault is not the client's and is forgotten at once.
func TestRequestObjectsWhenBusy(t *testing.T) {
	t.Parallel()
	held, release := make(chan struct{}), make(chan struct{})
	slow := hostile.Start(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		held <- struct{}{}
		<-release
	}))
	o := newObjects(t, jose.ES256, func(c *storage.Client) {
		c.JWKSURI, c.JWKS = hostile.Start(t, hostile.Document("application/jwk-set+json", c.JWKS))+"/keys", nil
		c.RequestURIs = append(c.RequestURIs, slow+"/ro")
		// The keys of the operator's clients have places of their own.
		c.Source = storage.ClientRegistered
	})
	o.published.Put("/ro", "application/jwt", o.signed(nil))
	ask := func(query url.Values) *providertest.Reply {
		return o.Get(t.Context(), o.Browser(), "/authorize?"+altered(query, "redirect_uri", providertest.RedirectURI, "scope", "openid").Encode())
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() { ask(url.Values{"client_id": {"signer"}, "request_uri": {slow + "/ro"}}) })
		<-held
	}
	waiting := map[string]url.Values{
		"the object": {"client_id": {"signer"}, "request_uri": {o.published.URL + "/ro#1"}},
		"the keys":   o.by(o.signed(nil)),
	}
	for what, query := range waiting {
		if got := errorOf(ask(query)); got != "temporarily_unavailable" {
			t.Errorf("%s: %q", what, got)
		}
	}
	close(release)
	group.Wait()
	for what, query := range waiting {
		if o.redeemed(what, query) == nil {
			t.Error(what)
		}
	}
}

// The algorithm that the client registered is the only one.
func TestRequestObjectAlgorithm(t *testing.T) {
	t.Parallel()
	o := newObjects(t, jose.RS256, func(c *storage.Client) { c.RequestObjectAlg = "PS256" })
	if got := errorOf(o.Get(t.Context(), o.Browser(), "/authorize?"+o.by(o.signed(nil)).Encode())); got != "invalid_request_object" {
		t.Errorf("RS256: %q", got)
	}
}

func TestRequestObjectsAreOff(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change        func(*provider.Config)
		value, byName string
	}{
		"off":          {nil, "request_not_supported", "request_uri_not_supported"},
		"by value":     {func(c *provider.Config) { c.RequestObjects = true }, "invalid_request_object", "request_uri_not_supported"},
		"by reference": {func(c *provider.Config) { c.RequestURIs = true }, "request_not_supported", "invalid_request_uri"},
	} {
		o := newOP(t, "query", opClients(), row.change)
		if diff := cmp.Diff([]string{row.value, row.byName}, []string{o.refusal("request", "a.b.c"), o.refusal("request_uri", "https://web.example/ro")}); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		document := o.Get(t.Context(), o.Client(), "/.well-known/openid-configuration").JSON()
		want := []any{row.value == "invalid_request_object", row.byName == "invalid_request_uri", map[bool]any{true: true}[row.byName == "invalid_request_uri"], []any{"ES256", "PS256", "EdDSA", "RS256", "Ed25519"}}
		got := []any{document["request_parameter_supported"], document["request_uri_parameter_supported"], document["require_request_uri_registration"], document["request_object_signing_alg_values_supported"]}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// FuzzRequestObject signs any payload under any typ: the answer is a page or leads to the
// registered redirect URI.
func FuzzRequestObject(f *testing.F) {
	key := providertest.NewClientKey(f, jose.EdDSA, "k1")
	s := providertest.NewServer(f, providertest.Options{
		Clients: []*storage.Client{keyClient(f, "signer", key)},
		Change:  func(c *provider.Config) { c.RequestObjects, c.Implicit, c.Hybrid = true, true, true },
	})
	now := s.Clock.Now().Unix()
	good := map[string]any{
		"iss": "signer", "aud": "ISSUER", "client_id": "signer", "response_type": "code", "redirect_uri": providertest.RedirectURI, "scope": "openid",
		"code_challenge": strings.Repeat("a", 43), "code_challenge_method": "S256", "exp": now + 60,
	}
	for _, changes := range []map[string]any{
		nil,
		{"max_age": 5},
		{"claims": map[string]any{"id_token": nil}},
		{"resource": []string{"a"}},
		{"exp": 1e18},
		{"prompt": "none"},
		{"response_mode": "form_post"},
		{"redirect_uri": "https://evil.example/"},
		{"redirect_uri": 1},
		{"scope": nil},
		{"aud": []any{"ISSUER", nil}},
	} {
		all := maps.Clone(good)
		maps.Copy(all, changes)
		raw, err := json.Marshal(all)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(typRequestObject, string(raw))
		f.Add("JWT", string(raw)+" ")
	}
	f.Add("", "null")
	f.Add("at+jwt", "{}")
	f.Fuzz(func(t *testing.T, typ, payload string) {
		// The issuer's port is another one each time.
		compact := key.SignBytes(t, typ, []byte(strings.ReplaceAll(payload, "ISSUER", s.Issuer)))
		q := url.Values{"client_id": {"signer"}, "request": {compact}}
		w := httptest.NewRecorder()
		s.Provider.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, s.Issuer+"/authorize?"+q.Encode(), nil))
		to := w.Header().Get("Location")
		switch {
		case w.Code == http.StatusSeeOther && strings.HasPrefix(to, providertest.RedirectURI):
		case (w.Code == http.StatusOK || w.Code == http.StatusBadRequest) && strings.Contains(w.Body.String(), "</html>"):
		default:
			t.Fatalf("%d %s %s", w.Code, to, w.Body)
		}
	})
}
