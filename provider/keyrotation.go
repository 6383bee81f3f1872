package provider

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/storage"
)

// tendEvery is the shortest time between two looks at the keys that no Sweep asked for.
const tendEvery = time.Minute

// keySchedule is when a key is published, signs, and is forgotten. A key signs until
// its successor begins to, rotate later; the successor is published ahead of that, so that no
// relying party meets a kid it could not have fetched; what is retired verifies for keep more.
// A server key goes the same way, published to the other processes on the store only; retired,
// it verifies for keepServer what a QR session, a form or the note of a browser's last use is sealed
// with, and for keepKnown the note of a known browser alone, which opens nothing: whoever learnt an
// old key can forge no more than that with it.
type keySchedule struct {
	rotate, ahead, keep, keepServer, keepKnown time.Duration
}

// keepForgotten is after what time a retired server key is forgotten.
func (s keySchedule) keepForgotten() time.Duration { return max(s.keepServer, s.keepKnown) }

// ringAlgorithms lists what the ring has keys for.
func ringAlgorithms() []jose.SignatureAlgorithm {
	return append(signingAlgorithms(), serverHMAC)
}

// signingAlgorithms lists those of what relying parties verify, as metadata names them.
func signingAlgorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.EdDSA}
}

// tend makes the keys that are due, forgets those that nothing can refer to any more, and
// learns of those that another replica made. A new RSA key takes a second.
func (r *keyRing) tend(ctx context.Context) error {
	r.tending.Lock()
	defer r.tending.Unlock()
	// A row that is no key of ours must not stop the rotation; it is told of at the end.
	errs, err := r.read(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, alg := range ringAlgorithms() {
		if from, due := r.dueAt(alg, r.now()); due {
			errs = append(errs, r.makeNext(ctx, alg, from))
		}
	}
	return errors.Join(append(errs, r.forget(ctx))...)
}

// tendSoon runs tend beside what goes on, when something is due and nobody swept.
func (r *keyRing) tendSoon(ctx context.Context) {
	now := r.now()
	if !slices.ContainsFunc(ringAlgorithms(), func(alg jose.SignatureAlgorithm) bool {
		_, due := r.dueAt(alg, now)
		return due
	}) {
		return
	}
	r.making.Lock()
	defer r.making.Unlock()
	if r.closed || now.Before(r.tended.Add(tendEvery)) {
		return
	}
	r.tended = now
	ctx = detached(ctx)
	r.done.Go(func() {
		if err := r.tend(ctx); err != nil {
			r.logger.ErrorContext(ctx, "the keys were not rotated", "error", err)
		}
	})
}

// learn makes the ring hold what the store holds, when nobody tends it.
func (r *keyRing) learn(ctx context.Context) error {
	r.tending.Lock()
	defer r.tending.Unlock()
	return r.reload(ctx)
}

// reload is read for those who have nothing to do in spite of a stray row.
func (r *keyRing) reload(ctx context.Context) error {
	strays, err := r.read(ctx)
	return errors.Join(append(strays, err)...)
}

// read makes the ring hold what the store holds, and returns what is wrong with each row that is
// not taken. After err nothing may be made. What the ring knows is taken before the store is read:
// a key that is made in between is not in what was read, and must stay.
func (r *keyRing) read(ctx context.Context) (strays []error, err error) {
	known := map[string]bool{}
	for _, k := range r.all() {
		known[k.id] = true
	}
	stored, err := r.store.Keys(ctx)
	if err != nil {
		return nil, fmt.Errorf("provider: load keys: %w", err)
	}
	if len(r.seals) == 0 && slices.ContainsFunc(stored, isSealed) {
		// Another process has sealed the store: what this one makes would lie in the clear.
		return nil, ErrKeySeal
	}
	for _, k := range stored {
		if known[k.ID] {
			continue
		}
		if err := r.load(*k); err != nil {
			strays = append(strays, err)
		}
	}
	r.drop(func(k *ringKey) bool {
		return known[k.id] && !slices.ContainsFunc(stored, func(s *storage.Key) bool { return s.ID == k.id })
	})
	if errors.Is(errors.Join(strays...), ErrKeySeal) && !slices.ContainsFunc(stored, r.seals.sealed) {
		// It is not one row: others seal anew, and could not open what this process would seal.
		return strays, ErrKeySeal
	}
	return strays, nil
}

// dueAt reports whether the next key of an algorithm must be published by now, and from when
// it is to sign. The first key is nobody's successor: openKeys makes it.
func (r *keyRing) dueAt(alg jose.SignatureAlgorithm, now time.Time) (from time.Time, due bool) {
	keys := r.of(alg)
	if len(keys) == 0 {
		return time.Time{}, false
	}
	from = keys[len(keys)-1].activeFrom.Add(r.schedule.rotate)
	if now.Before(from.Add(-r.schedule.ahead)) {
		return time.Time{}, false
	}
	// A server that was off when it was due still publishes first.
	if soonest := now.Add(r.schedule.ahead); soonest.After(from) {
		from = soonest
	}
	return from, true
}

func (r *keyRing) makeNext(ctx context.Context, alg jose.SignatureAlgorithm, from time.Time) error {
	if alg == serverHMAC {
		return r.makeServer(ctx, from)
	}
	private, err := generateKey(alg)
	if err != nil {
		return fmt.Errorf("provider: make %s key: %w", alg, err)
	}
	if err := r.keep(ctx, private, alg, from); err != nil {
		return err
	}
	r.logger.InfoContext(ctx, "a signing key was made", "algorithm", string(alg), "active_from", from)
	return nil
}

// forget removes the keys whose last ID token can no longer be a hint, and the server keys that
// nothing lasting names.
func (r *keyRing) forget(ctx context.Context) error {
	var errs []error
	for _, k := range r.all() {
		if r.verifies(k, r.now()) {
			continue
		}
		if err := r.store.DeleteKey(ctx, k.id); err != nil {
			errs = append(errs, fmt.Errorf("provider: remove key: %w", err))
			continue
		}
		r.drop(func(other *ringKey) bool { return other.id == k.id })
		r.logger.InfoContext(ctx, "a retired key was removed", "key_id", k.id)
	}
	return errors.Join(errs...)
}

// verifies reports whether a key is still good for any verification.
func (r *keyRing) verifies(k *ringKey, now time.Time) bool {
	keep := r.schedule.keep
	if k.alg == serverHMAC {
		keep = r.schedule.keepForgotten()
	}
	return r.lasts(k, keep, now)
}

// lasts reports whether a key signs, or will, or ceased to less than keep ago.
func (r *keyRing) lasts(k *ringKey, keep time.Duration, now time.Time) bool {
	for _, next := range r.of(k.alg) {
		if compareKeys(next, k) > 0 {
			return now.Before(next.activeFrom.Add(keep))
		}
	}
	return true
}

// current returns the key that signs at now: the newest that is active.
func (r *keyRing) current(alg jose.SignatureAlgorithm, now time.Time) (*ringKey, bool) {
	keys := r.of(alg)
	for _, k := range slices.Backward(keys) {
		if !now.Before(k.activeFrom) {
			return k, true
		}
	}
	// A clock that went back must not stop the sign-ins.
	if len(keys) > 0 {
		return keys[0], true
	}
	return nil, false
}

// of returns the keys of an algorithm in the order in which they sign.
func (r *keyRing) of(alg jose.SignatureAlgorithm) []*ringKey {
	var keys []*ringKey
	for _, k := range r.all() {
		if k.alg == alg {
			keys = append(keys, k)
		}
	}
	return keys
}

// all returns the ring in the order in which its keys sign; the slice is not to be changed.
func (r *keyRing) all() []*ringKey {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.keys
}

// compareKeys orders keys by when they begin to sign, the same on every replica.
func compareKeys(a, b *ringKey) int {
	if by := a.activeFrom.Compare(b.activeFrom); by != 0 {
		return by
	}
	return strings.Compare(a.id, b.id)
}

// detached is a context for work beside a request. It must not carry the values of the request's
// own: the unit of work among them belongs to another goroutine and is over before the key is.
func detached(context.Context) context.Context { return context.Background() }

func generateKey(alg jose.SignatureAlgorithm) (crypto.Signer, error) {
	if alg == jose.RS256 {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	if alg == jose.EdDSA {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}
