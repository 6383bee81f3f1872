package provider

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
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

// keyRing holds the server keys and the signing keys; keyrotation.go renews them, keyseal.go
// encrypts them at rest. The first RSA key takes a second to make, so
// it is made beside the start; until it is there an RS256 client's ID token waits for it. If
// that failed, the next such ID token has it tried again.
type keyRing struct {
	store    storage.Store
	now      func() time.Time
	random   io.Reader
	logger   *slog.Logger
	seals    keySeals
	schedule keySchedule
	// own is for what the ring does for itself: that serves every request and ends with none.
	own context.Context //nolint:containedctx // See above.

	mu sync.RWMutex
	// keys is in the order in which they begin to sign or to make. It is replaced as a whole,
	// never changed, because every request reads it.
	keys []*ringKey

	// tending is held by the one who rotates.
	tending sync.Mutex

	making sync.Mutex
	// tended is when tendSoon last began.
	tended time.Time
	// made is closed when the try under way to make the RSA key is over; nil when none is.
	made   chan struct{}
	closed bool
	done   sync.WaitGroup
}

// ringKey is a signing key, or a server key, which has a secret and neither public nor signers.
type ringKey struct {
	id         string
	alg        jose.SignatureAlgorithm
	activeFrom time.Time
	public     jose.JSONWebKey
	// signers are by the typ of what they sign.
	signers map[string]jose.Signer
	secret  []byte
}

// serverHMAC stands for the server keys where signing keys have their algorithm.
const serverHMAC jose.SignatureAlgorithm = "server"

// What a key signs, by the typ of its header: it keeps one from passing for the other. An answer
// of userinfo has that of an ID token, because relying parties expect no other; it lacks exp and
// iat, without which nothing is an ID token.
const (
	typIDToken  = "JWT"
	typUserinfo = typIDToken
	typLogout   = "logout+jwt"
	typAccess   = "at+jwt"
)

// openKeys loads the keys, seals those that are not sealed under the first seal and makes the
// missing ones.
func openKeys(ctx context.Context, c *Config) (*keyRing, error) {
	seals, err := newKeySeals(c.KeySeals)
	if err != nil {
		return nil, err
	}
	ring := &keyRing{
		store: c.Store, now: c.Now, random: c.Rand, logger: c.Logger, seals: seals, own: detached(ctx),
		schedule: keySchedule{
			rotate: c.KeyRotation, ahead: c.KeyPublishAhead, keep: c.IDTokenLifetime + c.KeyRetention,
			keepServer: max(qr.KeyRetention, formLifetime, c.SessionIdle), keepKnown: knownLifetime,
		},
	}
	keys, err := ring.openStored(ctx)
	if err != nil {
		return nil, err
	}
	if len(seals) == 0 {
		c.Logger.InfoContext(ctx, "private keys are kept in the clear")
	}
	for _, k := range keys {
		if err := ring.add(k); err != nil {
			return nil, err
		}
	}
	for _, alg := range []jose.SignatureAlgorithm{serverHMAC, jose.ES256, jose.EdDSA} {
		if ring.has(alg) {
			continue
		}
		if err := ring.makeNext(ctx, alg, ring.now()); err != nil {
			return nil, err
		}
	}
	if !ring.has(jose.RS256) {
		ring.makeRSA(ctx)
	}
	return ring, nil
}

// put stores a new key, sealed when there is a seal.
func (r *keyRing) put(ctx context.Context, k storage.Key) error {
	sealed := r.seals.seal(k)
	if err := r.store.PutKey(ctx, &sealed); err != nil {
		return fmt.Errorf("provider: store key: %w", err)
	}
	return r.add(k)
}

// load adds a key as it is stored.
func (r *keyRing) load(stored storage.Key) error {
	k, err := r.seals.open(stored)
	if err != nil {
		return err
	}
	return r.add(k)
}

// makeServer makes the server key that is to follow the last one. Its id follows from the
// last one's, so that of several processes that are due at once one makes it, and the others
// learn it.
func (r *keyRing) makeServer(ctx context.Context, from time.Time) error {
	secret := make([]byte, 32)
	if _, err := io.ReadFull(r.random, secret); err != nil {
		return fmt.Errorf("provider: random bytes: %w", err)
	}
	last := ""
	if keys := r.of(serverHMAC); len(keys) > 0 {
		last = keys[len(keys)-1].id
	}
	sum := sha256.Sum256([]byte("provider|server key|" + last))
	err := r.put(ctx, storage.Key{
		ID: "s-" + base64.RawURLEncoding.EncodeToString(sum[:9]), Use: storage.KeyServer, Secret: secret,
		CreatedAt: r.now(), ActiveFrom: from,
	})
	switch {
	case errors.Is(err, storage.ErrConflict):
		return r.reload(ctx)
	case err != nil:
		return err
	}
	r.logger.InfoContext(ctx, "a server key was made", "active_from", from)
	return nil
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
	ctx = detached(ctx)
	r.done.Go(func() {
		err := r.makeNext(ctx, jose.RS256, r.now())
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

// keep stores a key that signs from then on.
func (r *keyRing) keep(ctx context.Context, private crypto.Signer, alg jose.SignatureAlgorithm, from time.Time) error {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return fmt.Errorf("provider: encode %s key: %w", alg, err)
	}
	// The thumbprint as kid is unique per key and the same for every replica.
	sum, err := (&jose.JSONWebKey{Key: private.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		return fmt.Errorf("provider: thumbprint: %w", err)
	}
	return r.put(ctx, storage.Key{
		ID: base64.RawURLEncoding.EncodeToString(sum), Use: storage.KeySigning, Algorithm: string(alg), Secret: der,
		CreatedAt: r.now(), ActiveFrom: from,
	})
}

func (r *keyRing) add(k storage.Key) error {
	if k.Use == storage.KeyPairwise {
		r.insert(&ringKey{id: k.ID, alg: pairwiseHMAC, activeFrom: k.ActiveSince(), secret: k.Secret})
		return nil
	}
	if k.Use == storage.KeyServer {
		r.insert(&ringKey{id: k.ID, alg: serverHMAC, activeFrom: k.ActiveSince(), secret: k.Secret})
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
	for _, typ := range []string{typIDToken, typLogout, typAccess} {
		options := (&jose.SignerOptions{}).WithType(jose.ContentType(typ))
		signers[typ], err = jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: private, KeyID: k.ID}}, options)
		if err != nil {
			return fmt.Errorf("provider: signer of key %q: %w", k.ID, err)
		}
	}
	public := jose.JSONWebKey{Key: holder.Public(), KeyID: k.ID, Algorithm: k.Algorithm, Use: "sig"}
	r.insert(&ringKey{id: k.ID, alg: alg, activeFrom: k.ActiveSince(), public: public, signers: signers})
	return nil
}

// insert adds a key that the ring does not have: between PutKey and add another may have read it
// in the store, and no kid may be published twice.
func (r *keyRing) insert(k *ringKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.ContainsFunc(r.keys, func(known *ringKey) bool { return known.id == k.id }) {
		return
	}
	at, _ := slices.BinarySearchFunc(r.keys, k, compareKeys)
	r.keys = slices.Insert(slices.Clone(r.keys), at, k)
}

// drop removes the keys that gone reports.
func (r *keyRing) drop(gone func(k *ringKey) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = slices.DeleteFunc(slices.Clone(r.keys), gone)
}

func (r *keyRing) has(alg jose.SignatureAlgorithm) bool { return len(r.of(alg)) > 0 }

// sign returns the compact JWS of payload, waiting for the RSA key when that is asked for.
func (r *keyRing) sign(ctx context.Context, alg jose.SignatureAlgorithm, typ string, payload []byte) (string, error) {
	if alg == jose.RS256 && !r.has(alg) {
		select {
		case <-r.makeRSA(ctx):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	r.tendSoon(ctx)
	k, ok := r.current(alg, r.now())
	if !ok {
		return "", fmt.Errorf("provider: no %s key", alg)
	}
	jws, err := k.signers[typ].Sign(payload)
	if err != nil {
		return "", fmt.Errorf("provider: sign: %w", err)
	}
	return jws.CompactSerialize()
}

// verify returns the payload of a JWS of that typ that one of our keys made, retired ones
// included.
func (r *keyRing) verify(compact, typ string) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(compact, signingAlgorithms())
	if err != nil {
		return nil, err
	}
	if jws.Signatures[0].Protected.ExtraHeaders[jose.HeaderType] != typ {
		return nil, jose.ErrCryptoFailure
	}
	for _, k := range r.publicKeys().Key(jws.Signatures[0].Header.KeyID) {
		// The algorithm is the key's, never the sender's choice.
		if k.Algorithm == jws.Signatures[0].Header.Algorithm {
			return jws.Verify(k)
		}
	}
	return nil, jose.ErrCryptoFailure
}

// publicKeys returns the JWK set, newest first: what will sign, what signs, and what signed
// and can still be asked about.
func (r *keyRing) publicKeys() *jose.JSONWebKeySet {
	now := r.now()
	set := &jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range slices.Backward(r.all()) {
		if k.alg != serverHMAC && k.alg != pairwiseHMAC && r.verifies(k, now) {
			set.Keys = append(set.Keys, k.public)
		}
	}
	return set
}

// serverKeys returns the server keys that are in use, the making one first. wanted is the id
// of a key that the caller has to have, empty for none: one that the ring does not know may
// have been made by another process.
func (r *keyRing) serverKeys(wanted string) []qr.Key {
	return r.serverKeysKept(wanted, r.schedule.keepServer)
}

// knownKeys returns the server keys that may have sealed the note of a known browser.
func (r *keyRing) knownKeys() []qr.Key {
	return r.serverKeysKept("", r.schedule.keepForgotten())
}

// serverKeysKept returns the making server key, and the others but for those that retired keep ago.
func (r *keyRing) serverKeysKept(wanted string, keep time.Duration) []qr.Key {
	r.tendSoon(r.own)
	known := func(k *ringKey) bool { return k.id == wanted }
	if wanted != "" && !slices.ContainsFunc(r.all(), known) {
		if err := r.learn(r.own); err != nil {
			r.logger.ErrorContext(r.own, "the server keys were not read", "error", err)
		}
	}
	now := r.now()
	var keys []qr.Key
	making, ok := r.current(serverHMAC, now)
	if ok {
		keys = append(keys, qr.Key{ID: making.id, Secret: making.secret})
	}
	for _, k := range r.of(serverHMAC) {
		if k.id != making.id && r.lasts(k, keep, now) {
			keys = append(keys, qr.Key{ID: k.id, Secret: k.secret})
		}
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
