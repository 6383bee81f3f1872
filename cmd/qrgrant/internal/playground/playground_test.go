package playground_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/playground"
)

// page is a playground whose sign-in is the given one.
func page(t *testing.T, signIn func(context.Context, string) (*url.URL, error)) (*playground.App, *httptest.Server) {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	app := &playground.App{
		Issuer: "http://id.example", URL: "http://" + server.Listener.Addr().String(), Phone: "http://phone.example", Web: "http://web.example",
		ClientID: "pc", PhoneClientID: "mobile", Key: "THEKEY", Recorder: &playground.Recorder{}, SignIn: signIn,
	}
	handler, err := app.Handler()
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = handler
	server.Start()
	t.Cleanup(server.Close)
	return app, server
}

const mobileRequest = "http://id.example/authorize?client_id=mobile&redirect_uri=http%3A%2F%2Fphone.example%2F&state=s"

// Only the page itself, with the key, has the phone signed in, and only the phone.
func TestSignInIsThePhones(t *testing.T) {
	t.Parallel()
	signIns := 0
	app, server := page(t, func(_ context.Context, address string) (*url.URL, error) {
		signIns++
		if address != mobileRequest {
			t.Errorf("signed in at %s", address)
		}
		return url.Parse("http://phone.example/?code=c&state=s")
	})
	for name, row := range map[string]struct {
		key, origin, address string
		want                 int
	}{
		"no key":           {"", app.URL, mobileRequest, 401},
		"another key":      {"Bearer THEKEX", app.URL, mobileRequest, 401},
		"no origin":        {"Bearer THEKEY", "", mobileRequest, 403},
		"another origin":   {"Bearer THEKEY", "http://elsewhere.example", mobileRequest, 403},
		"another server":   {"Bearer THEKEY", app.URL, strings.Replace(mobileRequest, "id.example", "id.example.elsewhere.example", 1), 400},
		"another endpoint": {"Bearer THEKEY", app.URL, strings.Replace(mobileRequest, "/authorize", "/logout", 1), 400},
		"another client":   {"Bearer THEKEY", app.URL, strings.Replace(mobileRequest, "mobile", "webapp", 1), 400},
		"another way back": {"Bearer THEKEY", app.URL, strings.Replace(mobileRequest, "phone.example", "elsewhere.example", 1), 400},
		"two clients":      {"Bearer THEKEY", app.URL, mobileRequest + "&client_id=webapp", 400},
		"two ways back":    {"Bearer THEKEY", app.URL, mobileRequest + "&redirect_uri=http://elsewhere.example", 400},
		"a password":       {"Bearer THEKEY", app.URL, strings.Replace(mobileRequest, "http://", "http://a@", 1), 400},
		"nothing":          {"Bearer THEKEY", app.URL, "", 400},
		"the phone's own":  {"Bearer THEKEY", app.URL, mobileRequest, 200},
	} {
		header := []string{"Authorization", row.key}
		if row.origin != "" {
			header = append(header, "Origin", row.origin)
		}
		status, answer := ask(t, server, http.MethodPost, "/sign-in", "application/json", `{"address":"`+row.address+`"}`, header...)
		if status != row.want {
			t.Errorf("%s: %d %s, want %d", name, status, answer, row.want)
		}
		if row.want == http.StatusOK && answer != `{"address":"http://phone.example/?code=c\u0026state=s"}` {
			t.Errorf("%s: %s", name, answer)
		}
	}
	if signIns != 1 {
		t.Errorf("%d sign-ins", signIns)
	}
}

// What goes wrong with a sign-in is told in a fixed sentence.
func TestSignInFails(t *testing.T) {
	t.Parallel()
	app, server := page(t, func(context.Context, string) (*url.URL, error) { return nil, errors.New("the password is hunter2") })
	status, answer := ask(t, server, http.MethodPost, "/sign-in", "application/json", `{"address":"`+mobileRequest+`"}`, "Authorization", "Bearer THEKEY", "Origin", app.URL)
	if status != http.StatusBadGateway || strings.Contains(answer, "hunter2") {
		t.Errorf("%d %s", status, answer)
	}
}

// A name that somebody makes point here is no way in, and the page says what it may load.
func TestPageGuards(t *testing.T) {
	t.Parallel()
	app, server := page(t, nil)
	for _, target := range []string{"/", "/static/pc.js", "/exchanges?since=0"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+target, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "rebound.example"
		req.Header.Set("Authorization", "Bearer THEKEY")
		res, err := server.Client().Do(req)
		if err != nil || res.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("%s of another name: %v, %v", target, res, err)
		}
		_ = res.Body.Close()
	}
	if status, _ := ask(t, server, http.MethodGet, "/exchanges?since=x", "", "", "Authorization", "Bearer THEKEY", "Origin", "http://elsewhere.example"); status != http.StatusForbidden {
		t.Errorf("another origin: %d", status)
	}
	res, err := server.Client().Get(app.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil || res.StatusCode != http.StatusOK || strings.Contains(string(body), app.Key) {
		t.Errorf("%s %v: %s", res.Status, err, body)
	}
	policy := res.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self';", "frame-src http://phone.example;", "frame-ancestors 'none'", "connect-src 'self' http://id.example ws://id.example;", "require-trusted-types-for 'script'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("no %s in %s", want, policy)
		}
	}
	if app.Address() != app.URL+"/#THEKEY" {
		t.Errorf("%s", app.Address())
	}
	for _, hidden := range []string{"/static/index.html", "/static/", "/playground.go"} {
		if status, _ := ask(t, server, http.MethodGet, hidden, "", ""); status == http.StatusOK {
			t.Errorf("%s is served", hidden)
		}
	}
}

// The exchanges are for who has the key; they come as they happen, and once each.
func TestExchanges(t *testing.T) {
	t.Parallel()
	app, server := page(t, nil)
	for _, key := range []string{"", "Bearer", "Bearer THEKEYS", "THEKEY"} {
		if status, _ := ask(t, server, http.MethodGet, "/exchanges?since=0", "", "", "Authorization", key); status != http.StatusUnauthorized {
			t.Errorf("key %q: %d", key, status)
		}
	}
	if status, _ := ask(t, server, http.MethodGet, "/exchanges?since=-1", "", "", "Authorization", "Bearer THEKEY"); status != http.StatusBadRequest {
		t.Errorf("since -1: %d", status)
	}
	handler := app.Recorder.Wrap(http.NotFoundHandler())
	happen := func(path string) {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	}
	happen("/before")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, app.URL+"/exchanges?since=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer THEKEY")
	res, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	lines := bufio.NewScanner(res.Body)
	next := func(path string) {
		for lines.Scan() {
			if strings.Contains(lines.Text(), `"path":"`+path+`"`) {
				return
			}
			if strings.HasPrefix(lines.Text(), "data:") && !strings.Contains(lines.Text(), `"open":true`) {
				t.Errorf("%s came instead of %s", lines.Text(), path)
			}
		}
		t.Errorf("no %s: %v", path, lines.Err())
	}
	next("/before")
	happen("/after")
	next("/after")
}
