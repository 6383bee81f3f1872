package provider_test

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
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
		"response_mode form_post":      {{"response_mode", "form_post"}, {"invalid_request"}},
	} {
		reply := ask(t, s, browser, "web", want[0]...)
		got := reply.Location().Query()
		if diff := cmp.Diff([]string{want[1][0], "state-of-a-test", s.Issuer}, []string{got.Get("error"), got.Get("state"), got.Get("iss")}); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
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

func TestFormsAreBoundToTheirBrowser(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	mine, yours := s.Browser(), s.Browser()
	page := ask(t, s, mine, "web")
	ask(t, s, yours, "web")
	form := url.Values{"csrf": {page.Hidden("csrf")}, "next": {page.Hidden("next")}, "login": {providertest.AliceLogin}, "password": {providertest.AlicePassword}}
	if reply := s.Post(t.Context(), yours, "/login", form); reply.Status != http.StatusForbidden {
		t.Errorf("another browser's form: %d", reply.Status)
	}
	evil := url.Values{"csrf": form["csrf"], "next": {"https://evil.example/"}, "login": form["login"], "password": form["password"]}
	if reply := s.Post(t.Context(), mine, "/login", evil); reply.Status != http.StatusForbidden {
		t.Errorf("changed next: %d %s", reply.Status, reply.Header.Get("Location"))
	}
	s.Clock.Advance(61 * time.Minute)
	if reply := s.Post(t.Context(), mine, "/login", form); reply.Status != http.StatusForbidden {
		t.Errorf("a page of an hour ago: %d", reply.Status)
	}
}

func TestPagesRefuseOtherSites(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	page := ask(t, s, browser, "web")
	form := url.Values{"csrf": {page.Hidden("csrf")}, "next": {page.Hidden("next")}, "login": {providertest.AliceLogin}, "password": {providertest.AlicePassword}}
	for name, header := range map[string][2]string{
		"cross-site fetch": {"Sec-Fetch-Site", "cross-site"},
		"same-site fetch":  {"Sec-Fetch-Site", "same-site"},
		"foreign origin":   {"Origin", "https://evil.example"},
	} {
		for _, path := range []string{"/login", "/consent", "/device", "/logout"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL(path), strings.NewReader(form.Encode()))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.Header.Set(header[0], header[1])
			if reply := s.Do(browser, req); reply.Status != http.StatusForbidden {
				t.Errorf("%s at %s: %d", name, path, reply.Status)
			}
		}
	}
}

func TestSessionCookie(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		s := providertest.NewServer(t, providertest.Options{HTTP: plain})
		browser := s.Browser()
		page := ask(t, s, browser, "web")
		reply := s.SignIn(t.Context(), browser, page)
		cookies := (&http.Response{Header: reply.Header}).Cookies()
		i := slices.IndexFunc(cookies, func(c *http.Cookie) bool { return !strings.HasSuffix(c.Name, "-form") })
		if i < 0 {
			t.Fatalf("no session cookie: %v", reply.Header)
		}
		c := cookies[i]
		name := "__Host-qrgrant"
		if plain {
			name = "qrgrant"
		}
		if c.Name != name || c.Secure == plain || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("cookie %s", c)
		}
		sessions, err := s.Store.SessionsBySubject(t.Context(), providertest.AliceSubject)
		if err != nil || len(sessions) != 1 {
			t.Fatalf("%d sessions, %v", len(sessions), err)
		}
		// The cookie without its secret half is worth nothing.
		forged := s.Browser()
		u, err := url.Parse(s.Issuer)
		if err != nil {
			t.Fatal(err)
		}
		forged.Jar.SetCookies(u, []*http.Cookie{{Name: name, Value: sessions[0].ID + ".AAAA", Secure: !plain, Path: "/"}})
		if reply := ask(t, s, forged, "web"); !isSignIn(reply) {
			t.Errorf("a forged cookie signed in: %d", reply.Status)
		}
	}
}

func TestEachSignInIsANewSession(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	a := claims(t, s.SignedIn(t.Context(), browser, "web", "openid").IDToken)
	verifier, challenge := providertest.Verifier()
	q := providertest.AuthorizeQuery("web", "openid", challenge)
	q.Set("prompt", "login")
	b := claims(t, tokensOf(t, s.Redeem(t.Context(), "web", s.Code(t.Context(), browser, q), verifier)).IDToken)
	if a["sid"] == b["sid"] {
		t.Errorf("sid %v survived a sign-in", a["sid"])
	}
}

func TestSessionEndsWithItsLifetime(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	tokens := s.SignedIn(t.Context(), browser, "web", "openid offline_access")
	s.Clock.Advance(12 * time.Hour)
	if reply := ask(t, s, browser, "web"); !isSignIn(reply) {
		t.Errorf("the cookie outlives its session: %d", reply.Status)
	}
	// Offline access goes on, even after a sweep.
	if _, err := s.Provider.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	tokensOf(t, refresh(t, s, "web", tokens.RefreshToken, nil))
}

func TestWrongPassword(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	page := ask(t, s, browser, "web")
	try := func(login, password string) *providertest.Reply {
		return s.Post(t.Context(), browser, "/login", url.Values{"csrf": {page.Hidden("csrf")}, "next": {page.Hidden("next")}, "login": {login}, "password": {password}})
	}
	unknown, wrong := try("nobody", "x"), try("alice", "x")
	if !isSignIn(unknown) || !isSignIn(wrong) || !strings.Contains(wrong.Body, "sign-in-error") {
		t.Fatalf("%d and %d", unknown.Status, wrong.Status)
	}
	for range 9 {
		try("alice", "x")
	}
	limited := try("alice", providertest.AlicePassword)
	if limited.Status != http.StatusTooManyRequests || limited.Header.Get("Retry-After") == "" {
		t.Errorf("the eleventh try: %d", limited.Status)
	}
	s.Clock.Advance(time.Minute)
	if reply := try("ALICE", providertest.AlicePassword); reply.Location().Query().Get("code") == "" {
		t.Errorf("a minute later: %d %s", reply.Status, reply.Body)
	}
}

func TestManyNamesFromOneAddressAreLimited(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Wrap: func(inner storage.Store) storage.Store { return cheapNobody{inner} }})
	browser := s.Browser()
	page := ask(t, s, browser, "web")
	var last int
	for i := range 31 {
		last = s.Post(t.Context(), browser, "/login", url.Values{
			"csrf": {page.Hidden("csrf")}, "next": {page.Hidden("next")}, "login": {string(rune('a'+i%26)) + "-user-" + string(rune('a'+i/26))}, "password": {"x"},
		}).Status
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("the 31st name: %d", last)
	}
}

// cheapNobody answers for every name, so that the test does not hash thirty times at full cost.
type cheapNobody struct {
	storage.Store
}

func (cheapNobody) UserByLogin(context.Context, string) (*storage.User, error) {
	return providertest.Alice(), nil
}

func TestLogout(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	tokens := s.SignedIn(t.Context(), browser, "web", "openid offline_access")
	page := s.Get(t.Context(), browser, "/device")
	all := strings.Split(page.Body, `name="csrf" value="`)
	if len(all) != 3 {
		t.Fatalf("no sign-out form: %s", page.Body)
	}
	token := all[2][:strings.IndexByte(all[2], '"')]
	if reply := s.Post(t.Context(), browser, "/logout", url.Values{"csrf": {"x"}}); reply.Status != http.StatusForbidden {
		t.Errorf("without its token: %d", reply.Status)
	}
	if reply := s.Post(t.Context(), browser, "/logout", url.Values{"csrf": {token}}); reply.Status != http.StatusOK || !strings.Contains(reply.Body, "signed out") {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	if reply := ask(t, s, browser, "web"); !isSignIn(reply) {
		t.Errorf("still signed in: %d", reply.Status)
	}
	wantError(t, s.Bearer(t.Context(), "/userinfo", tokens.AccessToken), http.StatusUnauthorized, "invalid_token")
	wantError(t, refresh(t, s, "web", tokens.RefreshToken, nil), http.StatusBadRequest, "invalid_grant")
}

func TestPagesAreFramedByNobody(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	for _, path := range []string{"/authorize", "/device", "/Q", "/authorize?client_id=web&response_type=code&scope=openid&redirect_uri=" + url.QueryEscape(providertest.RedirectURI) + "&code_challenge_method=S256&code_challenge=" + strings.Repeat("a", 43)} {
		h := s.Get(t.Context(), s.Browser(), path).Header
		csp := h.Get("Content-Security-Policy")
		if !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: CSP %q", path, csp)
		}
		want := []string{"nosniff", "no-referrer", "no-store", "DENY"}
		if diff := cmp.Diff(want, []string{h.Get("X-Content-Type-Options"), h.Get("Referrer-Policy"), h.Get("Cache-Control"), h.Get("X-Frame-Options")}); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
}

func TestQPageIsInert(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	reply := s.Get(t.Context(), s.Browser(), "/Q")
	if reply.Status != http.StatusOK || strings.Contains(reply.Body, "<script") || reply.Header.Get("Set-Cookie") != "" {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
}

func TestPassword(t *testing.T) {
	t.Parallel()
	hash, err := provider.HashPassword("a password")
	if err != nil {
		t.Fatal(err)
	}
	if !provider.VerifyPassword(hash, "a password") || provider.VerifyPassword(hash, "another") {
		t.Errorf("hash %s does not tell passwords apart", hash)
	}
	for _, broken := range []string{
		"", "x", "$argon2id$", strings.Replace(hash, "argon2id", "argon2i", 1), strings.Replace(hash, "v=19", "v=18", 1),
		strings.Replace(hash, "m=19456", "m=99999999", 1), strings.Replace(hash, "t=2", "t=0", 1), hash[:len(hash)-30],
		"$argon2id$v=19$m=64,t=1,p=1$$",
	} {
		if provider.VerifyPassword(broken, "a password") {
			t.Errorf("%q matches", broken)
		}
	}
}
