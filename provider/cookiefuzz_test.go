package provider_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

// FuzzCookies sends any cookies with a request for a code and with a sign-in form: nobody is
// signed in by what we did not make, a page or a refusal is the answer, and what a browser is
// told to keep is ours.
func FuzzCookies(f *testing.F) {
	s := newCookieServer(f)
	browser := s.Browser()
	s.SignedIn(f.Context(), browser, "web", "openid")
	made := make(map[string]string)
	for _, c := range browser.Jar.Cookies(mustURL(f, s.Issuer)) {
		made[strings.TrimPrefix(c.Name, "__Host-qrgrant")] = c.Value
	}
	page := s.Get(f.Context(), s.Browser(), "/authorize?"+fuzzQuery()).Hidden("csrf")
	session, known := made[""], made["-known"]
	f.Add(session[:22]+".", made["-form"], page, "zzzz.AAAA", known, "", "")
	f.Add(session[:len(session)-1]+"!", "", "", "", known+"~"+known, strings.Repeat("A", 26), "x")
	f.Add("."+session, strings.Repeat("a", 22), strings.Replace(page, ".", "..", 1), ".", "~~~~", "../..", strings.Repeat("A", 43))
	f.Add(session+session, made["-form"]+"\x00", "-9223372036854775808.AAAA", "-1.AAAA", strings.Repeat("~", 600), "%00", "\"")
	f.Fuzz(func(t *testing.T, session, form, seal, seen, known, flow, secret string) {
		if session == made[""] {
			t.Skip("the real one signs in")
		}
		add := func(r *http.Request) {
			for name, value := range map[string]string{"qrgrant": session, "qrgrant-form": form, "qrgrant-seen": seen, "qrgrant-known": known, "qr-" + flow: secret} {
				r.AddCookie(&http.Cookie{Name: "__Host-" + name, Value: value})
			}
		}
		get := httptest.NewRequestWithContext(t.Context(), http.MethodGet, s.Issuer+"/authorize?"+fuzzQuery(), nil)
		post := httptest.NewRequestWithContext(t.Context(), http.MethodPost, s.Issuer+"/login", strings.NewReader(url.Values{
			"csrf": {seal}, "next": {"/authorize?" + fuzzQuery()}, "login": {"nobody"}, "password": {"x"},
		}.Encode()))
		post.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		state := httptest.NewRequestWithContext(t.Context(), http.MethodGet, s.Issuer+"/login/qr/state?"+url.Values{"flow": {flow}}.Encode(), nil)
		for _, r := range []*http.Request{get, post, state} {
			add(r)
			w := httptest.NewRecorder()
			s.Provider.ServeHTTP(w, r)
			if w.Code >= http.StatusInternalServerError || w.Code >= 300 && w.Code < 400 {
				t.Fatalf("%s %s: %d %s", r.Method, r.URL.Path, w.Code, w.Header().Get("Location"))
			}
			for _, c := range (&http.Response{Header: w.Header()}).Cookies() {
				if c.Name == "__Host-qrgrant" && c.Value != "" || c.Name == "__Host-qrgrant-known" || c.Name == "__Host-qrgrant-seen" && c.Value != "" {
					t.Fatalf("%s %s: %s", r.Method, r.URL.Path, c)
				}
			}
		}
	})
}

// FuzzKnownCookie signs Alice in with any note of her browser: it never fails, and the note she
// gets is short and in our own words.
func FuzzKnownCookie(f *testing.F) {
	s := newCookieServer(f)
	browser := s.Browser()
	page := s.Get(f.Context(), browser, "/authorize?"+fuzzQuery())
	form := url.Values{"csrf": {page.Hidden("csrf")}, "next": {page.Hidden("next")}, "login": {providertest.AliceLogin}, "password": {providertest.AlicePassword}}
	var own string
	for _, c := range browser.Jar.Cookies(mustURL(f, s.Issuer)) {
		if c.Name == "__Host-qrgrant-form" {
			own = c.Value
		}
	}
	for _, note := range []string{"", "~", "a.b.c~a.b.c", strings.Repeat("x", 2000), strings.Repeat("a", 22) + ".1.AAAA", strings.Repeat("a.b.c~", 9), "é", "a;b", `"`} {
		f.Add(note)
	}
	f.Fuzz(func(t *testing.T, note string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, s.Issuer+"/login", strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.AddCookie(&http.Cookie{Name: "__Host-qrgrant-form", Value: own})
		r.AddCookie(&http.Cookie{Name: "__Host-qrgrant-known", Value: note})
		w := httptest.NewRecorder()
		s.Provider.ServeHTTP(w, r)
		if w.Code != http.StatusSeeOther {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		var got string
		for _, c := range (&http.Response{Header: w.Header()}).Cookies() {
			if c.Name == "__Host-qrgrant-known" {
				got = c.Value
			}
		}
		if first, _, _ := strings.Cut(got, "~"); len(strings.Split(first, ".")) != 3 || len(got) > 512 || strings.Count(got, "~") > 3 {
			t.Fatalf("note %q", got)
		}
	})
}

func newCookieServer(f *testing.F) *providertest.Server {
	f.Helper()
	return providertest.NewServer(f, providertest.Options{Clients: shopClients()})
}

func mustURL(tb testing.TB, raw string) *url.URL {
	tb.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

func fuzzQuery() string {
	return providertest.AuthorizeQuery("web", "openid", strings.Repeat("a", 43)).Encode()
}
