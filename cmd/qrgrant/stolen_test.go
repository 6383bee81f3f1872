package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// wiretap stands between the terminal clients and the server, and copies every access token that
// goes through.
type wiretap struct {
	mu sync.Mutex
	// proxy is nil until the server is there.
	proxy *httputil.ReverseProxy
	// tokens are those of answers, by the client that got them; used are the headers of requests
	// with a token, by path.
	tokens map[string]string
	used   map[string]http.Header
}

func (w *wiretap) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	if r.Header.Get("Authorization") != "" {
		w.used[r.URL.Path] = r.Header.Clone()
	}
	proxy := w.proxy
	w.mu.Unlock()
	proxy.ServeHTTP(rw, r)
}

// copied keeps the token of an answer.
func (w *wiretap) copied(resp *http.Response) error {
	if resp.Request.URL.Path != "/token" || resp.StatusCode != http.StatusOK {
		return nil
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	var answer struct {
		Token string `json:"access_token"`
		Scope string `json:"scope"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return err
	}
	who := "login"
	if strings.Contains(answer.Scope, "qr:approve") {
		who = "phone"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tokens[who] = answer.Token
	return nil
}

// ask sends one request with the headers of a thief.
func (w *wiretap) ask(t *testing.T, method, address string, header http.Header) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(`{"user_code": "BBBB-BBBB"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// TestStolenTokensAreWorthNothing: whoever reads along everything that `qrgrant login` and `qrgrant
// phone` send and receive can use neither of their tokens.
func TestStolenTokensAreWorthNothing(t *testing.T) {
	t.Parallel()
	tap := &wiretap{tokens: map[string]string{}, used: map[string]http.Header{}}
	front := httptest.NewServer(tap)
	t.Cleanup(front.Close)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "pw"), []byte("rain-on-the-roof"))
	write(t, filepath.Join(dir, "x.yaml"), []byte(`clients:
  - {id: cli, grant_types: [qr_code], scopes: [openid], require_dpop: true, qr: {enabled: true, allowed_scopes: [openid]}}
  - {id: phone, approver: true, first_party: true, require_dpop: true, redirect_uris: [http://127.0.0.1/callback], scopes: [openid, 'qr:approve']}
users:
  - {login: alice, password_env: ALICE_PASSWORD}
`))
	server := launch(t, dir, []string{"ALICE_PASSWORD=rain-on-the-roof"}, "serve", "--addr", "127.0.0.1:0", "--issuer", front.URL, "--db", "x.db", "--config", "x.yaml")
	address, err := server.await(`serves \S+ on (?:\S*:)?(\d+)`)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "127.0.0.1:" + address})
	proxy.ModifyResponse = tap.copied
	tap.mu.Lock()
	tap.proxy = proxy
	tap.mu.Unlock()

	pc := launch(t, dir, nil, "login", "--issuer", front.URL, "--client-id", "cli", "--scope", "openid")
	payload, err := pc.await(`QR text: (\S+)`)
	if err != nil {
		t.Fatal(err)
	}
	phone := launch(t, dir, nil, "phone", "--issuer", front.URL, "--user", "alice", "--password-file", "pw", "--payload", payload, "--approve")
	number, err := pc.await(`Number: (\d\d)`)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(phone.stdin, number)
	for _, p := range []*process{phone, pc} {
		if code, err := p.exit(); err != nil || code != 0 {
			text, _ := p.out.look()
			t.Fatalf("ended with %d, %v:\n%s", code, err, text)
		}
	}

	tap.mu.Lock()
	tokens, used := maps.Clone(tap.tokens), maps.Clone(tap.used)
	tap.mu.Unlock()
	for who, path := range map[string]string{"phone": "/qr/scan", "login": "/userinfo"} {
		token := tokens[who]
		if token == "" {
			t.Fatalf("no token of %s went by: the test looks for nothing", who)
		}
		if status := tap.ask(t, http.MethodPost, front.URL+path, http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}}); status != http.StatusUnauthorized {
			t.Errorf("the token of %s as a bearer token: %d", who, status)
		}
	}
	// Once more, word for word.
	for _, path := range []string{"/qr/scan", "/qr/decision"} {
		header := used[path]
		if !strings.HasPrefix(header.Get("Authorization"), "DPoP ") || header.Get("DPoP") == "" {
			t.Fatalf("%s was asked with %v", path, header)
		}
		if status := tap.ask(t, http.MethodPost, front.URL+path, header.Clone()); status != http.StatusUnauthorized {
			t.Errorf("%s, replayed: %d", path, status)
		}
	}
	if err := server.signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, err := server.exit(); err != nil || code != 0 {
		t.Errorf("the server ended with %d, %v", code, err)
	}
}
