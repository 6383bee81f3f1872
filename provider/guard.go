package provider

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// hashesAtOnce bounds the memory of password hashing: 19 MiB each.
	hashesAtOnce = 4
	// Failed sign-ins an address and an account may have in a row, and how fast they return.
	addressFailures = 30
	addressRefill   = 3 * time.Second
	accountFailures = 10
	accountRefill   = 20 * time.Second
	// guardedNames bounds the table; beyond it those with nothing held against them go.
	guardedNames = 20_000
)

// signInGuard slows password guessing by address and by account. Only failures count, so
// nobody is locked out by signing in.
type signInGuard struct {
	now    func() time.Time
	hashes chan struct{}

	mu      sync.Mutex
	buckets map[string]*rate.Limiter
}

func newSignInGuard(now func() time.Time) *signInGuard {
	return &signInGuard{now: now, hashes: make(chan struct{}, hashesAtOnce), buckets: make(map[string]*rate.Limiter)}
}

// allow reports whether another try may be made.
func (g *signInGuard) allow(address netip.Addr, login string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	return g.address(address).TokensAt(now) >= 1 && g.account(login).TokensAt(now) >= 1
}

// failed takes one try from the address and one from the account.
func (g *signInGuard) failed(address netip.Addr, login string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	g.address(address).AllowN(now, 1)
	g.account(login).AllowN(now, 1)
}

// address counts an IPv6 network as one: a home has 2^64 addresses.
func (g *signInGuard) address(a netip.Addr) *rate.Limiter {
	bits := 64
	if a.Is4() {
		bits = 32
	}
	network, err := a.Prefix(bits)
	if err != nil {
		network = netip.Prefix{}
	}
	return g.bucket("a:"+network.String(), addressRefill, addressFailures)
}

func (g *signInGuard) account(login string) *rate.Limiter {
	return g.bucket("u:"+strings.ToLower(login), accountRefill, accountFailures)
}

func (g *signInGuard) bucket(name string, refill time.Duration, burst int) *rate.Limiter {
	if b, ok := g.buckets[name]; ok {
		return b
	}
	if len(g.buckets) >= guardedNames {
		g.forget()
	}
	b := rate.NewLimiter(rate.Every(refill), burst)
	g.buckets[name] = b
	return b
}

// forget drops the full buckets, and all of them when that frees nothing: a flood of names
// must not grow the table.
func (g *signInGuard) forget() {
	now := g.now()
	for name, b := range g.buckets {
		if b.TokensAt(now) >= float64(b.Burst()) {
			delete(g.buckets, name)
		}
	}
	if len(g.buckets) >= guardedNames {
		clear(g.buckets)
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
