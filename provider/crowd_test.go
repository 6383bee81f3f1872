package provider_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// crowded is a server behind a proxy whose X-Forwarded-For counts.
func crowded(t *testing.T, o providertest.Options, change func(*provider.Config)) *providertest.Server {
	t.Helper()
	o.Change = func(c *provider.Config) {
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
		if change != nil {
			change(c)
		}
	}
	return providertest.NewServer(t, o)
}

// from sends a GET or, with a form, a POST from a network address.
func from(t *testing.T, s *providertest.Server, address, path string, form url.Values, header ...string) *providertest.Reply {
	t.Helper()
	method := http.MethodGet
	if form != nil {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL(path), strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Forwarded-For", address)
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return s.Do(s.Client(), req)
}

const busyNetwork, otherNetwork = "192.0.2.1", "203.0.113.1"

// Nobody has to be signed in, or to have a secret, to leave a request here.
func TestANetworkCannotHaveAnyNumberOfRequestsStored(t *testing.T) {
	t.Parallel()
	s := crowded(t, providertest.Options{}, func(c *provider.Config) { c.Registration.Open = true })
	_, challenge := providertest.Verifier()
	public := providertest.AuthorizeQuery("phone", "openid", challenge)
	for n := range 120 {
		if reply := from(t, s, busyNetwork, "/par", public); reply.Status != http.StatusCreated {
			t.Fatalf("number %d: %d %s", n, reply.Status, reply.Body)
		}
	}
	reply := from(t, s, busyNetwork, "/par", public)
	if reply.Status != http.StatusTooManyRequests || reply.Header.Get("Retry-After") != "1" || reply.Text("error") != "temporarily_unavailable" {
		t.Errorf("%d %v %s", reply.Status, reply.Header, reply.Body)
	}
	// Everybody may register for a secret.
	client := registered(t, s, with(nil))
	form := url.Values{
		"client_id": {client.Text("client_id")}, "client_secret": {client.Text("client_secret")}, "response_type": {"code"},
		"redirect_uri": {"https://rp.example/callback"}, "scope": {"openid"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"},
	}
	basic := "Basic " + basicOf(client.Text("client_id"), client.Text("client_secret"))
	form.Del("client_secret")
	if reply := from(t, s, busyNetwork, "/par", form, "Authorization", basic); reply.Status != http.StatusTooManyRequests {
		t.Errorf("a client of anybody: %d %s", reply.Status, reply.Body)
	}
	// One whose secret the operator gave it speaks for everybody behind it.
	if reply := from(t, s, busyNetwork, "/par", webRequest(challenge), "Authorization", "Basic "+basicOf("web", providertest.ClientSecret)); reply.Status != http.StatusCreated {
		t.Errorf("a client of the operator: %d %s", reply.Status, reply.Body)
	}
	if reply := from(t, s, otherNetwork, "/par", public); reply.Status != http.StatusCreated {
		t.Errorf("another network: %d %s", reply.Status, reply.Body)
	}
	s.Clock.Advance(time.Second)
	if reply := from(t, s, busyNetwork, "/par", public); reply.Status != http.StatusCreated {
		t.Errorf("a second later: %d %s", reply.Status, reply.Body)
	}
}

func basicOf(id, secret string) string {
	req := &http.Request{Header: make(http.Header)}
	req.SetBasicAuth(id, secret)
	return strings.TrimPrefix(req.Header.Get("Authorization"), "Basic ")
}

func TestANetworkCannotHaveUsReadAnyNumberOfRequestObjects(t *testing.T) {
	t.Parallel()
	published := providertest.NewDocuments(t)
	client := keyClient(t, "signer", providertest.NewClientKey(t, jose.ES256, "k1"))
	client.RequestURIs = []string{published.Put("/ro", "application/oauth-authz-req+jwt", "a.b.c")}
	s := crowded(t, providertest.Options{Clients: []*storage.Client{client}}, func(c *provider.Config) {
		c.RequestURIs = true
		published.Reachable(c)
	})
	query := url.Values{"client_id": {"signer"}, "request_uri": client.RequestURIs, "redirect_uri": {providertest.RedirectURI}}
	ask := func(address string) string {
		return errorOf(from(t, s, address, "/authorize?"+query.Encode(), nil))
	}
	for n := range 120 {
		if got := ask(busyNetwork); got != "invalid_request_object" {
			t.Fatalf("number %d: %s", n, got)
		}
	}
	if got := ask(busyNetwork); got != "temporarily_unavailable" || published.Reads("/ro") != 120 {
		t.Errorf("%s, %d reads", got, published.Reads("/ro"))
	}
	if got := ask(otherNetwork); got != "invalid_request_object" {
		t.Errorf("another network: %s", got)
	}
}

// A page that was left open does not bring back what its client has taken down.
func TestARequestObjectThatWasTakenDown(t *testing.T) {
	t.Parallel()
	o := newObjects(t, jose.ES256, nil)
	object := o.signed(map[string]any{"exp": nil})
	o.published.Put("/ro", "application/jwt", object)
	sum := sha256.Sum256([]byte(object))
	query := url.Values{
		"client_id": {"signer"}, "request_uri": {o.published.URL + "/ro#1"}, "redirect_uri": {providertest.RedirectURI},
		"request_hash": {base64.RawURLEncoding.EncodeToString(sum[:])},
	}
	ask := func() *providertest.Reply { return o.Get(t.Context(), o.Browser(), "/authorize?"+query.Encode()) }
	if reply := ask(); !isSignIn(reply) {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	o.published.Put("/ro", "application/jwt", "a.b.c")
	if reply := ask(); !isSignIn(reply) {
		t.Errorf("for the pages in between: %d %s", reply.Status, reply.Body)
	}
	o.Clock.Advance(70 * time.Minute)
	if got := errorOf(ask()); got != "invalid_request_uri" {
		t.Errorf("after that: %s", got)
	}
}

// All clients are read where their origins are listed: what anybody may store there is short.
func TestRegistrationIsShort(t *testing.T) {
	t.Parallel()
	s := openServer(t, nil)
	uris := func(n int) (uris []string) {
		for i := range n {
			uris = append(uris, fmt.Sprintf("https://rp.example/%d/%s", i, strings.Repeat("c", 1900)))
		}
		return uris
	}
	client := registered(t, s, with(jsonObject{"redirect_uris": uris(8)}))
	long := with(jsonObject{"redirect_uris": uris(9)})
	reply := sendJSON(t.Context(), t, s, http.MethodPost, "/register", "", long)
	if reply.Status != http.StatusBadRequest || reply.Text("error") != "invalid_client_metadata" {
		t.Errorf("%d %s", reply.Status, reply.Text("error"))
	}
	long["client_id"] = client.Text("client_id")
	reply = sendJSON(t.Context(), t, s, http.MethodPut, "/register/"+client.Text("client_id"), client.Text("registration_access_token"), long)
	if reply.Status != http.StatusBadRequest || reply.Text("error") != "invalid_client_metadata" {
		t.Errorf("%d %s", reply.Status, reply.Text("error"))
	}
}

func TestChangesOfRegistrationsCountAsRegistrations(t *testing.T) {
	t.Parallel()
	s := openServer(t, nil)
	client := registered(t, s, with(nil))
	change := func() *providertest.Reply {
		body := with(jsonObject{"client_id": client.Text("client_id")})
		return sendJSON(t.Context(), t, s, http.MethodPut, "/register/"+client.Text("client_id"), client.Text("registration_access_token"), body)
	}
	for range 59 {
		if reply := change(); reply.Status != http.StatusOK {
			t.Fatalf("%d %s", reply.Status, reply.Body)
		}
	}
	if reply := change(); reply.Status != http.StatusTooManyRequests || reply.Header.Get("Retry-After") != "1" {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	s.Clock.Advance(time.Second)
	if reply := change(); reply.Status != http.StatusOK {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
}
