package provider

import (
	"cmp"
	"context"
	"crypto/sha256"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// hashesAtOnce bounds the memory of password hashing: 19 MiB each.
	hashesAtOnce = 4
	// Failed sign-ins in a row, and how fast they return: those of a network, those at an
	// account from one network, and those at an account from everywhere. The last is wide,
	// because it is the one by which strangers can keep the person out.
	networkFailures = 30
	networkRefill   = 3 * time.Second
	accountFailures = 10
	accountRefill   = 20 * time.Second
	everyFailures   = 100
	everyRefill     = 20 * time.Second
	// guardedNames is how many buckets are kept beside those of the tries under way.
	guardedNames = 20_000
)

// signInGuard slows password guessing by network, by account and network, and by account.
// Only failures count, so nobody is locked out by signing in. A try holds its place in all
// three from before the password is looked at: tries in parallel are counted like any others.
type signInGuard struct {
	now    func() time.Time
	hashes chan struct{}

	mu      sync.Mutex
	buckets map[guardKey]*guardBucket
}

// guardKey names a bucket. Logins are hashed, so that a long one takes no more memory.
type guardKey struct {
	kind    byte
	network netip.Prefix
	login   [sha256.Size]byte
}

// guardBucket holds the failures that are left; pending of them belong to tries under way.
type guardBucket struct {
	*rate.Limiter
	pending int
}

// guardTry is one try under way.
type guardTry []*guardBucket

func newSignInGuard(now func() time.Time) *signInGuard {
	return &signInGuard{now: now, hashes: make(chan struct{}, hashesAtOnce), buckets: make(map[guardKey]*guardBucket)}
}

// begin reports whether another try may be made. If so the caller must end it.
func (g *signInGuard) begin(address netip.Addr, login string) (guardTry, bool) {
	from, account := network(address), sha256.Sum256([]byte(strings.ToLower(login)))
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	if len(g.buckets) >= guardedNames {
		g.forget(now)
	}
	try := guardTry{
		g.bucket(guardKey{kind: 'n', network: from}, networkRefill, networkFailures),
		g.bucket(guardKey{kind: 'a', network: from, login: account}, accountRefill, accountFailures),
		g.bucket(guardKey{kind: 'e', login: account}, everyRefill, everyFailures),
	}
	for _, b := range try {
		if b.TokensAt(now) < float64(b.pending+1) {
			return nil, false
		}
	}
	for _, b := range try {
		b.pending++
	}
	return try, true
}

// end gives the places back, but for those of a failure.
func (g *signInGuard) end(try guardTry, failed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	for _, b := range try {
		b.pending--
		if failed {
			b.AllowN(now, 1)
		}
	}
}

// network is what an address counts as: a home has 2^64 addresses of IPv6.
func network(a netip.Addr) netip.Prefix {
	bits := 64
	if a.Is4() {
		bits = 32
	}
	prefix, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}

func (g *signInGuard) bucket(key guardKey, refill time.Duration, burst int) *guardBucket {
	if b, ok := g.buckets[key]; ok {
		return b
	}
	b := &guardBucket{Limiter: rate.NewLimiter(rate.Every(refill), burst)}
	g.buckets[key] = b
	return b
}

// forget drops the buckets without failures, and when that frees less than a tenth, those
// that are soonest without: a flood of names must neither grow the table nor push out of it
// what an account under attack has against it.
func (g *signInGuard) forget(now time.Time) {
	type candidate struct {
		key  guardKey
		wait float64
	}
	var failed []candidate
	for key, b := range g.buckets {
		missing := float64(b.Burst()) - b.TokensAt(now)
		switch {
		case b.pending > 0:
		case missing <= 0:
			delete(g.buckets, key)
		default:
			failed = append(failed, candidate{key, missing / float64(b.Limit())})
		}
	}
	excess := len(g.buckets) - guardedNames*9/10
	if excess <= 0 {
		return
	}
	slices.SortFunc(failed, func(a, b candidate) int { return cmp.Compare(a.wait, b.wait) })
	for _, c := range failed[:min(excess, len(failed))] {
		delete(g.buckets, c.key)
	}
}

// verify hashes when a place is free, or gives up with ctx.
func (g *signInGuard) verify(ctx context.Context, hash, password string) (bool, error) {
	select {
	case g.hashes <- struct{}{}:
		defer func() { <-g.hashes }()
		return VerifyPassword(hash, password), nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}
