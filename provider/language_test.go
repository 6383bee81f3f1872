package provider_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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

// A picture is a QR code, eight letters are a code and two digits are a number, in every text.
func TestTextsUseOneVocabulary(t *testing.T) {
	t.Parallel()
	words := regexp.MustCompile(`(?i)check code|user code|device code|digit|\bPIN\b|校验码|验证码|检查码|用户码|配对码`)
	for _, language := range []string{"en", "zh"} {
		for id, text := range textsOf(t, language) {
			if found := words.FindString(id + "\n" + text); found != "" {
				t.Errorf("%s: %q stands in %q, %q", language, found, id, text)
			}
		}
	}
	number := regexp.MustCompile(`(?i)number|数字`)
	for _, language := range []string{"en", "zh"} {
		texts := textsOf(t, language)
		for id, wants := range map[string]bool{"qr.scanned": true, "card.check_code": true, "card.user_code": false, "card.code": false, "device.enter": false, "qr.scan": false} {
			if number.MatchString(texts[id]) != wants {
				t.Errorf("%s: %s is %q", language, id, texts[id])
			}
		}
	}
}

// sentences are the texts that stand in the code of our pages rather than in a template.
func sentences(t *testing.T) map[string]bool {
	t.Helper()
	found := make(map[string]bool)
	for _, name := range []string{"account.go", "browser.go", "clientview.go", "consent.go", "device.go", "devicewording.go", "hostedcontinue.go", "hostedstate.go", "login.go", "logout.go", "q.go", "render.go", "router.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(node ast.Node) bool {
			if literal, ok := node.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				text, err := strconv.Unquote(literal.Value)
				if err == nil && regexp.MustCompile(`^(%s|[A-Z])[^/]* [^/]*[a-z][^/]*$`).MatchString(text) {
					found[text] = true
				}
			}
			return true
		})
	}
	return found
}

// What the code of the pages says is there in Chinese, and no translation has lost its original.
func TestSentencesAreTranslated(t *testing.T) {
	t.Parallel()
	chinese, said := textsOf(t, "zh"), sentences(t)
	// They go to clients, which read English, or stand where no page can be made.
	forPrograms := []string{"The person refused.", "The method is not allowed here.", "The page could not be shown."}
	for sentence := range said {
		if chinese[sentence] == "" && !slices.Contains(forPrograms, sentence) {
			t.Errorf("zh.json lacks %q", sentence)
		}
	}
	if len(said) < 40 {
		t.Errorf("only %d sentences found", len(said))
	}
	var source strings.Builder
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		body, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(body)
	}
	english := textsOf(t, "en")
	for id := range chinese {
		if _, ours := english[id]; !ours && !strings.Contains(source.String(), strconv.Quote(id)) {
			t.Errorf("nothing says %q", id)
		}
	}
}

// What a language has no text for is English, and says so to whoever reads the page aloud.
func TestErrorsWithoutATextAreMarkedAsEnglish(t *testing.T) {
	t.Parallel()
	s := newShop(t, providertest.Options{})
	const twice, nobody = "/authorize?client_id=shop&client_id=shop", "/authorize?client_id=nobody"
	for _, c := range []struct{ name, path, language, sentence string }{
		{"no text in Chinese", twice, "zh", `<p id="error" lang="en">A parameter was sent more than once.</p>`},
		{"a text in Chinese", nobody, "zh", `<p id="error">此客户端未登记。</p>`},
		{"English", twice, "en", `<p id="error">A parameter was sent more than once.</p>`},
		{"English, with a text in Chinese", nobody, "en", `<p id="error">The client is not known here.</p>`},
	} {
		reply := openPage(t, s, s.Browser(), http.MethodGet, c.path, browserAccept, c.language)
		heading := map[string]string{"zh": "<h1>操作未成功</h1>", "en": "<h1>This did not work</h1>"}[c.language]
		if !strings.Contains(reply.Body, c.sentence) || !strings.Contains(reply.Body, heading) || !strings.Contains(reply.Body, `id="error-id"`) {
			t.Errorf("%s: %d %s", c.name, reply.Status, reply.Body)
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
