package provider

import (
	"cmp"
	"crypto/sha256"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// After the failures that are free a try waits firstWait, after each further one twice as
	// long, at most longestWait.
	firstWait   = time.Second
	longestWait = 15 * time.Minute
	// At an account under attack a strange network waits from its first failure on.
	attackedWait        = 15 * time.Minute
	longestAttackedWait = 4 * time.Hour
	// failuresKept is how long after the last one the failures of a pair are remembered.
	failuresKept = 24 * time.Hour
	// pairFailures are free at one account, from one browser, home or network.
	pairFailures = 5
	// networkFailures are free at all accounts together; one is forgiven every networkRefill.
	networkFailures = 30
	networkRefill   = 3 * time.Second
	// accountFailures from strange networks make an account one under attack, unless they come
	// more slowly than accountRefill.
	accountFailures = 100
	accountRefill   = 5 * time.Minute
	// guardedCounts bounds the memory: about 20 MB.
	guardedCounts = 100_000
	// homesKept is how long a network counts as one where the person has signed in. There are at
	// most homesOfAccount for each of at most guardedHomes accounts.
	homesKept      = 90 * 24 * time.Hour
	homesOfAccount = 8
	guardedHomes   = 20_000
)

// signInGuard slows password guessing without a way to keep the person out. Who tries decides
// what a failure counts against, and nobody else waits for it:
//
//   - a browser that has signed in as this person before (knownbrowser.go): against that browser
//     at this account;
//   - else an address from which this person signed in lately: against that address at this
//     account;
//   - else a stranger: against the network at this account and the network at all accounts, for
//     IPv4 a /24, for IPv6 the /64 with the /56 and the /48 around it, and against the account.
//
// The waits grow with each failure. What strangers fail at an account changes nothing for its
// browsers and homes, nor for the first try of a network that has never failed there: an account
// under attack has longer waits only for strange networks that have failed at it.
//
// What remains: a guesser has one try from each fresh network that he controls, and few more from
// each in a day (TestGuessesOfADay). A person without a browser or home that we know waits with
// an attacker in the very same /24 or /48; another network, or the phone, leads in at once. Only
// failures count, and a restart forgets them.
type signInGuard struct {
	now    func() time.Time
	hashes hashQueue

	mu     sync.Mutex
	counts map[guardKey]*guardCount
	homes  map[account][]home
}

// account is a login as it counts: hashed, so that a long one takes no more memory.
type account [sha256.Size]byte

func accountOf(login string) account { return sha256.Sum256([]byte(strings.ToLower(login))) }

// guardKind says what a count is of.
type guardKind byte

const (
	countBrowser guardKind = iota + 1
	countHome
	countPair
	countNetwork
	countAccount
)

// guardKey names a count. That of a browser has the hash of its id and the account in account.
type guardKey struct {
	kind    guardKind
	network netip.Prefix
	account account
}

// guardCount holds the failures up to at; pending tries are under way.
type guardCount struct {
	failures float64
	at       time.Time
	pending  int
}

// home is a network from which a person has signed in.
type home struct {
	network netip.Prefix
	at      time.Time
}

// guardTry is one try under way.
type guardTry struct {
	account account
	home    netip.Prefix
	keys    []guardKey
	// hasher is whom the check of the password counts for.
	hasher hasher
}

// outcome is how a try ended.
type outcome int

const (
	// tryUnknown is that of a password nobody looked at.
	tryUnknown outcome = iota
	tryFailed
	trySucceeded
)

func newSignInGuard(now func() time.Time) *signInGuard {
	return &signInGuard{now: now, counts: make(map[guardKey]*guardCount), homes: make(map[account][]home)}
}

// begin starts a try, which the caller must end, or says how long to wait before the next one.
// browserID is that of a browser that has signed in as this person before; empty for any other. A
// try holds its place from before the password is looked at: tries in parallel count like others.
func (g *signInGuard) begin(address netip.Addr, login, browserID string) (*guardTry, time.Duration) {
	who := accountOf(login)
	try := &guardTry{account: who, home: homeOf(address), hasher: hasher{known: true, account: who}}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	if len(g.counts) >= guardedCounts {
		g.forget(now)
	}
	switch {
	case browserID != "":
		try.keys = []guardKey{{kind: countBrowser, account: sha256.Sum256(append(who[:], browserID...))}}
	case g.isHome(who, try.home, now):
		try.keys = []guardKey{{kind: countHome, network: try.home, account: who}}
	default:
		networks := networksOf(address)
		for _, n := range networks {
			try.keys = append(try.keys, guardKey{kind: countPair, network: n, account: who}, guardKey{kind: countNetwork, network: n})
		}
		try.keys = append(try.keys, guardKey{kind: countAccount, account: who})
		try.hasher = hasher{network: networks[len(networks)-1]}
	}
	if wait := g.wait(try, now); wait > 0 {
		return nil, wait
	}
	for _, key := range try.keys {
		c := g.counts[key]
		if c == nil {
			c = &guardCount{at: now}
			g.counts[key] = c
		}
		c.pending++
	}
	return try, 0
}

// wait is how long a try has to wait, by the count that says longest.
func (g *signInGuard) wait(try *guardTry, now time.Time) time.Duration {
	var longest time.Duration
	for _, key := range try.keys {
		if c := g.counts[key]; c != nil {
			longest = max(longest, c.wait(key, now))
		}
	}
	// The first key of a stranger is that of the smallest network.
	pair := g.counts[try.keys[0]]
	if last := try.keys[len(try.keys)-1]; last.kind == countAccount && pair != nil && g.attacked(last, now) {
		longest = max(longest, pair.attackedWait(try.keys[0], now))
	}
	return longest
}

// attacked reports whether strangers fail at the account faster than a person would.
func (g *signInGuard) attacked(key guardKey, now time.Time) bool {
	c := g.counts[key]
	return c != nil && c.level(key, now)+float64(c.pending)+1 > accountFailures
}

// end gives the places back, and counts a failure. The right password clears what was counted
// against whoever had it, and makes a home of where it came from.
func (g *signInGuard) end(try *guardTry, how outcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	for i, key := range try.keys {
		c := g.counts[key]
		c.pending--
		switch {
		case how == tryFailed:
			c.failures, c.at = c.level(key, now)+1, now
			if key.kind == countAccount {
				// However hard the attack was, it is over soon after its end.
				c.failures = min(c.failures, accountFailures)
			}
		case how == trySucceeded && i == 0:
			c.failures = 0
		}
	}
	if how == trySucceeded {
		g.addHome(try.account, try.home, now)
	}
}

// free are the failures before a try has to wait.
func (k guardKey) free() float64 {
	// A browser has no network, and a home is no wider than the smallest.
	wider := map[int]float64{56: 2, 48: 4}[k.network.Bits()]
	if k.kind == countNetwork {
		return networkFailures * max(wider, 1)
	}
	return pairFailures * max(wider, 1)
}

// refill is how long it takes until one failure is forgiven; zero for those that are kept and
// then forgotten at once.
func (k guardKey) refill() time.Duration {
	switch k.kind {
	case countNetwork:
		return networkRefill
	case countAccount:
		return accountRefill
	case countBrowser, countHome, countPair:
	}
	return 0
}

// level are the failures that count at now.
func (c *guardCount) level(key guardKey, now time.Time) float64 {
	since := now.Sub(c.at)
	if refill := key.refill(); refill > 0 {
		return max(0, c.failures-float64(since)/float64(refill))
	}
	if since >= failuresKept {
		return 0
	}
	return c.failures
}

func (c *guardCount) wait(key guardKey, now time.Time) time.Duration {
	level, pending := c.level(key, now), float64(c.pending)
	switch {
	case key.kind == countAccount, level+pending+1 <= key.free():
		return 0
	case key.kind == countNetwork:
		return time.Duration((level + pending + 1 - key.free()) * float64(key.refill()))
	case c.pending > 0:
		// Beyond the free ones there is one at a time.
		return firstWait
	case level < key.free():
		return 0
	}
	return max(0, c.at.Add(grown(firstWait, longestWait, level-key.free())).Sub(now))
}

// attackedWait is the wait of the smallest strange network at an account under attack.
func (c *guardCount) attackedWait(key guardKey, now time.Time) time.Duration {
	level := c.level(key, now)
	switch {
	case c.pending > 0:
		return firstWait
	case level < 1:
		return 0
	}
	return max(0, c.at.Add(grown(attackedWait, longestAttackedWait, level-1)).Sub(now))
}

// grown doubles a wait as often as said.
func grown(first, longest time.Duration, times float64) time.Duration {
	for ; times >= 1 && first < longest; times-- {
		first *= 2
	}
	return min(first, longest)
}

// networksOf are what an address counts as, the smallest first: a home has 2^64 addresses of IPv6
// and often 256 such networks, an organisation 65536. Neighbours in a /24 are as often one.
func networksOf(a netip.Addr) []netip.Prefix {
	switch {
	case !a.IsValid():
		return []netip.Prefix{{}}
	case a.Is4():
		return []netip.Prefix{prefixOf(a, 24)}
	}
	return []netip.Prefix{prefixOf(a, 64), prefixOf(a, 56), prefixOf(a, 48)}
}

// homeOf is how much of the network around an address is the person's own.
func homeOf(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return prefixOf(a, 32)
	}
	return prefixOf(a, 64)
}

// prefixOf is the zero value for an address nobody knows.
func prefixOf(a netip.Addr, bits int) netip.Prefix {
	prefix, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}

func (g *signInGuard) isHome(who account, network netip.Prefix, now time.Time) bool {
	return slices.ContainsFunc(g.homes[who], func(h home) bool { return h.network == network && now.Sub(h.at) < homesKept })
}

func (g *signInGuard) addHome(who account, network netip.Prefix, now time.Time) {
	if !network.IsValid() {
		return // nobody knows where that is
	}
	homes := slices.DeleteFunc(g.homes[who], func(h home) bool { return h.network == network })
	homes = append(homes, home{network, now})
	g.homes[who] = homes[max(0, len(homes)-homesOfAccount):]
	if len(g.homes) > guardedHomes {
		g.forgetHomes()
	}
}

// forgetHomes drops the tenth of the accounts whose people have not signed in for longest.
func (g *signInGuard) forgetHomes() {
	last := make([]time.Time, 0, len(g.homes))
	for _, homes := range g.homes {
		last = append(last, homes[len(homes)-1].at)
	}
	slices.SortFunc(last, time.Time.Compare)
	limit, excess := last[guardedHomes/10], guardedHomes/10
	for who, homes := range g.homes {
		if excess > 0 && !homes[len(homes)-1].at.After(limit) {
			delete(g.homes, who)
			excess--
		}
	}
}

// forget drops the counts without failures, and when that frees less than a tenth, those with the
// fewest and oldest: a flood of names and networks must neither grow the table nor push out of it
// what an account under attack has against the attackers.
func (g *signInGuard) forget(now time.Time) {
	type candidate struct {
		key   guardKey
		level float64
		at    time.Time
	}
	var failed []candidate
	for key, c := range g.counts {
		switch level := c.level(key, now); {
		case c.pending > 0:
		case level <= 0:
			delete(g.counts, key)
		default:
			failed = append(failed, candidate{key, level, c.at})
		}
	}
	excess := len(g.counts) - guardedCounts*9/10
	if excess <= 0 {
		return
	}
	slices.SortFunc(failed, func(a, b candidate) int { return cmp.Or(cmp.Compare(a.level, b.level), a.at.Compare(b.at)) })
	for _, c := range failed[:min(excess, len(failed))] {
		delete(g.counts, c.key)
	}
}
