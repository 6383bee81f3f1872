package provider_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/internal/hostile"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// keyDocument is a jwks_uri whose answer can be changed.
type keyDocument struct {
	mu    sync.Mutex
	set   []byte
	cache string
	down  bool
	reads atomic.Int64
}

func (d *keyDocument) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.reads.Add(1)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if d.cache != "" {
		w.Header().Set("Cache-Control", d.cache)
	}
	hostile.Document("application/jwk-set+json", d.set).ServeHTTP(w, r)
}

func (d *keyDocument) change(change func(*keyDocument)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

// byReference is a service whose keys are at an address.
func byReference(id, uri string) *storage.Client {
	c := signingClient(id, nil)
	c.JWKSURI = uri
	return c
}

func reachable(tb testing.TB) func(*provider.Config) {
	tb.Helper()
	roots := hostile.Roots(tb)
	return func(c *provider.Config) { c.FetchNetworks, c.FetchRoots = hostile.Networks(), roots }
}

// referring is a provider with one client whose keys are at an address.
type referring struct {
	*providertest.Server
	document *keyDocument
}

func newReferring(t *testing.T, keys ...*assertionKey) *referring {
	t.Helper()
	r := &referring{document: &keyDocument{set: jwksOf(t, keys...)}}
	r.Server = providertest.NewServer(t, providertest.Options{
		Clients: []*storage.Client{byReference("signer", hostile.Start(t, r.document)+"/keys")}, Change: reachable(t),
	})
	return r
}

// expect asks for a token with a key and compares the outcome and how often the keys were read.
func (r *referring) expect(t *testing.T, what string, k *assertionKey, good bool, reads int64) {
	t.Helper()
	reply := r.Post(t.Context(), r.Client(), "/token", asserting(clientCredentials(), k.assertion(t, r.Server, "signer")))
	if (reply.Status == http.StatusOK) != good || !good && reply.Text("error") != "invalid_client" {
		t.Errorf("%s: %d %s", what, reply.Status, reply.Body)
	}
	if got := r.document.reads.Load(); got != reads {
		t.Errorf("%s: read %d times, want %d", what, got, reads)
	}
}

func TestClientKeysByReference(t *testing.T) {
	t.Parallel()
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.PS256, jose.EdDSA} {
		t.Run(string(alg), func(t *testing.T) {
			t.Parallel()
			key := newAssertionKey(t, alg, "k")
			r := newReferring(t, key)
			r.expect(t, "the first", key, true, 1)
			r.expect(t, "the second", key, true, 1)
			r.Clock.Advance(10*time.Minute - time.Second)
			r.expect(t, "the last that is fresh", key, true, 1)
			r.Clock.Advance(time.Second)
			r.expect(t, "the first that is not", key, true, 2)
			r.Clock.Advance(time.Minute)
			r.expect(t, "fresh again", key, true, 2)
		})
	}
}

func TestClientKeysRotate(t *testing.T) {
	t.Parallel()
	old, next, foreign := newAssertionKey(t, jose.ES256, "old"), newAssertionKey(t, jose.ES256, "next"), newAssertionKey(t, jose.ES256, "foreign")
	r := newReferring(t, old)
	r.expect(t, "the old key", old, true, 1)
	r.document.change(func(d *keyDocument) { d.set = jwksOf(t, old, next) })
	r.expect(t, "the next key within the minute", next, false, 1)
	r.Clock.Advance(time.Minute)
	r.expect(t, "the next key", next, true, 2)
	r.expect(t, "the old key beside it", old, true, 2)
	// Unknown keys, sent by anybody, make us ask once a minute.
	for range 30 {
		r.expect(t, "a foreign key within the minute", foreign, false, 2)
	}
	r.Clock.Advance(time.Minute)
	for range 30 {
		r.expect(t, "a foreign key", foreign, false, 3)
	}
	// So does a key without an id that does not fit the only one.
	r.document.change(func(d *keyDocument) { d.set = jwksOf(t, next) })
	r.Clock.Advance(time.Minute)
	r.expect(t, "a key without id", &assertionKey{alg: next.alg, private: next.private}, true, 4)
	r.document.change(func(d *keyDocument) { d.set = jwksOf(t, old) })
	r.Clock.Advance(time.Minute)
	r.expect(t, "another key without id", &assertionKey{alg: old.alg, private: old.private}, true, 5)
	r.expect(t, "the key that is gone", next, false, 5)
}

// What a failure leaves: keys that were good stay so for an hour, and nobody is asked in a hurry.
func TestClientKeysAway(t *testing.T) {
	t.Parallel()
	key, next := newAssertionKey(t, jose.ES256, "k"), newAssertionKey(t, jose.ES256, "next")
	r := newReferring(t, key)
	r.document.change(func(d *keyDocument) { d.down = true })
	r.expect(t, "never read", key, false, 1)
	r.Clock.Advance(14 * time.Second)
	r.expect(t, "at once", key, false, 1)
	r.Clock.Advance(time.Second)
	r.expect(t, "a little later", key, false, 2)
	r.document.change(func(d *keyDocument) { d.down = false })
	r.Clock.Advance(15 * time.Second)
	r.expect(t, "read at last", key, true, 3)

	r.document.change(func(d *keyDocument) { d.down = true })
	r.Clock.Advance(10 * time.Minute)
	r.expect(t, "away", key, true, 4)
	r.expect(t, "away still", key, true, 4)
	r.document.change(func(d *keyDocument) { d.down, d.set = false, []byte("no JSON") })
	r.Clock.Advance(49 * time.Minute)
	r.expect(t, "spoilt", key, true, 5)
	r.Clock.Advance(time.Minute + time.Second)
	r.expect(t, "too long", key, false, 6)
	r.document.change(func(d *keyDocument) { d.set = jwksOf(t, next) })
	r.Clock.Advance(time.Minute)
	r.expect(t, "back, with another key", next, true, 7)

	// A set without keys is no failure: its owner has withdrawn them.
	r.document.change(func(d *keyDocument) { d.set = []byte(`{"keys":[]}`) })
	r.Clock.Advance(10 * time.Minute)
	r.expect(t, "withdrawn", next, false, 8)
}

func TestClientKeysCacheControl(t *testing.T) {
	t.Parallel()
	key := newAssertionKey(t, jose.ES256, "k")
	for header, fresh := range map[string]time.Duration{
		"max-age=120":                    2 * time.Minute,
		`public, Max-Age="180"`:          3 * time.Minute,
		"max-age=0":                      time.Minute,
		"no-store":                       time.Minute,
		"private, no-cache, max-age=300": time.Minute,
		"max-age=86400":                  10 * time.Minute,
		"max-age=-1":                     10 * time.Minute,
		"max-age=99999999999999999999":   10 * time.Minute,
		"immutable":                      10 * time.Minute,
	} {
		t.Run(header, func(t *testing.T) {
			t.Parallel()
			r := newReferring(t, key)
			r.document.change(func(d *keyDocument) { d.cache = header })
			r.expect(t, "the first", key, true, 1)
			r.Clock.Advance(fresh - time.Second)
			r.expect(t, "the last that is fresh", key, true, 1)
			r.Clock.Advance(time.Second)
			r.expect(t, "the first that is not", key, true, 2)
		})
	}
}

// arrivals counts how often a client was looked up.
type arrivals struct {
	storage.Store
	count atomic.Int64
	all   int64
	there chan struct{}
}

func (a *arrivals) Client(ctx context.Context, id string) (*storage.Client, error) {
	if a.count.Add(1) == a.all {
		close(a.there)
	}
	return a.Store.Client(ctx, id)
}

// Many who need the same keys at once wait for one of them.
func TestClientKeysOneFlight(t *testing.T) {
	t.Parallel()
	key := newAssertionKey(t, jose.ES256, "k")
	store := &arrivals{all: 20, there: make(chan struct{})}
	document := &keyDocument{set: jwksOf(t, key)}
	uri := hostile.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-store.there
		document.ServeHTTP(w, r)
	}))
	s := providertest.NewServer(t, providertest.Options{
		Clients: []*storage.Client{byReference("signer", uri)}, Change: reachable(t),
		Wrap: func(inner storage.Store) storage.Store { store.Store = inner; return store },
	})
	var group sync.WaitGroup
	for range store.all {
		group.Go(func() {
			grantedTokens(t, s.Post(t.Context(), s.Client(), "/token", asserting(clientCredentials(), key.assertion(t, s, "signer"))))
		})
	}
	group.Wait()
	if got := document.reads.Load(); got != 1 {
		t.Errorf("read %d times", got)
	}
}

// The keys are for all who wait, though the one who asked first hangs up.
func TestClientKeysOutliveTheFirstWhoAsks(t *testing.T) {
	t.Parallel()
	key := newAssertionKey(t, jose.ES256, "k")
	document := &keyDocument{set: jwksOf(t, key)}
	held, release := make(chan struct{}, 1), make(chan struct{})
	uri := hostile.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		held <- struct{}{}
		<-release
		document.ServeHTTP(w, r)
	}))
	store := &askers{asked: make(chan context.Context, 2)}
	s := providertest.NewServer(t, providertest.Options{
		Clients: []*storage.Client{byReference("signer", uri)}, Change: reachable(t),
		Wrap: func(inner storage.Store) storage.Store { store.Store = inner; return store },
	})
	hearing, hangUp := context.WithCancel(t.Context())
	form := asserting(clientCredentials(), key.assertion(t, s, "signer"))
	req, err := http.NewRequestWithContext(hearing, http.MethodPost, s.URL("/token"), strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	gone := make(chan error, 1)
	go func() {
		resp, err := s.Client().Do(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		gone <- err
	}()
	first := <-store.asked
	<-held
	var group sync.WaitGroup
	group.Go(func() {
		grantedTokens(t, s.Post(t.Context(), s.Client(), "/token", asserting(clientCredentials(), key.assertion(t, s, "signer"))))
	})
	<-store.asked
	hangUp()
	<-first.Done()
	close(release)
	group.Wait()
	if err := <-gone; err == nil {
		t.Error("the first was answered")
	}
	if got := document.reads.Load(); got != 1 {
		t.Errorf("read %d times", got)
	}
}

// askers is a store that tells who asks for a client.
type askers struct {
	storage.Store

	asked chan context.Context
}

func (a *askers) Client(ctx context.Context, id string) (*storage.Client, error) {
	a.asked <- ctx
	return a.Store.Client(ctx, id)
}

// Where others have taken the places, the fault is not the client's and is forgotten at once.
func TestClientKeysBusy(t *testing.T) {
	t.Parallel()
	key := newAssertionKey(t, jose.ES256, "k")
	document := &keyDocument{set: jwksOf(t, key)}
	held, release := make(chan struct{}), make(chan struct{})
	slow := hostile.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		held <- struct{}{}
		<-release
		document.ServeHTTP(w, r)
	}))
	clients := []*storage.Client{byReference("signer", hostile.Start(t, document))}
	for i := range 8 {
		clients = append(clients, byReference(fmt.Sprint("slow-", i), fmt.Sprint(slow, "/", i)))
	}
	s := providertest.NewServer(t, providertest.Options{Clients: clients, Change: reachable(t)})
	post := func(id string) *providertest.Reply {
		return s.Post(t.Context(), s.Client(), "/token", asserting(clientCredentials(), key.assertion(t, s, id)))
	}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() { grantedTokens(t, post(fmt.Sprint("slow-", i))) })
		<-held
	}
	refusedWith(t, post("signer"), http.StatusServiceUnavailable, "temporarily_unavailable")
	close(release)
	group.Wait()
	grantedTokens(t, post("signer"))
}

func TestClientKeysFromHostileServers(t *testing.T) {
	t.Parallel()
	key := newAssertionKey(t, jose.ES256, "k")
	set := jwksOf(t, key)
	behaviours := hostile.Behaviours("application/jwk-set+json", set)
	for what, body := range hostile.Bodies() {
		behaviours = append(behaviours, hostile.Behaviour{Sentence: "it sends " + what, Handler: hostile.Document("application/json", body)})
	}
	clients := []*storage.Client{byReference("honest", hostile.Start(t, hostile.Document("application/json", set)))}
	for _, b := range behaviours {
		clients = append(clients, byReference(b.Sentence, hostile.Start(t, b)))
	}
	s := providertest.NewServer(t, providertest.Options{Clients: clients, Change: reachable(t)})
	post := func(t *testing.T, id string) *providertest.Reply {
		t.Helper()
		return s.Post(t.Context(), s.Client(), "/token", asserting(clientCredentials(), key.assertion(t, s, id)))
	}
	for _, b := range behaviours {
		t.Run(b.Sentence, func(t *testing.T) {
			if b.Slow {
				t.Parallel()
			}
			refusedWith(t, post(t, b.Sentence), http.StatusUnauthorized, "invalid_client")
			// Whatever the others do, nobody else waits for it.
			grantedTokens(t, post(t, "honest"))
		})
	}
}

// A private address is not read unless it was opened; the log says why, without the assertion.
func TestClientKeysPrivateAddress(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	key := newAssertionKey(t, jose.ES256, "k")
	document := &keyDocument{set: jwksOf(t, key)}
	uri := hostile.Start(t, document)
	s := providertest.NewServer(t, providertest.Options{
		Clients: []*storage.Client{byReference("signer", uri), byReference("named", strings.Replace(uri, "127.0.0.1", "localhost", 1))},
		Change:  func(c *provider.Config) { c.FetchRoots = hostile.Roots(t) },
		Logger:  slog.New(slog.NewTextHandler(&log, nil)),
	})
	for _, id := range []string{"signer", "named"} {
		compact := key.assertion(t, s, id)
		refusedWith(t, s.Post(t.Context(), s.Client(), "/token", asserting(clientCredentials(), compact)), http.StatusUnauthorized, "invalid_client")
		if strings.Contains(log.String(), compact[:20]) || !strings.Contains(log.String(), "private network") {
			t.Errorf("the log says %q", log.String())
		}
	}
	if document.reads.Load() != 0 {
		t.Error("the address was read")
	}
}

// keySets are JWK sets in which the key that signs cannot be used; refused says that CheckJWKS
// says so too.
func keySets(t *testing.T) map[string]struct {
	set     string
	key     *assertionKey
	refused bool
} {
	t.Helper()
	key, okp, rsaKey := newAssertionKey(t, jose.ES256, "k"), newAssertionKey(t, jose.EdDSA, "k"), newAssertionKey(t, jose.PS256, "k")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	text := func(k any) string {
		raw, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	set := func(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }
	good := text(key.public())
	private := text(jose.JSONWebKey{Key: key.private, KeyID: "k"})
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	with := func(member string) string { return set(strings.Replace(good, `"use":"sig"`, member, 1)) }
	rows := map[string]struct {
		set     string
		key     *assertionKey
		refused bool
	}{
		"a private key":                         {set(private), key, true},
		"a private key beside a good one":       {set(private, text(okp.public())), key, true},
		"a symmetric key":                       {set(`{"kty":"oct","kid":"k","k":"` + strings.Repeat("A", 43) + `"}`), key, true},
		"a key with a private member of nobody": {with(`"d":null`), key, true},
		"an RSA key with a factor":              {set(strings.Replace(text(rsaKey.public()), `"use":"sig"`, `"p":"AQAB"`, 1)), rsaKey, true},
		"a key for encryption":                  {with(`"use":"enc"`), key, true},
		"a key that does not verify":            {with(`"key_ops":["sign","encrypt"]`), key, true},
		"a key without any operation":           {with(`"key_ops":[]`), key, true},
		"a key whose operations are a text":     {with(`"key_ops":"verify"`), key, true},
		"a key that says use twice":             {with(`"use":"sig","use":"sig"`), key, true},
		"a key for another algorithm":           {with(`"alg":"ES384"`), key, false},
		"a key of another kind":                 {set(text(okp.public())), key, false},
		"an RSA key of 1024 bits":               {set(text(jose.JSONWebKey{Key: &weak.PublicKey, KeyID: "k"})), &assertionKey{jose.PS256, "k", weak}, true},
		"an RSA key with an exponent of one":    {set(strings.Replace(text(rsaKey.public()), `"AQAB"`, `"AQ"`, 1)), rsaKey, true},
		"a key of P-521":                        {set(text(jose.JSONWebKey{Key: &p521.PublicKey, KeyID: "k"})), key, true},
		"a point off the curve":                 {set(strings.Replace(good, `"x":"`, `"x":"AA`, 1)), key, true},
		"two keys of one id":                    {set(good, strings.Replace(good, `"use":"sig"`, `"alg":"ES256"`, 1)), key, false},
		"thirty-three keys":                     {set(good, strings.Repeat(`{"kty":"x"},`, 31)+`{"kty":"x"}`), key, true},
		"ten thousand keys":                     {set(good, strings.Repeat("{},", 9998)+"{}"), key, true},
		"keys twice":                            {`{"keys":[],"keys":[` + good + `]}`, key, true},
		"keys in capitals":                      {`{"KEYS":[` + good + `]}`, key, true},
		"no keys":                               {`{"keys":[]}`, key, true},
		"more than 64 KiB":                      {set(good) + strings.Repeat(" ", 64<<10), key, true},
	}
	return rows
}

func TestClientKeysOfWrongKinds(t *testing.T) {
	t.Parallel()
	rows := keySets(t)
	var clients []*storage.Client
	for name, row := range rows {
		clients = append(clients, signingClient("value: "+name, []byte(row.set)), byReference("reference: "+name, hostile.Start(t, hostile.Document("application/json", []byte(row.set)))))
	}
	s := providertest.NewServer(t, providertest.Options{Clients: clients, Change: reachable(t)})
	for name, row := range rows {
		for _, how := range []string{"value: ", "reference: "} {
			reply := s.Post(t.Context(), s.Client(), "/token", asserting(clientCredentials(), row.key.assertion(t, s, how+name)))
			if reply.Status != http.StatusUnauthorized || reply.Text("error") != "invalid_client" {
				t.Errorf("%s%s: %d %s", how, name, reply.Status, reply.Body)
			}
		}
		if err := provider.CheckJWKS([]byte(row.set)); (err != nil) != row.refused {
			t.Errorf("CheckJWKS: %s: %v", name, err)
		}
	}
}

func TestCheckJWKS(t *testing.T) {
	t.Parallel()
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.EdDSA, jose.PS256} {
		if err := provider.CheckJWKS(jwksOf(t, newAssertionKey(t, alg, ""))); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
	good := string(jwksOf(t, newAssertionKey(t, jose.ES256, "k")))
	for name, set := range map[string]string{
		"beside a key of a kind nobody knows": strings.Replace(good, "[", `[{"kty":"XYZ"},`, 1),
		"with operations":                     strings.Replace(good, `"use":"sig"`, `"key_ops":["verify"]`, 1),
		"with more members":                   strings.Replace(good, "{", `{"more":1,`, 1),
	} {
		if err := provider.CheckJWKS([]byte(set)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for what, body := range hostile.Bodies() {
		if provider.CheckJWKS(body) == nil {
			t.Errorf("%s was a JWK set", what)
		}
	}
}

// FuzzJWKS: what is taken holds a public key and nothing that is secret.
func FuzzJWKS(f *testing.F) {
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA, jose.PS256} {
		k := newAssertionKey(f, alg, "k")
		f.Add(jwksOf(f, k))
		private, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: k.private}}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(private)
	}
	for _, body := range hostile.Bodies() {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if provider.CheckJWKS(raw) != nil {
			return
		}
		var set struct {
			Keys []json.RawMessage `json:"keys"`
		}
		if err := json.Unmarshal(raw, &set); err != nil || len(set.Keys) == 0 {
			t.Fatalf("%q: %v", raw, err)
		}
		for _, one := range set.Keys {
			var members map[string]json.RawMessage
			if json.Unmarshal(one, &members) != nil {
				continue
			}
			for _, secret := range []string{"d", "p", "q", "k", "priv"} {
				if members[secret] != nil {
					t.Fatalf("%q has a secret", raw)
				}
			}
		}
	})
}
