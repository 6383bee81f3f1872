package jws_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider/internal/jws"
)

// signed is what libraries of today make with a key of Ed25519; go-jose cannot.
func signed(key ed25519.PrivateKey, header, payload string) string {
	input := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	return input + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(input)))
}

func TestEd25519(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stranger, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := signed(private, `{"alg":"Ed25519"}`, `{"iss":"a"}`)
	both := []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA}
	for name, row := range map[string]struct {
		compact string
		algs    []jose.SignatureAlgorithm
		key     any
		refused bool
	}{
		"by its new name":                {good, both, public, false},
		"by its old name":                {signed(private, `{"alg":"EdDSA"}`, `{"iss":"a"}`), both, public, false},
		"with the key as a JWK":          {good, both, &jose.JSONWebKey{Key: public}, false},
		"where EdDSA is not accepted":    {good, both[:1], public, true},
		"with another key":               {good, both, stranger, true},
		"with a key of another kind":     {good, both, []byte(public), true},
		"with a key that is too short":   {good, both, public[:31], true},
		"with another payload":           {strings.Replace(good, ".", ".e30", 1), both, public, true},
		"with critical extensions":       {signed(private, `{"alg":"Ed25519","crit":["exp"],"exp":1}`, `{}`), both, public, true},
		"with the other name in its alg": {signed(private, `{"alg":"Ed448"}`, `{}`), both, public, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parsed, err := jws.Parse(row.compact, row.algs)
			var payload []byte
			if err == nil {
				payload, err = jws.Verify(parsed, row.compact, row.key)
			}
			if (err != nil) != row.refused || !row.refused && string(payload) != `{"iss":"a"}` {
				t.Errorf("payload %q, error %v", payload, err)
			}
		})
	}
	if len(both) != 2 || both[1] != jose.EdDSA {
		t.Error("the list of the caller has changed")
	}
}
