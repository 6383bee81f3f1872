package provider_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// browserAccept is what browsers send when a person opens an address.
const browserAccept = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"

// openPage sends a request of a browser that wants a media type and a language.
func openPage(t *testing.T, s *providertest.Server, browser *http.Client, method, path, accept, language string) *providertest.Reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL(path), nil)
	if err != nil {
		t.Fatal(err)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	req.Header.Set("Accept-Language", language)
	return s.Do(browser, req)
}

func isPage(reply *providertest.Reply) bool {
	return strings.HasPrefix(reply.Header.Get("Content-Type"), "text/html") && reply.Header.Get("Vary") == "Accept" &&
		strings.Contains(reply.Header.Get("Content-Security-Policy"), "default-src 'none'") && reply.Header.Get("Cache-Control") == "no-store"
}

func TestIssuerIsAPageForAPerson(t *testing.T) {
	t.Parallel()
	for prefix, paths := range map[string][]string{"": {"/"}, "/tenant/a": {"", "/"}} {
		s := providertest.NewServer(t, providertest.Options{Path: prefix})
		for _, path := range paths {
			page := openPage(t, s, s.Browser(), http.MethodGet, path, browserAccept, "en")
			if page.Status != http.StatusOK || !isPage(page) || !strings.Contains(page.Body, "<strong>"+s.Issuer+"</strong>") ||
				!strings.Contains(page.Body, `href="`+prefix+`/device"`) {
				t.Errorf("%s%s: %d %v %s", prefix, path, page.Status, page.Header, page.Body)
			}
			if len(page.Header.Values("Set-Cookie")) > 0 {
				t.Errorf("%s%s sets a cookie", prefix, path)
			}
			if zh := openPage(t, s, s.Browser(), http.MethodGet, path, browserAccept, "zh"); !strings.Contains(zh.Body, "登录服务器") {
				t.Errorf("in Chinese: %s", zh.Body)
			}
			for _, accept := range []string{"", "*/*", "application/json", "text/html;q=0, */*", "text/html;q=x"} {
				reply := openPage(t, s, s.Client(), http.MethodGet, path, accept, "en")
				wantError(t, reply, http.StatusNotFound, "not_found")
				if reply.Header.Get("Vary") != "Accept" {
					t.Errorf("Vary %q", reply.Header.Get("Vary"))
				}
			}
		}
	}
}

func TestUnknownPathIsAPageForAPerson(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	for path, want := range map[string]string{"/nothing": "There is nothing here", "/token/": "There is nothing here", "/login/qr.png": "There is nothing here"} {
		page := openPage(t, s, s.Browser(), http.MethodGet, path, browserAccept, "en")
		if page.Status != http.StatusNotFound || !isPage(page) || !strings.Contains(page.Body, want) || strings.Contains(page.Body, "error-id") {
			t.Errorf("%s: %d %v %s", path, page.Status, page.Header, page.Body)
		}
		wantError(t, openPage(t, s, s.Browser(), http.MethodGet, path, "image/avif,image/webp,*/*;q=0.8", "en"), http.StatusNotFound, "not_found")
	}
	if zh := openPage(t, s, s.Browser(), http.MethodGet, "/nothing", browserAccept, "zh"); !strings.Contains(zh.Body, "找不到此页面") || strings.Contains(zh.Body, `lang="en"`) {
		t.Errorf("in Chinese: %s", zh.Body)
	}
	// What only a form can open says so, with the method that is allowed.
	page := openPage(t, s, s.Browser(), http.MethodGet, "/login", browserAccept, "en")
	if page.Status != http.StatusMethodNotAllowed || !isPage(page) || page.Header.Get("Allow") != "POST" || !strings.Contains(page.Body, "Go back and start again.") {
		t.Errorf("/login: %d %v %s", page.Status, page.Header, page.Body)
	}
	wantError(t, openPage(t, s, s.Browser(), http.MethodGet, "/login", "application/json", "en"), http.StatusMethodNotAllowed, "invalid_request")
}

// HEAD answers like GET, without a body.
func TestHeadOfPages(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b := visit(t, s, s.Browser(), "shop")
	signedIn := s.Browser()
	s.SignIn(t.Context(), signedIn, s.Get(t.Context(), signedIn, "/device"))
	_, challenge := providertest.Verifier()
	query := providertest.AuthorizeQuery("shop", "openid", challenge)
	for name, c := range map[string]struct {
		browser *http.Client
		path    string
		status  int
	}{
		"home":                       {s.Browser(), "/", 200},
		"unknown":                    {s.Browser(), "/nothing", 404},
		"device":                     {s.Browser(), "/device", 200},
		"device, signed in":          {signedIn, "/device?user_code=BCDF-GHJK", 200},
		"logout":                     {s.Browser(), "/logout", 200},
		"logout, signed in":          {signedIn, "/logout", 200},
		"authorize":                  {s.Browser(), "/authorize?" + query.Encode(), 200},
		"authorize, unknown client":  {s.Browser(), "/authorize?client_id=nobody", 400},
		"authorize, a fault":         {s.Browser(), "/authorize?" + query.Encode() + "&max_age=x", 303},
		"the frame":                  {b.browser, frameOf(b), 200},
		"the frame of another":       {s.Browser(), frameOf(b), 400},
		"the picture":                {b.browser, strings.Replace(frameOf(b), "/login/qr?", "/login/qr.png?", 1), 200},
		"the picture as SVG":         {b.browser, strings.Replace(frameOf(b), "/login/qr?", "/login/qr.svg?", 1), 200},
		"only forms go to the login": {b.browser, "/login", 405},
	} {
		get := openPage(t, s, c.browser, http.MethodGet, c.path, browserAccept, "en")
		head := openPage(t, s, c.browser, http.MethodHead, c.path, browserAccept, "en")
		if head.Status != c.status || get.Status != c.status || head.Body != "" {
			t.Errorf("%s: GET %d, HEAD %d %q, want %d", name, get.Status, head.Status, head.Body, c.status)
		}
		for _, header := range []string{"Content-Type", "Cache-Control", "X-Frame-Options", "Referrer-Policy", "Location", "Allow"} {
			if a, b := get.Header.Get(header), head.Header.Get(header); a != b {
				t.Errorf("%s: %s is %q, with HEAD %q", name, header, a, b)
			}
		}
	}
}

// A HEAD makes no code, opens no QR session and ends no sign-in.
func TestHeadChangesNothing(t *testing.T) {
	t.Parallel()
	var store *openingStore
	s := newShop(t, providertest.Options{Wrap: func(inner storage.Store) storage.Store {
		store = &openingStore{Store: inner}
		return store
	}})
	browser := s.Browser()
	s.SignIn(t.Context(), browser, s.Get(t.Context(), browser, "/device"))
	_, challenge := providertest.Verifier()
	query := "/authorize?" + providertest.AuthorizeQuery("shop", "openid", challenge).Encode()
	if reply := openPage(t, s, s.Browser(), http.MethodHead, query, browserAccept, "en"); len(reply.Header.Values("Set-Cookie")) != 0 || store.opened.Load() != 0 {
		t.Errorf("HEAD opened %d sessions: %v", store.opened.Load(), reply.Header)
	}
	if reply := openPage(t, s, browser, http.MethodHead, query, browserAccept, "en"); reply.Location().Query().Has("code") || reply.Status != http.StatusOK {
		t.Errorf("HEAD made a code: %d %v", reply.Status, reply.Header)
	}
	openPage(t, s, browser, http.MethodHead, "/logout", browserAccept, "en")
	if !silent(t, s, browser) {
		t.Error("HEAD /logout ended the sign-in")
	}
	// The same with GET does make them.
	openPage(t, s, s.Browser(), http.MethodGet, query, browserAccept, "en")
	if reply := openPage(t, s, browser, http.MethodGet, query, browserAccept, "en"); store.opened.Load() != 1 || !reply.Location().Query().Has("code") {
		t.Errorf("GET: %d sessions, %d %v", store.opened.Load(), reply.Status, reply.Header)
	}
}
