package dpop_test

import (
	"crypto/elliptic"
	"errors"
	"strings"
	"testing"

	"github.com/qrgrant/qrgrant/provider/dpop"
)

// FuzzVerify looks for a proof that fails otherwise than with a *dpop.Error, or is accepted twice.
func FuzzVerify(f *testing.F) {
	t := &testing.T{}
	seed := newServer()
	key := ecKey(t, elliptic.P256())
	good := newToken(t, seed, key).sign(t)
	f.Add(good, address)
	for _, rows := range []map[string]malformed{malformedHeaders(), malformedPayloads()} {
		for name, row := range rows {
			if strings.Contains(name, "RS") || strings.Contains(name, "of before") {
				continue // RSA takes long, and the clock stands
			}
			f.Add(row.change(t, newToken(t, seed, key), seed), address)
		}
	}
	f.Add(good, "wss://ISSUER.example:443/%69d/token?x")
	f.Add(good, "https://[::1]:0/%")
	f.Fuzz(func(t *testing.T, proof, url string) {
		s := newServer()
		r := dpop.Request{Proofs: []string{proof}, Method: method, URL: url}
		jkt, err := s.Verify(t.Context(), r)
		var refused *dpop.Error
		switch {
		case err != nil && !errors.As(err, &refused):
			t.Fatalf("no *dpop.Error: %v", err)
		case (err == nil) != (len(jkt) == 43) || (err == nil) != (len(s.used) == 1):
			t.Fatalf("%q, %v, %d used", jkt, err, len(s.used))
		}
		if _, again := s.Verify(t.Context(), r); again == nil {
			t.Fatal("accepted twice")
		}
	})
}
