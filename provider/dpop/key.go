package dpop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"
)

// Key is the key of a client. It is safe for concurrent use and prints redacted.
type Key struct {
	// Now is the clock of its proofs; nil means time.Now. It must not change while the key is used.
	Now func() time.Time

	signer jose.Signer
	jkt    string
}

// NewKey makes a key for ES256, which lives as long as the process.
func NewKey() (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("dpop: make a key: %w", err)
	}
	return KeyOf(private)
}

// KeyOf returns the key that signer holds, which may be in hardware: P-256, P-384, Ed25519, or RSA
// of 2048 to 4096 bits, which signs with PS256. Any other is an error.
func KeyOf(signer crypto.Signer) (*Key, error) {
	opaque := cryptosigner.Opaque(signer)
	offered := opaque.Algs()
	wanted := algorithms()
	i := slices.IndexFunc(wanted, func(alg jose.SignatureAlgorithm) bool { return slices.Contains(offered, alg) })
	if i < 0 || !rightLength(opaque.Public().Key) {
		return nil, errors.New("dpop: a key of this kind makes no proofs")
	}
	options := (&jose.SignerOptions{EmbedJWK: true}).WithType(typ)
	jws, err := jose.NewSigner(jose.SigningKey{Algorithm: wanted[i], Key: opaque}, options)
	if err != nil {
		return nil, fmt.Errorf("dpop: %w", err)
	}
	sum, err := opaque.Public().Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("dpop: %w", err)
	}
	return &Key{signer: jws, jkt: base64.RawURLEncoding.EncodeToString(sum)}, nil
}

// Thumbprint is the SHA-256 thumbprint of the key (RFC 7638): the jkt of a token that is bound to
// it, and the parameter dpop_jkt.
func (k *Key) Thumbprint() string { return k.jkt }

// String returns the thumbprint.
func (k *Key) String() string { return "DPoP key " + k.jkt }

// LogValue keeps the key out of logs.
func (k *Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// Proof makes a proof for one request (RFC 9449 §4.2): its method, in upper case as it is sent,
// and its URL, whose query and fragment are left out. nonce is what the server sent last, empty
// when it sent none; accessToken is the token that goes with the request, empty without one.
func (k *Key) Proof(method, address, nonce, accessToken string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		// The error of url.Parse repeats the address, query and all.
		return "", errors.New("dpop: a request without an absolute URL")
	}
	target := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	said := struct {
		ID       string `json:"jti"`
		Method   string `json:"htm"`
		URL      string `json:"htu"`
		IssuedAt int64  `json:"iat"`
		Hash     string `json:"ath,omitempty"`
		Nonce    string `json:"nonce,omitempty"`
	}{ID: rand.Text(), Method: method, URL: target.String(), IssuedAt: k.now().Unix(), Nonce: nonce}
	if accessToken != "" {
		said.Hash = tokenHash(accessToken)
	}
	payload, err := json.Marshal(said)
	if err != nil {
		return "", fmt.Errorf("dpop: %w", err)
	}
	signed, err := k.signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("dpop: sign: %w", err)
	}
	return signed.CompactSerialize()
}

func (k *Key) now() time.Time {
	if k.Now != nil {
		return k.Now()
	}
	return time.Now() //nolint:forbidigo // This is where the clock is configured.
}
