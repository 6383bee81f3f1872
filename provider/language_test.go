package provider_test

import (
	"encoding/json"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/templates"
)

func textsOf(t *testing.T, language string) map[string]string {
	t.Helper()
	body, err := templates.Files.ReadFile(language + ".json")
	if err != nil {
		t.Fatal(err)
	}
	texts := make(map[string]string)
	if err := json.Unmarshal(body, &texts); err != nil {
		t.Fatal(err)
	}
	return texts
}

// Every text a page asks for is there in every language, and none is there in vain.
func TestTextsAreComplete(t *testing.T) {
	t.Parallel()
	english, used := textsOf(t, "en"), map[string]bool{"lang": true}
	files, err := fs.Glob(templates.Files, "*.html")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		body, err := templates.Files.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\{\{t "([^"]+)"\}\}`).FindAllStringSubmatch(string(body), -1) {
			used[m[1]] = true
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(used)), slices.Sorted(maps.Keys(english))); diff != "" {
		t.Errorf("the templates and en.json: %s", diff)
	}
	chinese := textsOf(t, "zh")
	for id := range english {
		if chinese[id] == "" {
			t.Errorf("zh.json lacks %q", id)
		}
	}
	for id, text := range chinese {
		if strings.Count(id, "%")-strings.Count(text, "%") != 0 {
			t.Errorf("%q and its translation take other values", id)
		}
	}
}

func TestLanguageOfThePages(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	for name, row := range map[string]struct{ locales, accept, want string }{
		"nothing said":                     {"", "", "en"},
		"the browser's wish":               {"", "zh-CN,zh;q=0.9,en;q=0.8", "zh"},
		"what it wants more":               {"", "zh;q=0.3, en-GB;q=0.8", "en"},
		"what it does not want":            {"", "zh;q=0", "en"},
		"a language we do not have":        {"se", "", "en"},
		"the request goes before":          {"zh-Hans", "en", "zh"},
		"the first one we have":            {"fr zh en", "", "zh"},
		"one we do not have, then browser": {"se", "zh", "zh"},
		"nonsense":                         {"??? %%", "zh;q=high,;;,*", "en"},
	} {
		query := providertest.AuthorizeQuery("shop", "openid", "")
		_, challenge := providertest.Verifier()
		query.Set("code_challenge", challenge)
		query.Set("code_challenge_method", "S256")
		if row.locales != "" {
			query.Set("ui_locales", row.locales)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL("/authorize?"+query.Encode()), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept-Language", row.accept)
		if reply := s.Do(s.Browser(), req); !strings.Contains(reply.Body, `<html lang="`+row.want+`">`) || !isSignIn(reply) {
			t.Errorf("%s: %d %.60s", name, reply.Status, reply.Body)
		}
	}
}

// The language of the request stays through the pages behind it, and errors speak it too.
func TestLanguageStays(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	b := visit(t, s, s.Browser(), "stranger", "ui_locales", "zh")
	wrong := s.Post(t.Context(), b.browser, "/login", url.Values{"csrf": {b.page.Hidden("csrf")}, "next": {b.page.Hidden("next")}, "login": {"alice"}, "password": {"wrong"}})
	if !strings.Contains(wrong.Body, "用户名或密码错误。") {
		t.Errorf("wrong password: %s", wrong.Body)
	}
	frame := s.Get(t.Context(), b.browser, frameOf(b))
	if !strings.Contains(frame.Body, "用手机登录") {
		t.Errorf("frame: %s", frame.Body)
	}
	if reply := s.Get(t.Context(), b.browser, "/authorize?client_id=nobody&ui_locales=zh"); !strings.Contains(reply.Body, "此客户端未登记。") || !strings.Contains(reply.Body, `id="error-id"`) {
		t.Errorf("error page: %s", reply.Body)
	}
	consent := s.SignIn(t.Context(), b.browser, b.page)
	if !strings.Contains(consent.Body, "查看您的姓名和资料") {
		t.Errorf("consent: %s", consent.Body)
	}
}

// An operator may replace a page, a text or the script, and what is left out stays ours.
func TestTemplatesAreOverridable(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{Change: func(c *provider.Config) {
		c.Templates = fstest.MapFS{
			"en.json":   {Data: []byte(`{"signin.title": "Welcome to ACME"}`)},
			"signin.js": {Data: []byte("// ours\n")},
		}
	}})
	b := visit(t, s, s.Browser(), "shop")
	if !strings.Contains(b.page.Body, "Welcome to ACME") || !strings.Contains(b.page.Body, "Password") {
		t.Errorf("page: %s", b.page.Body)
	}
	if script := s.Get(t.Context(), b.browser, "/static/signin.js"); script.Body != "// ours\n" || !strings.HasPrefix(script.Header.Get("Content-Type"), "text/javascript") {
		t.Errorf("script: %v %s", script.Header, script.Body)
	}
	for name, file := range map[string]string{"en.json": "{", "qr.html": "{{define"} {
		config := provider.Config{Issuer: "https://op.example", Store: s.Store, Templates: fstest.MapFS{name: {Data: []byte(file)}}}
		if _, err := provider.New(t.Context(), config); err == nil {
			t.Errorf("a broken %s is no fault at the start", name)
		}
	}
}
