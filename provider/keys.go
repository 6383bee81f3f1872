package provider

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// keyRing holds the server keys and the signing keys. The RSA key takes a second to make, so
// it is made beside the start; until it is there an RS256 client's ID token waits for it. If
// that failed, the next such ID token has it tried again.
type keyRing struct {
	store  storage.Keys
	now    func() time.Time
	logger *slog.Logger
	server []storage.Key

	mu      sync.RWMutex
	signing []signingKey

	making sync.Mutex
	// made is closed when the try under way to make the RSA key is over; nil when none is.
	made   chan struct{}
	closed bool
	done   sync.WaitGroup
}

type signingKey struct {
	alg    jose.SignatureAlgorithm
	public jose.JSONWebKey
	// signers are by the typ of what they sign.
	signers map[string]jose.Signer
}

// What a key signs, by the typ of its header: it keeps one from passing for the other.
const (
	typIDToken     = "JWT"
	typLogoutToken = "logout+jwt"
)

// openKeys loads the keys and makes the missing ones.
func openKeys(ctx context.Context, c *Config) (*keyRing, error) {
	ring := &keyRing{store: c.Store, now: c.Now, logger: c.Logger}
	keys, err := c.Store.Keys(ctx)
	if err != nil {
		return nil, fmt.Errorf("provider: load keys: %w", err)
	}
	for _, k := range keys {
		if err := ring.add(*k); err != nil {
			return nil, err
		}
	}
	if len(ring.server) == 0 {
		if err := ring.makeServerKey(ctx, c.Rand); err != nil {
			return nil, err
		}
	}
	if !ring.has(jose.ES256) {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("provider: make ES256 key: %w", err)
		}
		if err := ring.keep(ctx, private, jose.ES256); err != nil {
			return nil, err
		}
	}
	if !ring.has(jose.RS256) {
		ring.makeRSA(ctx)
	}
	return ring, nil
}

func (r *keyRing) makeServerKey(ctx context.Context, random io.Reader) error {
	var raw [44]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return fmt.Errorf("provider: random bytes: %w", err)
	}
	k := storage.Key{ID: "s-" + base64.RawURLEncoding.EncodeToString(raw[32:]), Use: storage.KeyServer, Secret: raw[:32], CreatedAt: r.now()}
	if err := r.store.PutKey(ctx, &k); err != nil {
		return fmt.Errorf("provider: store server key: %w", err)
	}
	return r.add(k)
}

// makeRSA makes the RS256 key beside what goes on, unless a try is under way already, and
// returns the channel that is closed when the try is over. A closed ring makes nothing.
func (r *keyRing) makeRSA(ctx context.Context) <-chan struct{} {
	r.making.Lock()
	defer r.making.Unlock()
	switch {
	case r.made != nil:
		return r.made
	case r.closed || r.has(jose.RS256):
		over := make(chan struct{})
		close(over)
		return over
	}
	made := make(chan struct{})
	r.made = made
	ctx = context.WithoutCancel(ctx)
	r.done.Go(func() {
		private, err := rsa.GenerateKey(rand.Reader, 2048)
		if err == nil {
			err = r.keep(ctx, private, jose.RS256)
		}
		if err != nil {
			r.logger.ErrorContext(ctx, "the RS256 key was not made", "error", err)
		}
		r.making.Lock()
		defer r.making.Unlock()
		r.made = nil
		close(made)
	})
	return made
}

func (r *keyRing) keep(ctx context.Context, private crypto.Signer, alg jose.SignatureAlgorithm) error {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return fmt.Errorf("provider: encode %s key: %w", alg, err)
	}
	// The thumbprint as kid is unique per key and the same for every replica.
	sum, err := (&jose.JSONWebKey{Key: private.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		return fmt.Errorf("provider: thumbprint: %w", err)
	}
	k := storage.Key{ID: base64.RawURLEncoding.EncodeToString(sum), Use: storage.KeySigning, Algorithm: string(alg), Secret: der, CreatedAt: r.now()}
	if err := r.store.PutKey(ctx, &k); err != nil {
		return fmt.Errorf("provider: store %s key: %w", alg, err)
	}
	return r.add(k)
}

func (r *keyRing) add(k storage.Key) error {
	if k.Use == storage.KeyServer {
		r.server = append(r.server, k)
		return nil
	}
	private, err := x509.ParsePKCS8PrivateKey(k.Secret)
	if err != nil {
		return fmt.Errorf("provider: decode key %q: %w", k.ID, err)
	}
	holder, ok := private.(crypto.Signer)
	if !ok {
		return fmt.Errorf("provider: key %q cannot sign", k.ID)
	}
	alg := jose.SignatureAlgorithm(k.Algorithm)
	signers := make(map[string]jose.Signer)
	for _, typ := range []string{typIDToken, typLogoutToken} {
		options := (&jose.SignerOptions{}).WithType(jose.ContentType(typ))
		signers[typ], err = jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: private, KeyID: k.ID}}, options)
		if err != nil {
			return fmt.Errorf("provider: signer of key %q: %w", k.ID, err)
		}
	}
	public := jose.JSONWebKey{Key: holder.Public(), KeyID: k.ID, Algorithm: k.Algorithm, Use: "sig"}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.signing = append(r.signing, signingKey{alg: alg, public: public, signers: signers})
	return nil
}

func (r *keyRing) has(alg jose.SignatureAlgorithm) bool {
	_, ok := r.find(alg)
	return ok
}

// find returns the newest key of an algorithm.
func (r *keyRing) find(alg jose.SignatureAlgorithm) (signingKey, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, k := range slices.Backward(r.signing) {
		if k.alg == alg {
			return k, true
		}
	}
	return signingKey{}, false
}

// sign returns the compact JWS of payload, waiting for the RSA key when that is asked for.
func (r *keyRing) sign(ctx context.Context, alg jose.SignatureAlgorithm, typ string, payload []byte) (string, error) {
	if alg == jose.RS256 && !r.has(alg) {
		select {
		case <-r.makeRSA(ctx):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	k, ok := r.find(alg)
	if !ok {
		return "", fmt.Errorf("provider: no %s key", alg)
	}
	jws, err := k.signers[typ].Sign(payload)
	if err != nil {
		return "", fmt.Errorf("provider: sign: %w", err)
	}
	return jws.CompactSerialize()
}

// verify returns the payload of a JWS that one of our keys made, retired ones included.
func (r *keyRing) verify(compact string) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.ES256, jose.RS256})
	if err != nil {
		return nil, err
	}
	for _, k := range r.publicKeys().Key(jws.Signatures[0].Header.KeyID) {
		// The algorithm is the key's, never the sender's choice.
		if k.Algorithm == jws.Signatures[0].Header.Algorithm {
			return jws.Verify(k)
		}
	}
	return nil, jose.ErrCryptoFailure
}

// publicKeys returns the JWK set, newest first.
func (r *keyRing) publicKeys() *jose.JSONWebKeySet {
	r.mu.RLock()
	defer r.mu.RUnlock()
	set := &jose.JSONWebKeySet{Keys: make([]jose.JSONWebKey, 0, len(r.signing))}
	for _, k := range slices.Backward(r.signing) {
		set.Keys = append(set.Keys, k.public)
	}
	return set
}

// qrKeys returns the server keys as package qr takes them, the making one first.
func (r *keyRing) qrKeys() []qr.Key {
	keys := make([]qr.Key, 0, len(r.server))
	for _, k := range r.server {
		keys = append(keys, qr.Key{ID: k.ID, Secret: k.Secret})
	}
	return keys
}

// close waits for the RSA key, so that nothing writes to a store that is being closed.
func (r *keyRing) close() {
	r.making.Lock()
	r.closed = true
	r.making.Unlock()
	r.done.Wait()
}
