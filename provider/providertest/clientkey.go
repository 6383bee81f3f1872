package providertest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/url"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider/internal/jws"
)

// ClientKey is a key that a client signs with: the assertions of private_key_jwt (RFC 7523) and
// request objects (RFC 9101).
type ClientKey struct {
	// ID is its kid.
	ID string
	// Algorithm is what it signs with: ES256, EdDSA (also as Ed25519, RFC 9864), PS256 or RS256.
	Algorithm jose.SignatureAlgorithm

	private crypto.Signer
}

// NewClientKey makes a key of 2048 bits for RS256 and PS256, of P-256 for ES256, of Ed25519 for
// EdDSA and Ed25519. It takes no other algorithm.
func NewClientKey(tb testing.TB, alg jose.SignatureAlgorithm, id string) *ClientKey {
	tb.Helper()
	k := &ClientKey{ID: id, Algorithm: alg}
	var err error
	switch alg {
	case jose.ES256:
		k.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.EdDSA, jws.Ed25519:
		_, k.private, err = ed25519.GenerateKey(rand.Reader)
	case jose.RS256, jose.PS256:
		k.private, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		tb.Fatalf("providertest: no key for %s", alg)
	}
	must(tb, err)
	return k
}

// JWKS returns the JWK set of the public halves (RFC 7517 §5).
func JWKS(keys ...*ClientKey) jose.JSONWebKeySet {
	var set jose.JSONWebKeySet
	for _, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.private.Public(), KeyID: k.ID, Algorithm: string(k.Algorithm), Use: "sig"})
	}
	return set
}

// Sign returns the claims as a JWS in compact form. An empty typ leaves the header out.
func (k *ClientKey) Sign(tb testing.TB, typ string, claims map[string]any) string {
	tb.Helper()
	payload, err := json.Marshal(claims)
	must(tb, err)
	return k.SignBytes(tb, typ, payload)
}

// SignBytes is Sign for a payload of any bytes.
func (k *ClientKey) SignBytes(tb testing.TB, typ string, payload []byte) string {
	tb.Helper()
	if k.Algorithm == jws.Ed25519 {
		return k.signEd25519(tb, typ, payload)
	}
	options := &jose.SignerOptions{}
	if typ != "" {
		options.WithType(jose.ContentType(typ))
	}
	key := jose.SigningKey{Algorithm: k.Algorithm, Key: jose.JSONWebKey{Key: k.private, KeyID: k.ID}}
	signer, err := jose.NewSigner(key, options)
	must(tb, err)
	signed, err := signer.Sign(payload)
	must(tb, err)
	compact, err := signed.CompactSerialize()
	must(tb, err)
	return compact
}

// signEd25519 signs under the name that go-jose does not know.
func (k *ClientKey) signEd25519(tb testing.TB, typ string, payload []byte) string {
	tb.Helper()
	header, err := json.Marshal(struct {
		Algorithm jose.SignatureAlgorithm `json:"alg"`
		KeyID     string                  `json:"kid"`
		Type      string                  `json:"typ,omitempty"`
	}{k.Algorithm, k.ID, typ})
	must(tb, err)
	input := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload)
	signature, err := k.private.Sign(nil, []byte(input), crypto.Hash(0))
	must(tb, err)
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// Assertion returns an assertion of the client for this issuer, good for a minute on the server's
// clock and for one request. changes replace claims; nil leaves one out.
func (s *Server) Assertion(k *ClientKey, clientID string, changes map[string]any) string {
	s.tb.Helper()
	now := s.Clock.Now()
	claims := map[string]any{
		"iss": clientID, "sub": clientID, "aud": s.Issuer, "jti": rand.Text(), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, value any) bool { return value == nil })
	return k.Sign(s.tb, "", claims)
}

// AssertionForm returns the form with the assertion in it, as private_key_jwt sends it (RFC 7521
// §4.2).
func AssertionForm(form url.Values, assertion string) url.Values {
	form = maps.Clone(form)
	form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	form.Set("client_assertion", assertion)
	return form
}

// PostSigned sends a form as a client that authenticates with private_key_jwt.
func (s *Server) PostSigned(ctx context.Context, k *ClientKey, clientID, path string, form url.Values) *Reply {
	s.tb.Helper()
	return s.Post(ctx, s.Client(), path, AssertionForm(form, s.Assertion(k, clientID, nil)))
}
