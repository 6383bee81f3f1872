package provider

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json" // It tells names by their case and refuses a member twice.

	"github.com/qrgrant/qrgrant/provider/internal/fetch"
	"github.com/qrgrant/qrgrant/provider/internal/jws"
	"github.com/qrgrant/qrgrant/storage"
)

const (
	// maxJWKS bounds a JWK set in bytes, maxClientKeys how many keys are in it.
	maxJWKS       = 64 << 10
	maxClientKeys = 32
	// minRSABits is the least that RS256 and PS256 take (RFC 7518 §3.3); go-jose has the most.
	minRSABits = 2048
	// maxKeySets bounds the addresses whose keys are remembered.
	maxKeySets = 512
	// keysFresh is how long keys that were read are taken for good, unless their answer says
	// less; keysFreshLeast is the least it can say.
	keysFresh      = 10 * time.Minute
	keysFreshLeast = time.Minute
	// keysAgain is the least time between two reads of an address with keys that were read
	// before, whoever sends unknown key ids; keysRetry that of an address that never answered.
	keysAgain = time.Minute
	keysRetry = 15 * time.Second
	// keysStale is how long keys are used that cannot be read any more.
	keysStale = time.Hour
)

// errNoKey: none of the client's keys is the one that a JWS names.
var errNoKey = errors.New("provider: no key of the client fits")

// clientKeys checks what clients sign, with the keys they registered by value or by reference.
// Keys by reference are remembered: what a client signs is checked at every request, and an
// address must not be read more often because somebody sends us rubbish in its client's name.
type clientKeys struct {
	// fetcher is shared with everything that is read for anybody. own reads for the clients of the
	// operator alone, whom others must not keep out by addresses that answer slowly.
	fetcher *fetch.Fetcher
	own     *fetch.Fetcher
	now     func() time.Time
	logger  *slog.Logger
	// nobody is a key that nobody has, for the work that an unknown client costs.
	nobody *ecdsa.PublicKey

	mu   sync.Mutex
	sets map[string]*keySet
}

// keySet is what is known of one address; clientKeys.mu guards it.
type keySet struct {
	// keys are those of the last answer that was a JWK set, and readAt is when it came; zero
	// when there was none yet.
	keys       []jose.JSONWebKey
	readAt     time.Time
	freshUntil time.Time
	// triedAt is when the last try began and cause why it failed; nil when it did not.
	triedAt time.Time
	cause   error
	// flight is closed when the try under way is over; nil when there is none.
	flight chan struct{}
}

func newClientKeys(c *Config, fetcher *fetch.Fetcher) (*clientKeys, error) {
	// Nobody has it, because its private half is thrown away here.
	nobody, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("provider: %w", err)
	}
	own := fetch.New(fetch.Config{Networks: c.FetchNetworks, Roots: c.FetchRoots})
	return &clientKeys{fetcher: fetcher, own: own, now: c.Now, logger: c.Logger, nobody: &nobody.PublicKey, sets: make(map[string]*keySet)}, nil
}

// verify checks a JWS in compact form with the keys of a client, signed with one of algs. The
// error wraps fetch.ErrBusy when the fault is ours; any other is the client's, or of whoever
// signed in its name. It bounds neither the size of the JWS nor what the payload says.
func (k *clientKeys) verify(ctx context.Context, client *storage.Client, compact string, algs []jose.SignatureAlgorithm) (payload []byte, header jose.Header, err error) {
	signed, err := jws.Parse(compact, algs)
	if err != nil {
		return nil, header, fmt.Errorf("provider: %w", err)
	}
	header = signed.Signatures[0].Protected
	if header.ExtraHeaders["crit"] != nil || header.ExtraHeaders["b64"] != nil {
		return nil, header, errors.New("provider: a header that nobody needs")
	}
	keys, err := k.of(ctx, client, false)
	if err != nil {
		return nil, header, err
	}
	payload, err = verifyWith(signed, compact, keys)
	// A key that is not known may be new (OpenID Connect Core §10.1.1); without a key id, so may
	// be one that does not fit.
	if client.JWKSURI != "" && (errors.Is(err, errNoKey) || err != nil && header.KeyID == "") {
		if keys, err = k.of(ctx, client, true); err == nil {
			payload, err = verifyWith(signed, compact, keys)
		}
	}
	return payload, header, err
}

// verifyNothing costs about what verify costs, for a client that does not exist.
func (k *clientKeys) verifyNothing(compact string, algs []jose.SignatureAlgorithm) {
	if signed, err := jws.Parse(compact, algs); err == nil {
		_, _ = signed.Verify(k.nobody)
	}
}

// verifyWith checks a signature with the one key that it can be of. Where two could be meant
// neither is tried: the number of keys must not multiply the work.
func verifyWith(signed *jose.JSONWebSignature, compact string, keys []jose.JSONWebKey) ([]byte, error) {
	header := signed.Signatures[0].Protected
	var meant *jose.JSONWebKey
	for i := range keys {
		if header.KeyID != "" && header.KeyID != keys[i].KeyID || !fits(&keys[i], jose.SignatureAlgorithm(header.Algorithm)) {
			continue
		}
		if meant != nil {
			return nil, errNoKey
		}
		meant = &keys[i]
	}
	if meant == nil {
		return nil, errNoKey
	}
	payload, err := jws.Verify(signed, compact, meant.Key)
	if err != nil {
		return nil, fmt.Errorf("provider: %w", err)
	}
	return payload, nil
}

// fits reports whether a key is one for an algorithm (RFC 7518 §3.3 to §3.5, RFC 8037 §3.1).
func fits(key *jose.JSONWebKey, alg jose.SignatureAlgorithm) bool {
	if key.Algorithm != "" && key.Algorithm != string(alg) && !isEdDSA(jose.SignatureAlgorithm(key.Algorithm), alg) {
		return false
	}
	switch public := key.Key.(type) {
	case *ecdsa.PublicKey:
		return alg == jose.ES256 && public.Curve == elliptic.P256() || alg == jose.ES384 && public.Curve == elliptic.P384()
	case *rsa.PublicKey:
		return alg == jose.RS256 || alg == jose.PS256
	case ed25519.PublicKey:
		return isEdDSA(alg)
	}
	return false
}

// isEdDSA reports whether all of these are names of EdDSA with Ed25519.
func isEdDSA(algs ...jose.SignatureAlgorithm) bool {
	return !slices.ContainsFunc(algs, func(alg jose.SignatureAlgorithm) bool { return alg != jose.EdDSA && alg != jws.Ed25519 })
}

// of returns the keys of a client. again asks for newer ones than were found before.
func (k *clientKeys) of(ctx context.Context, client *storage.Client, again bool) ([]jose.JSONWebKey, error) {
	if client.JWKSURI != "" {
		fetcher := k.fetcher
		if client.Source == storage.ClientConfigured {
			fetcher = k.own
		}
		return k.at(ctx, fetcher, client.JWKSURI, again)
	}
	keys, _, err := parseKeys(client.JWKS)
	return keys, err
}

// at returns the keys at an address, reading them when they are due. Whoever comes while they
// are being read waits for that, which takes no longer than package fetch allows.
func (k *clientKeys) at(ctx context.Context, fetcher *fetch.Fetcher, uri string, again bool) ([]jose.JSONWebKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.set(uri)
	switch {
	case s.flight != nil:
		if err := k.wait(ctx, s.flight); err != nil {
			return nil, err
		}
	case s.due(k.now(), again):
		k.read(ctx, fetcher, uri, s)
	}
	if s.readAt.IsZero() || k.now().After(s.readAt.Add(keysStale)) {
		return nil, fmt.Errorf("provider: the keys of a client cannot be read: %w", s.cause)
	}
	return s.keys, nil
}

// wait lets go of the lock until the try under way is over.
func (k *clientKeys) wait(ctx context.Context, flight <-chan struct{}) error {
	k.mu.Unlock()
	defer k.mu.Lock()
	select {
	case <-flight:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// due reports whether the keys are to be read now.
func (s *keySet) due(now time.Time, again bool) bool {
	switch {
	case s.triedAt.IsZero():
		return true
	case s.readAt.IsZero():
		return !now.Before(s.triedAt.Add(keysRetry))
	}
	return (again || !now.Before(s.freshUntil)) && !now.Before(s.triedAt.Add(keysAgain))
}

// read reads the keys at an address. What it finds is for everybody who asks, so that it goes on
// when the first of them leaves.
func (k *clientKeys) read(ctx context.Context, fetcher *fetch.Fetcher, uri string, s *keySet) {
	flight, tried := make(chan struct{}), s.triedAt
	s.flight, s.triedAt = flight, k.now()
	// Deferred, so that nobody waits for ever should reading panic.
	defer func() {
		s.flight = nil
		close(flight)
	}()
	keys, fresh, err := k.fetch(context.WithoutCancel(ctx), fetcher, uri)
	s.cause = err
	switch {
	case err == nil:
		s.keys, s.readAt = keys, k.now()
		s.freshUntil = s.readAt.Add(fresh)
	case errors.Is(err, fetch.ErrBusy):
		s.triedAt = tried // nobody was asked
	default:
		k.logger.WarnContext(ctx, "the keys of a client cannot be read", slog.String("jwks_uri", uri), slog.Any("error", err))
	}
}

// fetch lets go of the lock while it reads.
func (k *clientKeys) fetch(ctx context.Context, fetcher *fetch.Fetcher, uri string) (keys []jose.JSONWebKey, fresh time.Duration, err error) {
	k.mu.Unlock()
	defer k.mu.Lock()
	document, err := fetcher.Get(ctx, uri, maxJWKS, "application/json", "application/jwk-set+json")
	if err != nil {
		return nil, 0, err
	}
	// A set without a key that we can use is a set all the same: its owner has withdrawn them.
	keys, _, err = parseKeys(document.Body)
	return keys, freshFor(document), err
}

// freshFor is how long an answer is good, within our own bounds.
func freshFor(document *fetch.Document) time.Duration {
	if age, said, _ := document.Age(); said {
		return min(max(age, keysFreshLeast), keysFresh)
	}
	return keysFresh
}

// set returns what is known of an address. What was not asked for the longest gives way.
func (k *clientKeys) set(uri string) *keySet {
	if s := k.sets[uri]; s != nil {
		return s
	}
	if len(k.sets) >= maxKeySets {
		oldest := ""
		for u, s := range k.sets {
			if s.flight == nil && (oldest == "" || s.triedAt.Before(k.sets[oldest].triedAt)) {
				oldest = u
			}
		}
		delete(k.sets, oldest)
	}
	s := new(keySet)
	k.sets[uri] = s
	return s
}

// CheckJWKS reports what is wrong with a JWK set by value (RFC 7517 §5): it has at least one
// public key that verifies signatures (RSA of 2048 to 4096 bits, P-256, P-384 or Ed25519), no
// private or symmetric key, at most 32 keys and 64 KiB. Keys of kinds that are not known are
// ignored.
func CheckJWKS(raw []byte) error {
	keys, secret, err := parseKeys(raw)
	switch {
	case err != nil:
		return err
	case secret:
		return errors.New("provider: the JWK set holds a private or a symmetric key")
	case len(keys) == 0:
		return errors.New("provider: the JWK set holds no public key for signatures")
	}
	return nil
}

// jwk is what go-jose does not tell of a key.
type jwk struct {
	Kty string   `json:"kty"`
	Use string   `json:"use"`
	Ops []string `json:"key_ops"`
	// The members that only private and symmetric keys have (RFC 7518 §6).
	D   json.RawMessage `json:"d"`
	P   json.RawMessage `json:"p"`
	Q   json.RawMessage `json:"q"`
	DP  json.RawMessage `json:"dp"`
	DQ  json.RawMessage `json:"dq"`
	QI  json.RawMessage `json:"qi"`
	Oth json.RawMessage `json:"oth"`
	K   json.RawMessage `json:"k"`
	// Priv is that of AKP keys (RFC 9964).
	Priv json.RawMessage `json:"priv"`
}

func (j *jwk) secret() bool {
	for _, member := range []json.RawMessage{j.D, j.P, j.Q, j.DP, j.DQ, j.QI, j.Oth, j.K, j.Priv} {
		if member != nil {
			return true
		}
	}
	return j.Kty == "oct"
}

// forSignatures follows RFC 7517 §4.2 and §4.3.
func (j *jwk) forSignatures() bool {
	verifies := j.Ops == nil
	for _, op := range j.Ops {
		verifies = verifies || op == "verify"
	}
	return verifies && (j.Use == "" || j.Use == "sig")
}

// parseKeys reads a JWK set and returns the keys in it that verify signatures. Those of other
// kinds are left out (RFC 7517 §5), and so is a private key, which is nobody's secret any more;
// secret says that there was one.
func parseKeys(raw []byte) (keys []jose.JSONWebKey, secret bool, err error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if len(raw) > maxJWKS {
		return nil, false, errors.New("provider: the JWK set is too large")
	}
	if err := json.Unmarshal(raw, &set); err != nil || set.Keys == nil {
		return nil, false, errors.New("provider: not a JWK set")
	}
	if len(set.Keys) > maxClientKeys {
		return nil, false, errors.New("provider: the JWK set holds too many keys")
	}
	for _, one := range set.Keys {
		var facts jwk
		if json.Unmarshal(one, &facts) != nil {
			continue
		}
		if facts.secret() {
			secret = true
			continue
		}
		var key jose.JSONWebKey
		if facts.forSignatures() && key.UnmarshalJSON(one) == nil && strong(&key) {
			keys = append(keys, key)
		}
	}
	return keys, secret, nil
}

// strong reports whether a key is a public one that we would trust a signature of.
func strong(key *jose.JSONWebKey) bool {
	switch public := key.Key.(type) {
	case *ecdsa.PublicKey:
		return public.Curve == elliptic.P256() || public.Curve == elliptic.P384()
	case *rsa.PublicKey:
		return public.N.BitLen() >= minRSABits && public.E >= 3 && public.E%2 == 1
	case ed25519.PublicKey:
		return len(public) == ed25519.PublicKeySize
	}
	return false
}
