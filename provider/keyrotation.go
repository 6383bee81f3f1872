package provider

import (
	"context"
	"crypto"
	"crypto/ecdsa"
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

// keySchedule is when a signing key is published, signs, and is forgotten. A key signs until
// its successor begins to, rotate later; the successor is published ahead of that, so that no
// relying party meets a kid it could not have fetched; what is retired verifies for keep more.
type keySchedule struct {
	rotate, ahead, keep time.Duration
}

// tend makes the keys that are due, forgets those that nothing can refer to any more, and
// learns of those that another replica made. A new RSA key takes a second.
func (r *keyRing) tend(ctx context.Context) error {
	r.tending.Lock()
	defer r.tending.Unlock()
	if err := r.reload(ctx); err != nil {
		return err
	}
	var errs []error
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.RS256} {
		if from, due := r.dueAt(alg, r.now()); due {
			errs = append(errs, r.makeNext(ctx, alg, from))
		}
	}
	return errors.Join(append(errs, r.forget(ctx))...)
}

// tendSoon runs tend beside what goes on, when something is due and nobody swept.
func (r *keyRing) tendSoon(ctx context.Context) {
	now := r.now()
	_, due := r.dueAt(jose.ES256, now)
	if _, dueRSA := r.dueAt(jose.RS256, now); !due && !dueRSA {
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
			r.logger.ErrorContext(ctx, "the signing keys were not rotated", "error", err)
		}
	})
}

// reload makes the ring hold what the store holds.
func (r *keyRing) reload(ctx context.Context) error {
	stored, err := r.store.Keys(ctx)
	if err != nil {
		return fmt.Errorf("provider: load keys: %w", err)
	}
	known := map[string]bool{}
	for _, k := range r.all() {
		known[k.public.KeyID] = true
	}
	var errs []error
	for _, k := range stored {
		if k.Use == storage.KeySigning && !known[k.ID] {
			errs = append(errs, r.load(*k))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.signing = slices.DeleteFunc(r.signing, func(k signingKey) bool {
		return known[k.public.KeyID] && !slices.ContainsFunc(stored, func(s *storage.Key) bool { return s.ID == k.public.KeyID })
	})
	return errors.Join(errs...)
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

// forget removes the keys whose last ID token can no longer be a hint.
func (r *keyRing) forget(ctx context.Context) error {
	var errs []error
	for _, k := range r.all() {
		if r.verifies(k, r.now()) {
			continue
		}
		if err := r.store.DeleteKey(ctx, k.public.KeyID); err != nil {
			errs = append(errs, fmt.Errorf("provider: remove key: %w", err))
			continue
		}
		r.mu.Lock()
		r.signing = slices.DeleteFunc(r.signing, func(other signingKey) bool { return other.public.KeyID == k.public.KeyID })
		r.mu.Unlock()
		r.logger.InfoContext(ctx, "a retired signing key was removed", "key_id", k.public.KeyID)
	}
	return errors.Join(errs...)
}

// verifies reports whether a key is still good for verification: it signs, or will, or ceased
// to less than keep ago.
func (r *keyRing) verifies(k signingKey, now time.Time) bool {
	for _, next := range r.of(k.alg) {
		if compareKeys(next, k) > 0 {
			return now.Before(next.activeFrom.Add(r.schedule.keep))
		}
	}
	return true
}

// current returns the key that signs at now: the newest that is active.
func (r *keyRing) current(alg jose.SignatureAlgorithm, now time.Time) (signingKey, bool) {
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
	return signingKey{}, false
}

// of returns the keys of an algorithm in the order in which they sign.
func (r *keyRing) of(alg jose.SignatureAlgorithm) []signingKey {
	return slices.DeleteFunc(r.all(), func(k signingKey) bool { return k.alg != alg })
}

// all returns a copy of the ring in the order in which its keys sign.
func (r *keyRing) all() []signingKey {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Clone(r.signing)
}

// compareKeys orders keys by when they begin to sign, the same on every replica.
func compareKeys(a, b signingKey) int {
	if by := a.activeFrom.Compare(b.activeFrom); by != 0 {
		return by
	}
	return strings.Compare(a.public.KeyID, b.public.KeyID)
}

// detached is a context for work beside a request. It must not carry the values of the request's
// own: the unit of work among them belongs to another goroutine and is over before the key is.
func detached(context.Context) context.Context { return context.Background() }

func generateKey(alg jose.SignatureAlgorithm) (crypto.Signer, error) {
	if alg == jose.RS256 {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}
