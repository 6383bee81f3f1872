package provider_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

func TestFosite401HasWWWAuthenticate(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	for _, path := range []string{"/token", "/introspect", "/revoke", "/device_authorization"} {
		form := url.Values{"grant_type": {"client_credentials"}, "token": {"x"}, "client_id": {"svc"}, "client_secret": {"wrong"}}
		reply := s.Post(t.Context(), s.Client(), path, form)
		wantError(t, reply, http.StatusUnauthorized, "invalid_client")
		if got := reply.Header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Basic ") {
			t.Errorf("%s: WWW-Authenticate is %q", path, got)
		}
	}
}

func TestFositeIntrospectionByUserToken(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL("/introspect"), strings.NewReader(url.Values{"token": {tokens.AccessToken}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Authorization", "Bearer "+tokens.AccessToken)
	wantError(t, s.Do(s.Client(), req), http.StatusUnauthorized, "invalid_client")
	// A public client has nothing to show who it is.
	wantError(t, s.Post(t.Context(), s.Client(), "/introspect", url.Values{"client_id": {"phone"}, "token": {tokens.AccessToken}}), http.StatusUnauthorized, "invalid_client")
}

func TestFositeIntrospectionOfForeignTokens(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	for name, form := range map[string]url.Values{
		"of another client": {"token": {tokens.AccessToken}},
		"unknown":           {"token": {"qrg_at_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}},
		"an ID token":       {"token": {tokens.IDToken}},
	} {
		if reply := s.PostAs(t.Context(), "svc", "/introspect", form); reply.Body != `{"active":false}` {
			t.Errorf("%s: %s", name, reply.Body)
		}
	}
	for hint, token := range map[string]string{"access_token": tokens.AccessToken, "refresh_token": tokens.RefreshToken} {
		reply := s.PostAs(t.Context(), "web", "/introspect", url.Values{"token": {token}, "token_type_hint": {"nonsense"}})
		got := reply.JSON()
		if got["active"] != true || got["client_id"] != "web" || got["sub"] != providertest.AliceSubject {
			t.Errorf("%s: %s", hint, reply.Body)
		}
	}
}

func TestFositeIntrospectionOfRefreshToken(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	reply := s.PostAs(t.Context(), "web", "/introspect", url.Values{"token": {tokens.RefreshToken}})
	got := reply.JSON()
	// Its own expiry, and no type that would let a resource server take it for an access token.
	if want := float64(s.Clock.Now().Add(30 * 24 * time.Hour).Unix()); got["exp"] != want || got["token_type"] != nil {
		t.Errorf("%s, want exp %v and no token_type", reply.Body, want)
	}
}

func TestFositeRevocationStorageFailure(t *testing.T) {
	t.Parallel()
	broken := &switchable{}
	s := providertest.NewServer(t, providertest.Options{Wrap: broken.wrap})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	broken.on.Store(true)
	for _, token := range []string{tokens.RefreshToken, tokens.AccessToken} {
		reply := s.PostAs(t.Context(), "web", "/revoke", url.Values{"token": {token}})
		wantError(t, reply, http.StatusServiceUnavailable, "temporarily_unavailable")
		if strings.Contains(reply.Body, "fire") || reply.Header.Get("Retry-After") == "" {
			t.Errorf("answer tells of the inside or when to retry not at all: %s", reply.Body)
		}
	}
}

func TestFositeRevocationClientMismatch(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	tokens := s.SignedIn(t.Context(), s.Browser(), "web", "openid offline_access")
	wantError(t, s.PostAs(t.Context(), "thirdparty", "/revoke", url.Values{"token": {tokens.RefreshToken}}), http.StatusBadRequest, "unauthorized_client")
	tokensOf(t, refresh(t, s, "web", tokens.RefreshToken, nil))
	if reply := s.PostAs(t.Context(), "web", "/revoke", url.Values{"token": {"unknown"}}); reply.Status != http.StatusOK {
		t.Errorf("an unknown token: %d %s", reply.Status, reply.Body)
	}
}

func TestFositeStateShort(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	_, challenge := providertest.Verifier()
	for _, state := range []string{"", "a", "1234567", strings.Repeat("s", 128), "ü &=#"} {
		q := providertest.AuthorizeQuery("web", "openid", challenge)
		q.Set("state", state)
		got := s.Code(t.Context(), browser, q).Location().Query()
		if got.Get("code") == "" || got.Get("state") != state || got.Has("state") != (state != "") {
			t.Errorf("state %q came back as %v", state, got)
		}
	}
}

func TestFositeRequestObjects(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	_, challenge := providertest.Verifier()
	for name, want := range map[string]string{"request": "request_not_supported", "request_uri": "request_uri_not_supported", "registration": "registration_not_supported"} {
		q := providertest.AuthorizeQuery("web", "openid", challenge)
		q.Set(name, "https://web.example/request")
		if got := s.Get(t.Context(), s.Browser(), "/authorize?"+q.Encode()).Location().Query().Get("error"); got != want {
			t.Errorf("%s: error %q, want %q", name, got, want)
		}
	}
}

func TestFositeMixedClientAuthentication(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	form := func(pairs ...string) url.Values {
		v := url.Values{"grant_type": {"client_credentials"}}
		for i := 0; i < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
		return v
	}
	secret := providertest.ClientSecret
	for name, c := range map[string]struct {
		form   url.Values
		header string
		status int
		code   string
	}{
		"basic alone":                       {form(), basic("svc", secret), 200, ""},
		"basic in lower case":               {form(), "basic" + strings.TrimPrefix(basic("svc", secret), "Basic"), 200, ""},
		"basic and the same client_id":      {form("client_id", "svc"), basic("svc", secret), 200, ""},
		"basic and another client_id":       {form("client_id", "web"), basic("svc", secret), 400, "invalid_request"},
		"basic and a secret in the body":    {form("client_secret", secret), basic("svc", secret), 400, "invalid_request"},
		"post alone":                        {form("client_id", "svc", "client_secret", secret), "", 200, ""},
		"wrong secret":                      {form("client_id", "svc", "client_secret", secret+"x"), "", 401, "invalid_client"},
		"no secret":                         {form("client_id", "svc"), "", 401, "invalid_client"},
		"unknown client":                    {form("client_id", "nobody", "client_secret", secret), "", 401, "invalid_client"},
		"unknown client without a secret":   {form("client_id", "nobody"), "", 401, "invalid_client"},
		"no client at all":                  {form(), "", 401, "invalid_client"},
		"a public client with a secret":     {form("client_id", "phone", "client_secret", secret), "", 401, "invalid_client"},
		"a public client has no such grant": {form("client_id", "phone"), "", 400, "unauthorized_client"},
		"another scheme":                    {form("client_id", "svc", "client_secret", secret), "Bearer x", 401, "invalid_client"},
		"basic without a colon":             {form(), "Basic c3Zj", 401, "invalid_client"},
		"basic with broken escapes":         {form(), basic("%zz", secret), 401, "invalid_client"},
		"a client assertion":                {form("client_id", "svc", "client_assertion", "x"), "", 401, "invalid_client"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL("/token"), strings.NewReader(c.form.Encode()))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if c.header != "" {
				req.Header.Set("Authorization", c.header)
			}
			reply := s.Do(s.Client(), req)
			if reply.Status != c.status || reply.Text("error") != c.code {
				t.Errorf("%d %s", reply.Status, reply.Body)
			}
		})
	}
}

func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
}
