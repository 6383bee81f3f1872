package dpop_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/qrgrant/qrgrant/provider/dpop"
)

// hardware is a key that nobody can read.
type hardware struct{ private crypto.Signer }

func (h hardware) Public() crypto.PublicKey { return h.private.Public() }

func (h hardware) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	return h.private.Sign(r, digest, o)
}

func TestKeysProve(t *testing.T) {
	t.Parallel()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	for name, signer := range map[string]crypto.Signer{
		"P-256": ecKey(t, elliptic.P256()), "P-384": ecKey(t, elliptic.P384()), "Ed25519": ed,
		"RSA": rsaKey(2048)(t), "P-256 in hardware": hardware{ecKey(t, elliptic.P256())},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer()
			key, err := dpop.KeyOf(signer)
			must(t, err)
			key.Now = s.clock
			proof, err := key.Proof(method, address+"?secret=1#x", s.Nonce(), "token")
			must(t, err)
			r := request(proof)
			r.AccessToken = "token"
			jkt, err := s.Verify(t.Context(), r)
			must(t, err)
			if jkt != key.Thumbprint() || len(jkt) != 43 {
				t.Errorf("got %q, want %q", jkt, key.Thumbprint())
			}
			if strings.Contains(proof, b64("secret")) {
				t.Error("the query is in the proof")
			}
			if again, err := key.Proof(method, address, "", ""); err != nil || again == proof {
				t.Errorf("two proofs are the same, %v", err)
			}
		})
	}
}

func TestKeysThatProveNothing(t *testing.T) {
	t.Parallel()
	for name, signer := range map[string]crypto.Signer{
		"P-521": ecKey(t, elliptic.P521()), "P-224": ecKey(t, elliptic.P224()), "RSA with 1024 bits": rsaKey(1024)(t),
	} {
		if _, err := dpop.KeyOf(signer); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestProofNeedsAnAddress(t *testing.T) {
	t.Parallel()
	key, err := dpop.NewKey()
	must(t, err)
	for _, address := range []string{"", "/token", "https://issuer.example/%zz?code=secret"} {
		if _, err := key.Proof(method, address, "", ""); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestAKeyPrintsRedacted(t *testing.T) {
	t.Parallel()
	private := ecKey(t, elliptic.P256())
	key, err := dpop.KeyOf(private)
	must(t, err)
	for _, printed := range []string{fmt.Sprintf("%v %s", key, key), key.LogValue().String()} {
		if !strings.Contains(printed, key.Thumbprint()) || strings.Contains(printed, secretOf(t, private)) {
			t.Errorf("got %q", printed)
		}
	}
}

func secretOf(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	raw, err := key.Bytes()
	must(t, err)
	return b64(string(raw))
}
