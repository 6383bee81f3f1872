package dpop_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider/dpop"
)

const (
	method  = "POST"
	address = "https://issuer.example/id/token"
)

// server is a Verifier with a clock that stands until it is moved, and what it has used up.
type server struct {
	*dpop.Verifier
	secrets [][]byte

	mu   sync.Mutex
	now  time.Time
	used map[[32]byte]time.Time
	down error
}

func newServer(change ...func(*dpop.Config)) *server {
	s := &server{
		secrets: [][]byte{[]byte("a secret of nonces, 32 bytes long")},
		now:     time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), used: make(map[[32]byte]time.Time),
	}
	c := dpop.Config{UseOnce: s.useOnce, Secrets: func() [][]byte { return s.secrets }, Now: s.clock}
	for _, f := range change {
		f(&c)
	}
	s.Verifier = dpop.New(c)
	return s
}

func nonceOptional(c *dpop.Config) { c.NonceOptional = true }

func (s *server) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *server) advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

func (s *server) useOnce(_ context.Context, id [32]byte, until time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return s.down
	}
	if kept, ok := s.used[id]; ok && s.now.Before(kept) {
		return dpop.ErrUsed
	}
	s.used[id] = until
	return nil
}

func request(proofs ...string) dpop.Request {
	return dpop.Request{Proofs: proofs, Method: method, URL: address}
}

// token makes compact serialisations that no library would.
type token struct {
	key     crypto.Signer
	alg     string
	header  map[string]any
	payload map[string]any
	// rawHeader and rawPayload stand in place of the two.
	rawHeader, rawPayload string
}

func newToken(t *testing.T, s *server, key crypto.Signer) *token {
	t.Helper()
	return &token{
		key: key, alg: "ES256",
		header: map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": publicJWK(t, key.Public())},
		payload: map[string]any{
			"jti": rand.Text(), "htm": method, "htu": address, "iat": s.clock().Unix(), "nonce": s.Nonce(),
		},
	}
}

func publicJWK(t *testing.T, public any) map[string]any {
	t.Helper()
	encoded, err := json.Marshal(jose.JSONWebKey{Key: public})
	must(t, err)
	var members map[string]any
	must(t, json.Unmarshal(encoded, &members))
	return members
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func text(t *testing.T, raw string, members map[string]any) string {
	t.Helper()
	if raw != "" {
		return raw
	}
	encoded, err := json.Marshal(members)
	must(t, err)
	return string(encoded)
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// input is what is signed.
func (p *token) input(t *testing.T) string {
	t.Helper()
	return b64(text(t, p.rawHeader, p.header)) + "." + b64(text(t, p.rawPayload, p.payload))
}

func (p *token) sign(t *testing.T) string {
	t.Helper()
	input := p.input(t)
	digest := sha256.Sum256([]byte(input))
	var signature []byte
	var err error
	switch key := p.key.(type) {
	case *ecdsa.PrivateKey:
		size := (key.Curve.Params().BitSize + 7) / 8
		var r, s *big.Int
		r, s, err = ecdsa.Sign(rand.Reader, key, digest[:])
		must(t, err)
		signature = append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
	case ed25519.PrivateKey:
		signature = ed25519.Sign(key, []byte(input))
	case *rsa.PrivateKey:
		if p.alg == "RS256" {
			signature, err = rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
		} else {
			signature, err = rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		must(t, err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func ecKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	must(t, err)
	return key
}

// malformed is one row: it changes a good proof, or the request that it comes with.
type malformed struct {
	change func(t *testing.T, p *token, s *server) string
	code   string
}

// header and payload set members of a proof that is otherwise good; nil leaves one out.
func header(name string, value any) malformed {
	return malformed{func(t *testing.T, p *token, _ *server) string {
		t.Helper()
		set(p.header, name, value)
		return p.sign(t)
	}, dpop.CodeInvalidProof}
}

func payload(name string, value any) malformed {
	return malformed{func(t *testing.T, p *token, _ *server) string {
		t.Helper()
		set(p.payload, name, value)
		return p.sign(t)
	}, dpop.CodeInvalidProof}
}

func set(members map[string]any, name string, value any) {
	if value == nil {
		delete(members, name)
		return
	}
	members[name] = value
}

func rawPayload(change func(good string) string) malformed {
	return malformed{func(t *testing.T, p *token, _ *server) string {
		t.Helper()
		p.rawPayload = change(text(t, "", p.payload))
		return p.sign(t)
	}, dpop.CodeInvalidProof}
}

func rawHeader(change func(good string) string) malformed {
	return malformed{func(t *testing.T, p *token, _ *server) string {
		t.Helper()
		p.rawHeader = change(text(t, "", p.header))
		return p.sign(t)
	}, dpop.CodeInvalidProof}
}

func whole(change func(good string) string) malformed {
	return malformed{func(t *testing.T, p *token, _ *server) string {
		t.Helper()
		return change(p.sign(t))
	}, dpop.CodeInvalidProof}
}

func aged(d time.Duration) malformed {
	return malformed{func(t *testing.T, p *token, s *server) string {
		t.Helper()
		p.payload["iat"] = s.clock().Add(d).Unix()
		return p.sign(t)
	}, dpop.CodeInvalidProof}
}

func nonceOf(code string, nonce func(s *server) any) malformed {
	return malformed{func(t *testing.T, p *token, s *server) string {
		t.Helper()
		set(p.payload, "nonce", nonce(s))
		return p.sign(t)
	}, code}
}

// otherKey signs with a key that has this alg and jwk.
func otherKey(alg string, key func(t *testing.T) crypto.Signer) malformed {
	return malformed{func(t *testing.T, p *token, _ *server) string {
		t.Helper()
		p.key, p.alg, p.header["alg"] = key(t), alg, alg
		p.header["jwk"] = publicJWK(t, p.key.Public())
		return p.sign(t)
	}, dpop.CodeInvalidProof}
}

func inTheJWK(name string, value any) malformed {
	return malformed{func(t *testing.T, p *token, _ *server) string {
		t.Helper()
		p.header["jwk"].(map[string]any)[name] = value
		return p.sign(t)
	}, dpop.CodeInvalidProof}
}

func rsaKey(bits int) func(t *testing.T) crypto.Signer {
	return func(t *testing.T) crypto.Signer {
		t.Helper()
		key, err := rsa.GenerateKey(rand.Reader, bits)
		must(t, err)
		return key
	}
}

func curve(c elliptic.Curve) func(t *testing.T) crypto.Signer {
	return func(t *testing.T) crypto.Signer { t.Helper(); return ecKey(t, c) }
}

func malformedHeaders() map[string]malformed {
	return map[string]malformed{
		"no typ":                                    header("typ", nil),
		"the typ of any JWT":                        header("typ", "JWT"),
		"the typ of an access token":                header("typ", "at+jwt"),
		"a typ that is no string":                   header("typ", 1),
		"the alg none, without a signature":         {unsigned, dpop.CodeInvalidProof},
		"HS256 with the public key as secret":       {symmetric, dpop.CodeInvalidProof},
		"RS256":                                     otherKey("RS256", rsaKey(2048)),
		"an RSA key of 1024 bits":                   otherKey("PS256", rsaKey(1024)),
		"the curve P-521":                           otherKey("ES512", curve(elliptic.P521())),
		"ES256 with a key of P-384":                 otherKey("ES256", curve(elliptic.P384())),
		"no jwk":                                    header("jwk", nil),
		"a jwk that is a string":                    header("jwk", "x"),
		"a jwk that is null":                        rawHeader(func(s string) string { return strings.Replace(s, `"jwk":{`, `"jwk":null,"x":{`, 1) }),
		"a jwk of another key":                      {foreignJWK, dpop.CodeInvalidProof},
		"a jwk with the private key in it":          {privateJWK, dpop.CodeInvalidProof},
		"a jwk with a part of a private key":        inTheJWK("dp", "AQAB"),
		"a jwk that is a secret":                    header("jwk", map[string]any{"kty": "oct", "k": "c2VjcmV0"}),
		"a jwk off its curve":                       inTheJWK("x", base64.RawURLEncoding.EncodeToString(make([]byte, 32))),
		"certificates in the jwk":                   inTheJWK("x5c", []string{"MIIB"}),
		"critical extensions":                       header("crit", []string{"exp"}),
		"an unencoded payload":                      {unencoded, dpop.CodeInvalidProof},
		"a header with two of typ":                  rawHeader(func(s string) string { return strings.Replace(s, `{`, `{"typ":"dpop+jwt",`, 1) }),
		"a header with two of alg, one escaped":     rawHeader(func(s string) string { return strings.Replace(s, `{`, `{"\u0061lg":"ES256",`, 1) }),
		"a jwk with two of x":                       rawHeader(func(s string) string { return strings.Replace(s, `"jwk":{`, `"jwk":{"x":"AA",`, 1) }),
		"a header with something behind the object": rawHeader(func(s string) string { return s + " {}" }),
		"a header that is no object":                rawHeader(func(string) string { return `[]` }),
		"a header that is null":                     rawHeader(func(string) string { return `null` }),
	}
}

func malformedPayloads() map[string]malformed {
	return map[string]malformed{
		"no jti":                           payload("jti", nil),
		"an empty jti":                     payload("jti", ""),
		"a jti of 257 characters":          payload("jti", strings.Repeat("a", 257)),
		"a jti that is a number":           payload("jti", 7),
		"no htm":                           payload("htm", nil),
		"another htm":                      payload("htm", "GET"),
		"an htm in lower case":             payload("htm", "post"),
		"no htu":                           payload("htu", nil),
		"an htu of another host":           payload("htu", "https://other.example/id/token"),
		"an htu of another port":           payload("htu", "https://issuer.example:8443/id/token"),
		"an htu of another path":           payload("htu", "https://issuer.example/id/tokens"),
		"an htu with a slash behind":       payload("htu", address+"/"),
		"an htu in another case":           payload("htu", "https://issuer.example/id/Token"),
		"an htu with an encoded slash":     payload("htu", "https://issuer.example/id%2Ftoken"),
		"an htu of another scheme":         payload("htu", "http://issuer.example/id/token"),
		"an htu without a host":            payload("htu", "/id/token"),
		"an htu with a user":               payload("htu", "https://u@issuer.example/id/token"),
		"an htu that is no address":        payload("htu", "https://issuer.example/%zz"),
		"no iat":                           payload("iat", nil),
		"an iat that is a string":          payload("iat", "1772366400"),
		"an iat that is nonsense":          payload("iat", 1e30),
		"an iat that no number can hold":   rawPayload(func(s string) string { return strings.Replace(s, `"iat":`, `"iat":1e999,"x":`, 1) }),
		"an iat below zero":                payload("iat", -1),
		"an iat an hour ago":               aged(-time.Hour),
		"an iat 71 s ago":                  aged(-71 * time.Second),
		"an iat in 11 s":                   aged(11 * time.Second),
		"an iat in an hour":                aged(time.Hour),
		"no nonce":                         nonceOf(dpop.CodeUseNonce, func(*server) any { return nil }),
		"an empty nonce":                   nonceOf(dpop.CodeUseNonce, func(*server) any { return "" }),
		"a nonce of somebody else":         nonceOf(dpop.CodeUseNonce, func(*server) any { return "xNOPMhU6RzvyVJzqVbLl1ErR" }),
		"a nonce of before":                {oldNonce, dpop.CodeUseNonce},
		"a nonce that is a number":         nonceOf(dpop.CodeInvalidProof, func(*server) any { return 7 }),
		"names in another case":            rawPayload(func(s string) string { return strings.Replace(s, `"jti"`, `"JTI"`, 1) }),
		"two of jti":                       rawPayload(func(s string) string { return strings.Replace(s, `{`, `{"jti":"other",`, 1) }),
		"two of a name that nobody reads":  rawPayload(func(s string) string { return strings.Replace(s, `{`, `{"x":1,"x":1,`, 1) }),
		"two of a name inside a member":    rawPayload(func(s string) string { return strings.Replace(s, `{`, `{"x":[{"a":1,"a":1}],`, 1) }),
		"something behind the object":      rawPayload(func(s string) string { return s + "{}" }),
		"a payload that is no object":      rawPayload(func(string) string { return `"x"` }),
		"a payload that is cut off":        rawPayload(func(s string) string { return s[:len(s)-1] }),
		"a payload that is not UTF-8":      rawPayload(func(s string) string { return strings.Replace(s, `{`, "{\"x\":\"\xff\",", 1) }),
		"an empty payload":                 whole(func(s string) string { p := strings.Split(s, "."); return p[0] + ".." + p[2] }),
		"a changed payload":                whole(changedPayload),
		"a changed signature":              whole(changedSignature),
		"no signature":                     whole(func(s string) string { return s[:strings.LastIndex(s, ".")+1] }),
		"garbage behind it":                whole(func(s string) string { return s + "." }),
		"a line break inside":              whole(func(s string) string { return s[:len(s)-4] + "\n" + s[len(s)-4:] }),
		"padding":                          whole(func(s string) string { return s + "==" }),
		"two proofs in one header":         whole(func(s string) string { return s + ", " + s }),
		"an empty header":                  whole(func(string) string { return "" }),
		"a word":                           whole(func(string) string { return "x" }),
		"a proof of more than 8 KiB":       payload("x", strings.Repeat("a", 8<<10)),
		"the JSON serialisation":           whole(jsonSerialisation),
		"the general JSON serialisation":   whole(generalSerialisation),
		"a proof that is nested for a lot": rawPayload(func(string) string { return strings.Repeat("[", 5000) }),
	}
}

func unsigned(t *testing.T, p *token, _ *server) string {
	t.Helper()
	p.header["alg"] = "none"
	return p.input(t) + "."
}

func symmetric(t *testing.T, p *token, _ *server) string {
	t.Helper()
	p.header["alg"] = "HS256"
	input := p.input(t)
	mac := hmac.New(sha256.New, []byte(text(t, "", p.header["jwk"].(map[string]any))))
	mac.Write([]byte(input))
	return input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func foreignJWK(t *testing.T, p *token, _ *server) string {
	t.Helper()
	p.header["jwk"] = publicJWK(t, ecKey(t, elliptic.P256()).Public())
	return p.sign(t)
}

func privateJWK(t *testing.T, p *token, _ *server) string {
	t.Helper()
	p.header["jwk"] = publicJWK(t, p.key)
	return p.sign(t)
}

// unencoded is RFC 7797 as it should be, but for the compact form, which nobody could split.
func unencoded(t *testing.T, p *token, _ *server) string {
	t.Helper()
	p.header["b64"], p.header["crit"] = false, []string{"b64"}
	head, said := b64(text(t, "", p.header)), text(t, "", p.payload)
	digest := sha256.Sum256([]byte(head + "." + said))
	r, s, err := ecdsa.Sign(rand.Reader, p.key.(*ecdsa.PrivateKey), digest[:])
	must(t, err)
	signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return head + "." + b64(said) + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func oldNonce(t *testing.T, p *token, s *server) string {
	t.Helper()
	s.advance(6 * time.Minute)
	p.payload["iat"] = s.clock().Unix()
	return p.sign(t)
}

func changedPayload(s string) string {
	parts := strings.Split(s, ".")
	raw, _ := base64.RawURLEncoding.DecodeString(parts[1]) // It is what the test has encoded.
	return parts[0] + "." + b64(strings.Replace(string(raw), `{`, `{"x":1,`, 1)) + "." + parts[2]
}

func changedSignature(s string) string {
	i := strings.LastIndex(s, ".") + 10
	other := byte('A')
	if s[i] == other {
		other = 'B'
	}
	return s[:i] + string(other) + s[i+1:]
}

func jsonSerialisation(s string) string {
	p := strings.Split(s, ".")
	return `{"protected":"` + p[0] + `","payload":"` + p[1] + `","signature":"` + p[2] + `"}`
}

func generalSerialisation(s string) string {
	p := strings.Split(s, ".")
	return `{"payload":"` + p[1] + `","signatures":[{"protected":"` + p[0] + `","signature":"` + p[2] + `"}]}`
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	for _, rows := range []map[string]malformed{malformedHeaders(), malformedPayloads()} {
		for name, row := range rows {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newServer()
				key := ecKey(t, elliptic.P256())
				good := newToken(t, s, key).sign(t)
				if _, err := s.Verify(t.Context(), request(good)); err != nil {
					t.Fatalf("the proof is refused before it is changed: %v", err)
				}
				s.used = make(map[[32]byte]time.Time)
				p := newToken(t, s, key)
				proof := row.change(t, p, s)
				jkt, err := s.Verify(t.Context(), request(proof))
				var refused *dpop.Error
				if jkt != "" || !errors.As(err, &refused) || refused.Code != row.code {
					t.Errorf("got %q, %v; want %s", jkt, err, row.code)
				}
				if len(s.used) != 0 {
					t.Error("a proof that was refused has used its jti up")
				}
			})
		}
	}
}

func TestVerifyAccepts(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]malformed{
		"a proof as it should be":                   header("typ", "dpop+jwt"),
		"an htu with a query and a fragment":        payload("htu", address+"?a=b#c"),
		"an htu with the default port":              payload("htu", "https://issuer.example:443/id/token"),
		"an htu with scheme and host in upper case": payload("htu", "HTTPS://Issuer.EXAMPLE/id/token"),
		"an htu with needless percent-encoding":     payload("htu", "https://issuer.example/id/%74oken"),
		"an htu of the WebSocket":                   payload("htu", "wss://issuer.example/id/token"),
		"an iat 9 s ahead":                          aged(9 * time.Second),
		"an iat 10 s ahead":                         aged(10 * time.Second),
		"an iat 10 s ago":                           aged(-10 * time.Second),
		"an iat 70 s ago":                           aged(-70 * time.Second),
		"an iat with a fraction":                    rawPayload(func(s string) string { return strings.Replace(s, `,"jti"`, `.5,"jti"`, 1) }),
		"members that nobody knows":                 payload("sub", "x"),
		"header parameters that nobody knows":       header("kid", "x"),
		"a jti of 256 characters":                   payload("jti", strings.Repeat("a", 256)),
		"EdDSA":                                     otherKey("EdDSA", edKey),
		"PS256 with 2048 bits":                      otherKey("PS256", rsaKey(2048)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer()
			p := newToken(t, s, ecKey(t, elliptic.P256()))
			proof := row.change(t, p, s)
			jkt, err := s.Verify(t.Context(), request(proof))
			if err != nil {
				t.Fatal(err)
			}
			sum, err := (&jose.JSONWebKey{Key: p.key.Public()}).Thumbprint(crypto.SHA256)
			must(t, err)
			if want := base64.RawURLEncoding.EncodeToString(sum); jkt != want {
				t.Errorf("got %q, want the thumbprint %q", jkt, want)
			}
		})
	}
}

func edKey(t *testing.T) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	return key
}
