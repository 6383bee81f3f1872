package provider_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// ask sends an authorization request of the web client with changes.
func ask(t *testing.T, s *providertest.Server, browser *http.Client, client string, changes ...string) *providertest.Reply {
	t.Helper()
	_, challenge := providertest.Verifier()
	q := providertest.AuthorizeQuery(client, "openid", challenge)
	for i := 0; i < len(changes); i += 2 {
		q.Set(changes[i], changes[i+1])
	}
	return s.Get(t.Context(), browser, "/authorize?"+q.Encode())
}

func isSignIn(r *providertest.Reply) bool { return r.Status == http.StatusOK && r.Hidden("next") != "" }

func errorOf(r *providertest.Reply) string { return r.Location().Query().Get("error") }

func TestSingleSignOnAndPrompts(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	if got := errorOf(ask(t, s, browser, "web", "prompt", "none")); got != "login_required" {
		t.Errorf("prompt=none of a stranger: %q", got)
	}
	first := s.SignedIn(t.Context(), browser, "web", "openid")

	for name, changes := range map[string][]string{
		"no prompt":                    nil,
		"prompt=none":                  {"prompt", "none"},
		"prompt=none with own hint":    {"prompt", "none", "id_token_hint", first.IDToken},
		"max_age that is not over yet": {"max_age", "10000"},
		"unknown parameter":            {"extra", "foobar", "claims", `{"userinfo":{"name":{"essential":true}}}`, "ui_locales", "se", "display", "popup"},
	} {
		if reply := ask(t, s, browser, "web", changes...); reply.Location().Query().Get("code") == "" {
			t.Errorf("%s: no silent code: %d %s", name, reply.Status, reply.Header.Get("Location"))
		}
	}
	s.Clock.Advance(2 * time.Second)
	for name, changes := range map[string][]string{
		"prompt=login":          {"prompt", "login"},
		"prompt=select_account": {"prompt", "select_account"},
		"prompt=login consent":  {"prompt", "login consent"},
		"max_age=1":             {"max_age", "1"},
		"max_age=0":             {"max_age", "0"},
	} {
		if reply := ask(t, s, browser, "web", changes...); !isSignIn(reply) {
			t.Errorf("%s: no sign-in page: %d %s", name, reply.Status, reply.Header.Get("Location"))
		}
	}
	for name, want := range map[string][2][]string{
		"max_age over and prompt=none": {{"prompt", "none", "max_age", "1"}, {"login_required"}},
		"none with another":            {{"prompt", "none login"}, {"invalid_request"}},
		"unknown prompt":               {{"prompt", "dance"}, {"invalid_request"}},
		"negative max_age":             {{"max_age", "-1"}, {"invalid_request"}},
		"forged hint":                  {{"id_token_hint", first.IDToken[:len(first.IDToken)-4] + "AAAA"}, {"invalid_request"}},
		"resource":                     {{"resource", "https://api.example/"}, {"invalid_target"}},
		"unknown scope":                {{"scope", "openid admin"}, {"invalid_scope"}},
		"qr:approve for no approver":   {{"scope", "openid qr:approve"}, {"invalid_scope"}},
		"response_type token":          {{"response_type", "token"}, {"unsupported_response_type"}},
		"no response_type":             {{"response_type", ""}, {"unsupported_response_type"}},
		"response_mode fragment":       {{"response_mode", "fragment"}, {"invalid_request"}},
	} {
		reply := ask(t, s, browser, "web", want[0]...)
		got := reply.Location().Query()
		if diff := cmp.Diff([]string{want[1][0], "state-of-a-test", s.Issuer}, []string{got.Get("error"), got.Get("state"), got.Get("iss")}); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestApproveScopeNeedsAnApprover(t *testing.T) {
	t.Parallel()
	pretender := &storage.Client{ID: "pretender", RedirectURIs: []string{providertest.RedirectURI}, Scopes: []string{"openid", "qr:approve"}}
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{pretender}})
	if got := errorOf(ask(t, s, s.Browser(), "web", "client_id", "pretender", "scope", "openid qr:approve")); got != "invalid_scope" {
		t.Errorf("error %q", got)
	}
}

func TestPromptLoginDoesNotLoop(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	s.SignedIn(t.Context(), browser, "web", "openid")
	for _, changes := range [][]string{{"prompt", "login"}, {"max_age", "0"}} {
		s.Clock.Advance(time.Minute)
		verifier, challenge := providertest.Verifier()
		q := providertest.AuthorizeQuery("web", "openid", challenge)
		q.Set(changes[0], changes[1])
		tokens := tokensOf(t, s.Redeem(t.Context(), "web", s.Code(t.Context(), browser, q), verifier))
		if got := claims(t, tokens.IDToken)["auth_time"]; got != float64(s.Clock.Now().Unix()) {
			t.Errorf("%v: auth_time %v", changes, got)
		}
	}
}

func TestRedirectURI(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{
		{ID: "native", RedirectURIs: []string{"http://127.0.0.1:1/cb", "http://[::1]/cb", "com.example.app:/cb", "https://127.0.0.1/cb", "http://plain.example/cb", "javascript:alert(1)"}, Scopes: []string{"openid"}},
		{ID: "plainweb", SecretHashes: [][32]byte{{1}}, RedirectURIs: []string{"http://127.0.0.1/cb", "https://web.example/cb?dummy=lorem"}, Scopes: []string{"openid"}},
	}})
	browser := s.Browser()
	for sent, want := range map[string]bool{
		"http://127.0.0.1:1/cb":                     true,
		"http://127.0.0.1:51234/cb":                 true,
		"http://127.0.0.1/cb":                       true,
		"http://[::1]:8080/cb":                      true,
		"com.example.app:/cb":                       true,
		"http://127.0.0.1:51234/cb?x=1":             false,
		"http://127.0.0.1:51234/CB":                 false,
		"http://127.0.0.2:51234/cb":                 false,
		"http://localhost:51234/cb":                 false,
		"http://user@127.0.0.1:51234/cb":            false,
		"https://127.0.0.1:51234/cb":                false,
		"http://127.0.0.1:51234/cb#f":               false,
		"http://127.0.0.1.evil.example/cb":          false,
		"http://plain.example/cb":                   false,
		"javascript:alert(1)":                       false,
		"":                                          false,
		"//127.0.0.1/cb":                            false,
		"http://127.0.0.1:1/cb/../cb":               false,
		"http://127.0.0.1:51234@evil.example:80/cb": false,
	} {
		reply := ask(t, s, browser, "native", "redirect_uri", sent, "prompt", "none")
		if got := reply.Status == http.StatusSeeOther; got != want {
			t.Errorf("%q: redirected %v, want %v", sent, got, want)
		}
		if reply.Status != http.StatusSeeOther && (reply.Status != http.StatusBadRequest || !strings.Contains(reply.Body, `id="error-id"`)) {
			t.Errorf("%q: no error page: %d %s", sent, reply.Status, reply.Body)
		}
	}
	// A confidential client knows its address.
	if reply := ask(t, s, browser, "plainweb", "redirect_uri", "http://127.0.0.1:51234/cb", "prompt", "none"); reply.Status != http.StatusBadRequest {
		t.Errorf("a web client got a free port: %d", reply.Status)
	}
	reply := ask(t, s, browser, "plainweb", "redirect_uri", "https://web.example/cb?dummy=lorem", "prompt", "none")
	if got := reply.Location().Query(); got.Get("dummy") != "lorem" || got.Get("error") != "login_required" {
		t.Errorf("the registered query is lost: %s", reply.Header.Get("Location"))
	}
}

func TestUnknownClientGetsAPage(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	for _, id := range []string{"", "nobody", strings.Repeat("x", 5000)} {
		reply := ask(t, s, s.Browser(), "web", "client_id", id)
		if reply.Status != http.StatusBadRequest || reply.Header.Get("Location") != "" || !strings.Contains(reply.Body, `id="error-id"`) {
			t.Errorf("client %.20q: %d %s", id, reply.Status, reply.Header.Get("Location"))
		}
	}
}

func TestAuthorizeByPostComesBackAsGet(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	_, challenge := providertest.Verifier()
	reply := s.Post(t.Context(), s.Browser(), "/authorize", providertest.AuthorizeQuery("web", "openid", challenge))
	if reply.Status != http.StatusSeeOther || !strings.HasPrefix(reply.Header.Get("Location"), "/authorize?") {
		t.Errorf("%d %s", reply.Status, reply.Header.Get("Location"))
	}
}

func TestConsent(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	s.SignedIn(t.Context(), browser, "web", "openid")
	if got := errorOf(ask(t, s, browser, "thirdparty", "prompt", "none")); got != "consent_required" {
		t.Errorf("prompt=none: %q", got)
	}
	page := ask(t, s, browser, "thirdparty", "scope", "openid email")
	if !strings.Contains(page.Body, "Third Party") || !strings.Contains(page.Body, "e-mail address") {
		t.Fatalf("consent page: %s", page.Body)
	}
	form := url.Values{"csrf": {page.Hidden("csrf")}, "request": {page.Hidden("request")}, "decision": {"cancel"}}
	if got := errorOf(s.Post(t.Context(), browser, "/consent", form)); got != "access_denied" {
		t.Errorf("cancel: %q", got)
	}
	form.Del("decision")
	if got := errorOf(s.Post(t.Context(), browser, "/consent", form)); got != "access_denied" {
		t.Errorf("no decision: %q", got)
	}
	form.Set("decision", "allow")
	if reply := s.Post(t.Context(), browser, "/consent", form); reply.Location().Query().Get("code") == "" {
		t.Errorf("allow: %d %s", reply.Status, reply.Body)
	}
	// The sealed request cannot be exchanged for another one.
	form.Set("request", strings.Replace(form.Get("request"), "email", "phone", 1))
	if reply := s.Post(t.Context(), browser, "/consent", form); reply.Status != http.StatusForbidden {
		t.Errorf("changed request: %d", reply.Status)
	}
	// A first-party client asks when it is told to.
	if reply := ask(t, s, browser, "web", "prompt", "consent"); reply.Hidden("request") == "" {
		t.Errorf("prompt=consent of a first-party client: %d", reply.Status)
	}
}
