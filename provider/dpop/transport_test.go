package dpop_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider/dpop"
)

// asked is a server that wants proofs, at /token as an authorization server and at /resource as a
// resource of the token "token".
type asked struct {
	*server
	http  *httptest.Server
	calls atomic.Int64
	// deaf refuses every nonce, lost never sends one.
	deaf, lost bool
}

func newAsked(t *testing.T) (*asked, *http.Client, *dpop.Transport) {
	t.Helper()
	a := &asked{server: newServer()}
	a.http = httptest.NewServer(a)
	t.Cleanup(a.http.Close)
	key, err := dpop.NewKey()
	must(t, err)
	key.Now = a.clock
	transport := &dpop.Transport{Key: key, Base: a.http.Client().Transport}
	return a, &http.Client{Transport: transport}, transport
}

func (a *asked) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.calls.Add(1)
	body, _ := io.ReadAll(r.Body) // What is missing is refused below.
	request := dpop.Request{Proofs: r.Header.Values(dpop.Header), Method: r.Method, URL: a.http.URL + r.URL.Path}
	if r.URL.Path == "/resource" {
		request.AccessToken = "token"
	}
	jkt, err := a.Verify(r.Context(), request)
	if a.deaf {
		err = &dpop.Error{Code: dpop.CodeUseNonce}
	}
	if !a.lost {
		w.Header().Set(dpop.HeaderNonce, a.Nonce())
	}
	var refused *dpop.Error
	switch {
	case errors.As(err, &refused) && r.URL.Path == "/resource":
		w.Header().Add("WWW-Authenticate", "Bearer")
		w.Header().Add("WWW-Authenticate", `DPoP error="`+refused.Code+`", algs="ES256"`)
		w.WriteHeader(http.StatusUnauthorized)
	case errors.As(err, &refused):
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"`+refused.Code+`"}`) // The test sees it when it is missing.
	default:
		_, _ = io.WriteString(w, jkt+" "+string(body))
	}
}

func (a *asked) do(t *testing.T, c *http.Client, path, scheme string, body io.Reader) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.http.URL+path+"?query=1", body)
	must(t, err)
	if scheme != "" {
		req.Header.Set("Authorization", scheme+" token")
	}
	answer, err := c.Do(req)
	must(t, err)
	defer func() { _ = answer.Body.Close() }()
	if req.Header.Get(dpop.Header) != "" {
		t.Error("the caller's request was changed")
	}
	text, err := io.ReadAll(answer.Body)
	must(t, err)
	return answer.StatusCode, string(text)
}

func TestTransport(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct{ path, scheme string }{
		"at an authorization server": {"/token", ""},
		"at a resource":              {"/resource", "DPoP"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, c, transport := newAsked(t)
			want := transport.Key.Thumbprint() + " a=b"
			for call, calls := range []int64{2, 3} { // The nonce is asked for once.
				if status, body := a.do(t, c, row.path, row.scheme, strings.NewReader("a=b")); status != 200 || body != want {
					t.Errorf("call %d: %d %s", call, status, body)
				}
				if got := a.calls.Load(); got != calls {
					t.Errorf("%d requests, want %d", got, calls)
				}
			}
			if got := transport.Nonce("ws" + strings.TrimPrefix(a.http.URL, "http") + "/qr/ws"); got != a.Nonce() {
				t.Errorf("the nonce for a WebSocket is %q", got)
			}
			a.advance(10 * time.Minute)
			if status, _ := a.do(t, c, row.path, row.scheme, strings.NewReader("a=b")); status != 200 || a.calls.Load() != 5 {
				t.Errorf("with an old nonce: %d after %d requests", status, a.calls.Load())
			}
		})
	}
}

func TestTransportWithoutABody(t *testing.T) {
	t.Parallel()
	a, c, _ := newAsked(t)
	if status, _ := a.do(t, c, "/token", "", nil); status != 200 || a.calls.Load() != 2 {
		t.Errorf("%d after %d requests", status, a.calls.Load())
	}
}

func TestTransportGivesUp(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		deaf, lost bool
		body       func() io.Reader
		calls      int64
	}{
		"a body that cannot be sent again": {body: func() io.Reader { return io.MultiReader(strings.NewReader("a=b")) }, calls: 1},
		"a server that takes no nonce":     {deaf: true, body: func() io.Reader { return strings.NewReader("a=b") }, calls: 2},
		"a server that sends no nonce":     {lost: true, body: func() io.Reader { return strings.NewReader("a=b") }, calls: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, c, _ := newAsked(t)
			a.deaf, a.lost = row.deaf, row.lost
			status, body := a.do(t, c, "/token", "", row.body())
			if status != 400 || body != `{"error":"use_dpop_nonce"}` {
				t.Errorf("the caller gets %d %q", status, body)
			}
			if got := a.calls.Load(); got != row.calls {
				t.Errorf("%d requests, want %d", got, row.calls)
			}
		})
	}
}

func TestTransportBindsTheTokenOfDPoPOnly(t *testing.T) {
	t.Parallel()
	a, c, _ := newAsked(t)
	if status, _ := a.do(t, c, "/resource", "Bearer", nil); status != 401 {
		t.Errorf("a proof for a bearer token is one for that token: %d", status)
	}
}
