package provider_test

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

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
	for range 4 {
		try("alice", "x")
	}
	limited := try("alice", providertest.AlicePassword)
	if limited.Status != http.StatusTooManyRequests || limited.Header.Get("Retry-After") != "1" {
		t.Errorf("the sixth try: %d, Retry-After %q", limited.Status, limited.Header.Get("Retry-After"))
	}
	// A name that nobody has is told the same.
	for range 4 {
		try("nobody", "x")
	}
	if reply := try("nobody", "x"); reply.Status != limited.Status || reply.Header.Get("Retry-After") != "1" {
		t.Errorf("the sixth try of nobody: %d", reply.Status)
	}
	s.Clock.Advance(time.Second)
	if reply := try("ALICE", providertest.AlicePassword); reply.Location().Query().Get("code") == "" {
		t.Errorf("a second later: %d %s", reply.Status, reply.Body)
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

// passwordForm is a filled-in sign-in form that can be sent again and again.
func passwordForm(t *testing.T, s *providertest.Server, browser *http.Client, login, password string) url.Values {
	t.Helper()
	page := ask(t, s, browser, "web")
	return url.Values{"csrf": {page.Hidden("csrf")}, "next": {page.Hidden("next")}, "login": {login}, "password": {password}}
}

// Guessing in parallel is guessing: the tries under way count before their hash is made.
func TestParallelWrongPasswordsAreLimited(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	form := passwordForm(t, s, browser, "nobody", "wrong")
	var evaluated, refused atomic.Int32
	var guesses sync.WaitGroup
	for range 64 {
		guesses.Go(func() {
			switch reply := s.Post(t.Context(), browser, "/login", form); reply.Status {
			case http.StatusOK:
				evaluated.Add(1)
			case http.StatusTooManyRequests:
				refused.Add(1)
			default:
				t.Errorf("%d %s", reply.Status, reply.Body)
			}
		})
	}
	guesses.Wait()
	if evaluated.Load() != 5 || refused.Load() != 59 {
		t.Errorf("%d of 64 guesses were looked at, %d refused; want 5 and 59", evaluated.Load(), refused.Load())
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
		want := []string{"nosniff", "same-origin", "no-store", "DENY"}
		if diff := cmp.Diff(want, []string{h.Get("X-Content-Type-Options"), h.Get("Referrer-Policy"), h.Get("Cache-Control"), h.Get("X-Frame-Options")}); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
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
		"$argon2id$v=19$m=64,t=1,p=1$$", strings.Replace(hash, "p=1", "p=1,x", 1), strings.Replace(hash, "m=", "m=+", 1), strings.Replace(hash, "v=19", "v=19 ", 1),
	} {
		if provider.VerifyPassword(broken, "a password") || provider.CheckPasswordHash(broken) == nil {
			t.Errorf("%q is taken for a hash", broken)
		}
	}
	if err := provider.CheckPasswordHash(hash); err != nil {
		t.Error(err)
	}
}

func TestCheckRedirectURI(t *testing.T) {
	t.Parallel()
	for uri, good := range map[string]bool{
		"https://app.example/callback": true, "com.example.app:/callback": true, "http://127.0.0.1/callback": true,
		"http://[::1]:8080/callback": true, "http://localhost/callback": true,
		"": false, "/callback": false, "app.example/callback": false, "http://app.example/callback": false,
		"https://app.example/#": false, "https://app.example/%": false, "javascript:alert(1)": false, "DATA:text/html,x": false,
		// What a browser or we ourselves would read as another address.
		"https:callback": false, "https:/callback": false, "https:///callback": false, "https://:443/callback": false, "http:callback": false,
		"https://user@app.example/": false, "https://user:pw@app.example/": false, "http://x@127.0.0.1/": false,
		"https://a;b/": false, "https://a'b/": false, "https://*.app.example/": false, "https://a,b/": false, "https://b%C3%BCcher.example/": false,
		"https://[fe80::1%25eth0]/": false, "https://app.example\\@evil.example/": false, "https://app.example:8443/a;b?c=d": true,
		// What a browser runs or reads itself; an app's own scheme has a dot.
		"filesystem:https://app.example/x": false, "view-source:https://app.example/": false, "blob:https://app.example/x": false, "about:blank": false,
		"file:///etc/passwd": false, "vbscript:x": false, "intent://x": false, "ms-settings:x": false, "chrome-extension://x/": false, "ws://127.0.0.1/": false,
		"mailto:a@app.example": false, "myapp:/callback": false, "com.example.app://callback": true,
	} {
		if err := provider.CheckRedirectURI(uri); (err == nil) != good {
			t.Errorf("%q: %v", uri, err)
		}
	}
}
