package provider_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

// programEndpoints are those that programs call with a form, each with the client that may.
func programEndpoints() map[string]string {
	return map[string]string{
		"/token": "svc", "/par": "web", "/introspect": "svc", "/revoke": "svc", "/device_authorization": "kiosk", "/qr/cancel": "kiosk", "/qr/events": "kiosk",
	}
}

// Every endpoint for programs answers the same mistake in the same way: one JSON object with a code
// and a sentence, never stored, and a challenge beside each 401.
func TestErrorsReadTheSameEverywhere(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	good := url.Values{"grant_type": {"client_credentials"}, "token": {"x"}, "device_code": {"x"}, "scope": {"reports:read"}}.Encode()
	const urlencoded = "application/x-www-form-urlencoded"
	for path, client := range programEndpoints() {
		known := []string{basic(client, providertest.ClientSecret)}
		for _, row := range []struct {
			name, body, media string
			authorization     []string
			status            int
			code              string
		}{
			{"a parameter twice", good + "&scope=a", urlencoded, known, 400, "invalid_request"},
			{"the client twice", good + "&client_id=a&client_id=a", urlencoded, known, 400, "invalid_request"},
			{"JSON", "{}", "application/json", known, 400, "invalid_request"},
			{"invalid characters", good + "&x=%ff", urlencoded, known, 400, "invalid_request"},
			{"a body that is too large", good + "&x=" + strings.Repeat("x", 65<<10), urlencoded, known, 413, "invalid_request"},
			{"nobody", good, urlencoded, nil, 401, "invalid_client"},
			{"a wrong secret", good, urlencoded, []string{basic(client, "x")}, 401, "invalid_client"},
			{"an unknown client", good, urlencoded, []string{basic("nobody", providertest.ClientSecret)}, 401, "invalid_client"},
			{"a bearer token", good, urlencoded, []string{"Bearer x"}, 401, "invalid_client"},
			{"two ways at once", good + "&client_secret=x", urlencoded, known, 400, "invalid_request"},
		} {
			header := http.Header{"Content-Type": {row.media}, "Host": {s.HTTP.Listener.Addr().String()}}
			if row.authorization != nil {
				header["Authorization"] = row.authorization
			}
			reply := send(t, s, http.MethodPost, path, row.body, header)
			wantErrorAnswer(t, path+", "+row.name, reply, row.status, row.code)
		}
		wantErrorAnswer(t, path+" by GET", s.Get(t.Context(), s.Client(), path), http.StatusMethodNotAllowed, "invalid_request")
	}
	wantErrorAnswer(t, "nothing", s.Get(t.Context(), s.Client(), "/nothing"), http.StatusNotFound, "not_found")
}

// What only one endpoint can be asked is refused by its name.
func TestErrorsOfTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	for _, row := range []struct {
		name, client, form, code string
	}{
		{"no grant", "svc", "x=1", "invalid_request"},
		{"an unknown grant", "svc", "grant_type=password&username=a&password=b", "unsupported_grant_type"},
		{"another's grant", "web", "grant_type=client_credentials", "unauthorized_client"},
		{"a foreign scope", "svc", "grant_type=client_credentials&scope=openid", "invalid_scope"},
		{"a foreign resource", "svc", "grant_type=client_credentials&resource=https%3A%2F%2Fa.example", "invalid_target"},
		{"resources of which one is foreign", "svc", "grant_type=client_credentials&resource=" + url.QueryEscape(s.Issuer) + "&resource=https%3A%2F%2Fa.example", "invalid_target"},
		{"an unknown code", "web", "grant_type=authorization_code&code=x&redirect_uri=x&code_verifier=x", "invalid_grant"},
		{"an unknown refresh token", "web", "grant_type=refresh_token&refresh_token=x", "invalid_grant"},
		{"a refresh token with a resource", "web", "grant_type=refresh_token&refresh_token=x&resource=x", "invalid_grant"},
	} {
		reply := send(t, s, http.MethodPost, "/token", row.form, http.Header{
			"Authorization": {basic(row.client, providertest.ClientSecret)}, "Host": {s.HTTP.Listener.Addr().String()},
		})
		wantErrorAnswer(t, row.name, reply, http.StatusBadRequest, row.code)
	}
}

// wantErrorAnswer checks an error answer of an endpoint for programs to its last header.
func wantErrorAnswer(t *testing.T, name string, reply *providertest.Reply, status int, code string) {
	t.Helper()
	if reply.Status != status || reply.Text("error") != code {
		t.Errorf("%s: %d %s, want %d %s", name, reply.Status, reply.Body, status, code)
	}
	for header, want := range map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
		if reply.Header.Get(header) != want {
			t.Errorf("%s: %s is %q", name, header, reply.Header.Get(header))
		}
	}
	for member, value := range reply.JSON() {
		text, ok := value.(string)
		if !ok || member != "error" && member != "error_description" || !allowedInErrors(text) {
			t.Errorf("%s: %s is %v", name, member, value)
		}
	}
	if challenge := reply.Header.Get("WWW-Authenticate"); (challenge != "") != (status == http.StatusUnauthorized) {
		t.Errorf("%s: %d with the challenge %q", name, status, challenge)
	}
}

// sources parses what the provider is made of, tests and their helpers aside, by path.
func sources(t *testing.T) (files map[string]*ast.File, set *token.FileSet) {
	t.Helper()
	files, set = map[string]*ast.File{}, token.NewFileSet()
	err := fs.WalkDir(os.DirFS("."), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "providertest/") || strings.HasPrefix(path, "internal/hostile/") {
			return err
		}
		files[path], err = parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		return err
	})
	if err != nil || len(files) < 50 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	return files, set
}

// The sentences that a client is told are in the characters of RFC 6749 §5.2, every one of them:
// whatever looks like a sentence in the source is checked, not what a test happens to meet.
func TestFixedSentences(t *testing.T) {
	t.Parallel()
	files, set := sources(t)
	sentences := 0
	check := func(value ast.Expr) {
		literal, ok := value.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			return
		}
		text, err := strconv.Unquote(literal.Value)
		if err != nil {
			t.Fatal(err)
		}
		if text == "" || !strings.Contains(text, " ") {
			return
		}
		sentences++
		if !allowedInErrors(text) || !strings.HasSuffix(text, ".") {
			t.Errorf("%s: %q", set.Position(literal.Pos()), text)
		}
	}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.KeyValueExpr:
				if name, ok := n.Key.(*ast.Ident); ok && slices.Contains(strings.Fields("description Description Sentence sentence Detail"), name.Name) {
					check(n.Value)
				}
			case *ast.CallExpr:
				if name, ok := n.Fun.(*ast.Ident); ok && slices.Contains(strings.Fields("invalidRequest tokenError problem problemInvalid fault"), name.Name) {
					for _, argument := range n.Args {
						check(argument)
					}
				}
			}
			return true
		})
	}
	if sentences < 80 {
		t.Errorf("only %d sentences were found", sentences)
	}
}

// Package reply is the one place that spells an error answer: nothing else writes its members, its
// challenges or a plain-text error to a program. What is exempt says why.
func TestOnlyOneWriterOfErrors(t *testing.T) {
	t.Parallel()
	exempt := map[string][]string{
		"authorize.go":      {"error_description"},                     // a redirect has no body
		"bearer.go":         {"error_description"},                     // the parameter of a challenge, which reply spells
		"qr/errors.go":      {"error_description", "WWW-Authenticate"}, // goes to reply.Fail with the members of a waiting device
		"render.go":         {"http.Error"},                            // a page for people
		"cors.go":           {"WWW-Authenticate"},                      // names the header to script
		"dpop/transport.go": {"WWW-Authenticate"},                      // reads it
	}
	files, set := sources(t)
	for path, file := range files {
		if strings.HasPrefix(path, "internal/reply/") {
			continue
		}
		found := func(n ast.Node, what string) {
			if !slices.Contains(exempt[path], what) {
				t.Errorf("%s: %s", set.Position(n.Pos()), what)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				for _, what := range []string{"error_description", "WWW-Authenticate", `"error":`} {
					if n.Kind == token.STRING && strings.Contains(n.Value, what) {
						found(n, what)
					}
				}
			case *ast.SelectorExpr:
				if of, ok := n.X.(*ast.Ident); ok && of.Name == "http" && n.Sel.Name == "Error" {
					found(n, "http.Error")
				}
			}
			return true
		})
	}
}
