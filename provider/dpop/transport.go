package dpop

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// maxError bounds how much of an error answer is read to see whether it asks for a nonce.
const maxError = 16 << 10

// Transport adds a proof to every request of an http.Client (RFC 9449 §4, §7). A request whose
// Authorization is "DPoP" and a token gets a proof for that token.
//
// It remembers the nonces of each server, and sends a request once more when the server asks for
// a nonce (RFC 9449 §8, §9) and its body can be sent again, as those that http.NewRequest makes of
// a string or of bytes can. It is safe for concurrent use.
type Transport struct {
	// Key makes the proofs.
	Key *Key
	// Base sends the requests; nil means http.DefaultTransport.
	Base http.RoundTripper

	mu     sync.Mutex
	nonces map[string]string
}

var _ http.RoundTripper = (*Transport)(nil)

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := t.send(r, r.Body)
	if err != nil || !asksForNonce(answer) || r.Body != nil && r.Body != http.NoBody && r.GetBody == nil {
		return answer, err
	}
	body := r.Body
	if r.GetBody != nil {
		if body, err = r.GetBody(); err != nil {
			return answer, nil //nolint:nilerr // The first answer is an answer.
		}
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, maxError)) // so that the connection is used again
	_ = answer.Body.Close()
	return t.send(r, body)
}

// send sends the request with a proof, and remembers the nonce of the answer.
func (t *Transport) send(r *http.Request, body io.ReadCloser) (*http.Response, error) {
	server := origin(r.URL)
	t.mu.Lock()
	nonce := t.nonces[server]
	t.mu.Unlock()
	proof, err := t.Key.Proof(method(r), r.URL.String(), nonce, boundToken(r.Header))
	if err != nil {
		if body != nil {
			_ = body.Close()
		}
		return nil, err
	}
	// A RoundTripper must leave the request as it is.
	proved := r.Clone(r.Context())
	proved.Body = body
	proved.Header.Set(Header, proof)
	base := t.Base
	if base == nil {
		base = http.DefaultTransport
	}
	answer, err := base.RoundTrip(proved)
	if err != nil {
		return nil, err
	}
	if next := answer.Header.Get(HeaderNonce); next != "" {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.nonces == nil {
			t.nonces = make(map[string]string)
		}
		t.nonces[server] = next
	}
	return answer, nil
}

// Nonce is the nonce that the server of an address sent last; empty when it sent none. It is for
// proofs that travel otherwise than in a header.
func (t *Transport) Nonce(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.nonces[origin(u)]
}

// origin names a server; a WebSocket's is that of the pages beside it.
func origin(u *url.URL) string {
	scheme := strings.Replace(strings.ToLower(u.Scheme), "ws", "http", 1)
	return scheme + "://" + strings.ToLower(u.Host)
}

func method(r *http.Request) string {
	if r.Method == "" {
		return http.MethodGet
	}
	return r.Method
}

func boundToken(h http.Header) string {
	scheme, token, _ := strings.Cut(h.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, Scheme) {
		return ""
	}
	return strings.TrimSpace(token)
}

// asksForNonce reports whether the answer refuses the proof for the want of a nonce, and brings
// one: a 400 of an authorization server (RFC 9449 §8), a 401 of a resource (§9).
func asksForNonce(answer *http.Response) bool {
	if answer.Header.Get(HeaderNonce) == "" {
		return false
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized:
		return slices.ContainsFunc(answer.Header.Values("WWW-Authenticate"), func(challenge string) bool {
			return strings.Contains(challenge, `error="`+CodeUseNonce+`"`)
		})
	case http.StatusBadRequest:
		return errorOf(answer) == CodeUseNonce
	}
	return false
}

// errorOf reads the error of an answer and leaves its body as it was.
func errorOf(answer *http.Response) string {
	head, err := io.ReadAll(io.LimitReader(answer.Body, maxError))
	rest := answer.Body
	answer.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), rest), rest}
	var said struct {
		Code string `json:"error"`
	}
	if err != nil || json.Unmarshal(head, &said) != nil {
		return ""
	}
	return said.Code
}
