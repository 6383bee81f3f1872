package provider_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, issuer string, got []byte) {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, bytes.ReplaceAll(got, []byte(issuer), []byte("https://op.example")), "", "  "); err != nil {
		t.Fatalf("%s is no JSON: %v: %s", name, err, got)
	}
	file := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(file, append(out.Bytes(), '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()+"\n"); diff != "" {
		t.Error(diff)
	}
}

func TestMetadataDocuments(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	for name, path := range map[string]string{
		"openid-configuration": "/.well-known/openid-configuration", "oauth-authorization-server": "/.well-known/oauth-authorization-server",
		"qr-configuration": "/.well-known/qr-configuration",
	} {
		reply := s.Get(t.Context(), s.Client(), path)
		if reply.Status != http.StatusOK || reply.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s", path, reply.Status, reply.Header.Get("Content-Type"))
		}
		// The one URL of another scheme.
		golden(t, name, s.Issuer, []byte(strings.ReplaceAll(reply.Body, "wss"+strings.TrimPrefix(s.Issuer, "https"), "wss://op.example")))
	}
}

func TestMetadataUnderAPath(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Path: "/tenant/a"})
	appended := s.Get(t.Context(), s.Client(), "/.well-known/oauth-authorization-server")
	inserted := s.Get(t.Context(), s.Client(), s.HTTP.URL+"/.well-known/oauth-authorization-server/tenant/a")
	if diff := cmp.Diff(appended.Body, inserted.Body); diff != "" || inserted.Text("issuer") != s.Issuer {
		t.Errorf("%s: %s", inserted.Body, diff)
	}
	if got := inserted.Text("token_endpoint"); got != s.Issuer+"/token" {
		t.Errorf("token_endpoint %q", got)
	}
	if reply := s.Get(t.Context(), s.Client(), s.HTTP.URL+"/jwks"); reply.Status != http.StatusNotFound {
		t.Errorf("a route outside the issuer's path: %d", reply.Status)
	}
}

func TestWrongMethodAndPath(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	for path, allow := range map[string]string{
		"/token": "POST", "/device_authorization": "POST", "/qr/scan": "POST", "/qr/events": "POST", "/qr/ws": "GET", "/login/qr/events": "GET", "/introspect": "POST", "/revoke": "POST",
		"/authorize": "GET, HEAD, POST", "/userinfo": "GET, POST", "/jwks": "GET, HEAD", "/login": "POST", "/consent": "POST", "/logout": "GET, HEAD, POST", "/device": "GET, HEAD, POST",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, s.URL(path), nil)
		if err != nil {
			t.Fatal(err)
		}
		reply := s.Do(s.Client(), req)
		wantError(t, reply, http.StatusMethodNotAllowed, "invalid_request")
		if got := reply.Header.Get("Allow"); got != allow {
			t.Errorf("%s: Allow %q, want %q", path, got, allow)
		}
	}
	for _, path := range []string{"/Q", "/jwks", "/healthz", "/readyz", "/static/style.css", "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server", "/.well-known/qr-configuration"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, s.URL(path), nil)
		if err != nil {
			t.Fatal(err)
		}
		if reply := s.Do(s.Client(), req); reply.Status != http.StatusOK || reply.Body != "" {
			t.Errorf("HEAD %s: %d", path, reply.Status)
		}
	}
	for _, path := range []string{"/", "/nothing", "//token", "/token/", "/q", "/TOKEN"} {
		if reply := s.Get(t.Context(), s.Client(), path); reply.Status != http.StatusNotFound {
			t.Errorf("%s: %d", path, reply.Status)
		}
	}
}

func TestBadBodies(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	const urlencoded = "application/x-www-form-urlencoded"
	for name, c := range map[string]struct {
		media, body string
		status      int
	}{
		"JSON":                   {"application/json", `{"grant_type":"client_credentials"}`, 400},
		"multipart":              {"multipart/form-data; boundary=x", "--x--", 400},
		"no content type":        {"", "grant_type=client_credentials", 400},
		"broken escape":          {urlencoded, "grant_type=%zz", 400},
		"semicolon":              {urlencoded, "grant_type=client_credentials;scope=x", 400},
		"NUL":                    {urlencoded, "grant_type=client_credentials&scope=%00", 400},
		"NUL in a name":          {urlencoded, "grant_type=client_credentials&%00=x", 400},
		"invalid UTF-8":          {urlencoded, "grant_type=client_credentials&scope=%ff", 400},
		"too large":              {urlencoded, "grant_type=client_credentials&x=" + strings.Repeat("x", 64<<10), 413},
		"empty":                  {urlencoded, "", 400},
		"grant_type without one": {urlencoded, "grant_type=", 400},
	} {
		for _, path := range []string{"/token", "/introspect", "/revoke"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL(path), strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if c.media != "" {
				req.Header.Set("Content-Type", c.media)
			}
			req.SetBasicAuth("svc", providertest.ClientSecret)
			t.Run(name+path, func(t *testing.T) {
				wantError(t, s.Do(s.Client(), req), c.status, "invalid_request")
			})
		}
	}
	wantError(t, s.PostAs(t.Context(), "svc", "/token", url.Values{"grant_type": {"client_credentials"}, "resource": {"https://a.example", "https://b.example"}}), http.StatusBadRequest, "invalid_target")
}

func TestClientCredentials(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {"reports:read"}}
	reply := s.PostAs(t.Context(), "svc", "/token", form)
	tokens := tokensOf(t, reply)
	if tokens.Scope != "reports:read" || tokens.RefreshToken != "" || tokens.TokenType != "Bearer" || strings.Contains(reply.Body, "null") {
		t.Errorf("%s", reply.Body)
	}
	// A client's own token is nobody's sign-in.
	wantError(t, s.Bearer(t.Context(), "/userinfo", tokens.AccessToken), http.StatusUnauthorized, "invalid_token")
	got := s.PostAs(t.Context(), "svc", "/introspect", url.Values{"token": {tokens.AccessToken}}).JSON()
	if got["active"] != true || got["sub"] != nil {
		t.Errorf("%v", got)
	}
	form.Set("scope", "reports:read admin")
	wantError(t, s.PostAs(t.Context(), "svc", "/token", form), http.StatusBadRequest, "invalid_scope")
}

func TestUserinfo(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	all := s.SignedIn(t.Context(), browser, "web", "openid profile email address phone").AccessToken
	golden(t, "userinfo", s.Issuer, []byte(s.Bearer(t.Context(), "/userinfo", all).Body))

	few := s.SignedIn(t.Context(), browser, "web", "openid").AccessToken
	if diff := cmp.Diff(map[string]any{"sub": providertest.AliceSubject}, s.Bearer(t.Context(), "/userinfo", few).JSON()); diff != "" {
		t.Error(diff)
	}
	posted := s.Post(t.Context(), s.Client(), "/userinfo", url.Values{"access_token": {few}})
	if posted.Text("sub") != providertest.AliceSubject {
		t.Errorf("by form: %d %s", posted.Status, posted.Body)
	}
	for name, c := range map[string]struct {
		reply     *providertest.Reply
		status    int
		challenge string
	}{
		"no token":        {s.Get(t.Context(), s.Client(), "/userinfo"), 401, `Bearer realm="qrgrant"`},
		"in the query":    {s.Get(t.Context(), s.Client(), "/userinfo?access_token="+few), 401, `Bearer realm="qrgrant"`},
		"garbage":         {s.Bearer(t.Context(), "/userinfo", "x"), 401, `Bearer realm="qrgrant", error="invalid_token", error_description="The access token is not active."`},
		"without openid":  {s.Bearer(t.Context(), "/userinfo", s.SignedIn(t.Context(), browser, "web", "profile").AccessToken), 403, `Bearer realm="qrgrant", error="insufficient_scope", error_description="The token lacks the scope openid.", scope="openid"`},
		"a refresh token": {s.Bearer(t.Context(), "/userinfo", s.SignedIn(t.Context(), browser, "web", "openid offline_access").RefreshToken), 401, `Bearer realm="qrgrant", error="invalid_token", error_description="The access token is not active."`},
	} {
		if c.reply.Status != c.status || c.reply.Header.Get("WWW-Authenticate") != c.challenge {
			t.Errorf("%s: %d %s", name, c.reply.Status, c.reply.Header.Get("WWW-Authenticate"))
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	store, err := bolt.Open(filepath.Join(t.TempDir(), "keys.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	keySet := func() jose.JSONWebKeySet {
		p, err := provider.New(t.Context(), provider.Config{Issuer: "https://op.example", Store: store})
		if err != nil {
			t.Fatal(err)
		}
		// Close waits for the RSA key that is made beside the start.
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		w := newRecorder()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://op.example/jwks", nil)
		if err != nil {
			t.Fatal(err)
		}
		p.ServeHTTP(w, r)
		var set jose.JSONWebKeySet
		if err := json.Unmarshal(w.body.Bytes(), &set); err != nil {
			t.Fatal(err)
		}
		return set
	}
	first, second := keySet(), keySet()
	kinds := map[string]string{}
	for _, k := range first.Keys {
		kinds[k.Algorithm] = k.KeyID
		if !k.IsPublic() || k.KeyID == "" || k.Use != "sig" {
			t.Errorf("key %+v", k)
		}
	}
	if len(kinds) != 3 || kinds["ES256"] == "" || kinds["RS256"] == "" || kinds["EdDSA"] == "" || len(first.Keys) != 3 {
		t.Errorf("keys %v", kinds)
	}
	ids := func(set jose.JSONWebKeySet) map[string]bool {
		m := map[string]bool{}
		for _, k := range set.Keys {
			m[k.KeyID] = true
		}
		return m
	}
	if diff := cmp.Diff(ids(first), ids(second)); diff != "" {
		t.Errorf("a restart made new keys: %s", diff)
	}
}

type recorder struct {
	header http.Header
	body   bytes.Buffer
}

func newRecorder() *recorder                    { return &recorder{header: http.Header{}} }
func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
func (*recorder) WriteHeader(int)               {}

func TestConfigFaultsAreJoined(t *testing.T) {
	t.Parallel()
	for issuer, want := range map[string]string{
		"":                        "absolute URL",
		"https://op.example/":     "trailing slash",
		"https://op.example?x":    "query",
		"https://op.example#":     "fragment",
		"http://op.example":       "must be https",
		"ftp://127.0.0.1":         "must be https",
		"https://a:b@op.example":  "absolute URL",
		"https://op.example/a b":  "escaping",
		"https://op.example/{id}": "escaping",
	} {
		_, err := provider.New(t.Context(), provider.Config{Issuer: issuer, AccessTokenLifetime: -1})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Store is missing") || !strings.Contains(err.Error(), "negative") {
			t.Errorf("%q: %v", issuer, err)
		}
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	for _, path := range []string{"/healthz", "/readyz", "/static/style.css"} {
		if reply := s.Get(t.Context(), s.Client(), path); reply.Status != http.StatusOK {
			t.Errorf("%s: %d %s", path, reply.Status, reply.Body)
		}
	}
}

func TestForwardedAddressesCountOnlyFromTrustedProxies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		proxies   []netip.Prefix
		forwarded string
		want      string
	}{
		"nobody is trusted":        {nil, "203.0.113.9", "127.0.0.1"},
		"the proxy is trusted":     {[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, "203.0.113.9", "203.0.113.9"},
		"a forged hop before it":   {[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, "198.51.100.1, 203.0.113.9", "203.0.113.9"},
		"two proxies":              {[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}, "203.0.113.9, 10.0.0.1", "203.0.113.9"},
		"something that is no hop": {[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, "unknown", "127.0.0.1"},
		"no header behind a proxy": {[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, "", "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opened := &openings{}
			s := providertest.NewServer(t, providertest.Options{
				Wrap:   func(inner storage.Store) storage.Store { opened.Store = inner; return opened },
				Change: func(config *provider.Config) { config.TrustedProxies = c.proxies },
			})
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL("/device_authorization"), strings.NewReader("client_id=tv&scope=openid"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if c.forwarded != "" {
				req.Header.Set("X-Forwarded-For", c.forwarded)
			}
			if reply := s.Do(s.Client(), req); reply.Status != http.StatusOK {
				t.Fatalf("%d %s", reply.Status, reply.Body)
			}
			if opened.address != c.want {
				t.Errorf("address %q, want %q", opened.address, c.want)
			}
		})
	}
}
