package provider

import (
	"container/heap"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// guarded is a guard with a clock that the test moves.
type guarded struct {
	*signInGuard
	t   *testing.T
	now time.Time
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	g.signInGuard = newSignInGuard(func() time.Time { return g.now })
	return g
}

// try makes a try that ends so, and returns how long it would have had to wait instead.
func (g *guarded) try(address, login, browserID string, how outcome) time.Duration {
	g.t.Helper()
	return g.tryFrom(netip.MustParseAddr(address), login, browserID, how)
}

func (g *guarded) tryFrom(address netip.Addr, login, browserID string, how outcome) time.Duration {
	try, wait := g.begin(address, login, browserID)
	if try != nil {
		g.end(try, how)
	}
	return wait
}

// waits fails n times as early as it may and returns the waits between.
func (g *guarded) waits(n int, fail func() time.Duration) []time.Duration {
	g.t.Helper()
	var waits []time.Duration
	for range n {
		wait := fail()
		if wait > 0 {
			g.now = g.now.Add(wait - time.Nanosecond)
			if again := fail(); again != time.Nanosecond {
				g.t.Fatalf("a nanosecond early: %v", again)
			}
			g.now = g.now.Add(time.Nanosecond)
			if again := fail(); again != 0 {
				g.t.Fatalf("after the wait of %v: %v", wait, again)
			}
		}
		waits = append(waits, wait)
	}
	return waits
}

func seconds(s ...int) []time.Duration {
	var all []time.Duration
	for _, n := range s {
		all = append(all, time.Duration(n)*time.Second)
	}
	return all
}

// The waits double from one second to a quarter of an hour, whatever a failure counts against.
func TestGuardWaitsGrow(t *testing.T) {
	t.Parallel()
	want := seconds(0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900)
	for name, fail := range map[string]func(g *guarded) time.Duration{
		"a stranger of IPv4": func(g *guarded) time.Duration { return g.try("192.0.2.1", "alice", "", tryFailed) },
		"a stranger of IPv6": func(g *guarded) time.Duration { return g.try("2001:db8::1", "alice", "", tryFailed) },
		"a stranger nowhere": func(g *guarded) time.Duration { return g.tryFrom(netip.Addr{}, "alice", "", tryFailed) },
		"a browser":          func(g *guarded) time.Duration { return g.try("192.0.2.1", "alice", "its-id", tryFailed) },
		"a home":             func(g *guarded) time.Duration { return g.try("198.51.100.7", "alice", "", tryFailed) },
	} {
		g := newGuarded(t)
		g.try("198.51.100.7", "alice", "", trySucceeded)
		if diff := cmp.Diff(want, g.waits(len(want), func() time.Duration { return fail(g) })); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		// A day without a failure and all is as in the beginning.
		g.now = g.now.Add(failuresKept)
		if got := g.waits(6, func() time.Duration { return fail(g) }); got[5] != time.Second {
			t.Errorf("%s, a day later: %v", name, got)
		}
	}
}

// An account under attack has longer waits for strange networks that have failed at it.
func TestGuardWaitsAtAnAttackedAccount(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	g.attack("alice")
	want := seconds(0, 900, 1800, 3600, 7200, 14400, 14400)
	if diff := cmp.Diff(want, g.waits(len(want), func() time.Duration {
		g.attack("alice")
		return g.try("198.51.100.1", "alice", "", tryFailed)
	})); diff != "" {
		t.Error(diff)
	}
	// Another account is none of its business.
	if got := g.waits(4, func() time.Duration { return g.try("203.0.113.1", "bob", "", tryFailed) }); got[3] != 0 {
		t.Errorf("at another account: %v", got)
	}
}

// However many failed, an attack is over soon after its end.
func TestAttacksPass(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	for i := range 50 * accountFailures {
		g.tryFrom(at6(i, 0, 1), "alice", "", tryFailed)
	}
	key := guardKey{kind: countAccount, account: accountOf("alice")}
	if !g.attacked(key, g.now) || g.attacked(key, g.now.Add(accountRefill)) {
		t.Error("an account is under attack without an attack, or not under one")
	}
}

// attack lets a hundred networks that nobody else is in fail at the account.
func (g *guarded) attack(login string) {
	g.t.Helper()
	for i := range accountFailures {
		g.tryFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 1}), login, "", tryFailed)
	}
}

// However the networks are cut, more of the same hands are no more tries.
func TestGuardCountsNetworksTogether(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		address func(i int) netip.Addr
		want    int
	}{
		"a /24 of IPv4":             {func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }, 5},
		"a /64 of IPv6":             {func(i int) netip.Addr { return at6(0, 0, i) }, 5},
		"the /64s of a /56 of IPv6": {func(i int) netip.Addr { return at6(0, i%256, 0) }, 10},
		"the /56s of a /48 of IPv6": {func(i int) netip.Addr { return at6(0, i*256, 0) }, 20},
	} {
		g := newGuarded(t)
		got := 0
		for i := range 200 {
			if g.tryFrom(test.address(i), "alice", "", tryFailed) == 0 {
				got++
			}
		}
		if got != test.want {
			t.Errorf("%s: %d tries at once, want %d", name, got, test.want)
		}
	}
}

// at6 is an address in a /48, a /64 of it and an interface.
func at6(site, subnet, host int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, byte(site >> 8), byte(site), byte(subnet >> 8), byte(subnet), 14: byte(host >> 8), 15: byte(host)})
}

// One network at many names is slowed to a failure every three seconds, and forgiven at that pace.
func TestGuardSlowsNetworks(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	for i := range networkFailures {
		if wait := g.try("192.0.2.1", "name-"+strconv.Itoa(i), "", tryFailed); wait != 0 {
			t.Fatalf("name %d: %v", i, wait)
		}
	}
	if wait := g.try("192.0.2.200", "another", "", tryFailed); wait != networkRefill {
		t.Errorf("the 31st name: %v", wait)
	}
	// Who is known there is not slowed with it.
	if wait := g.try("192.0.2.1", "alice", "its-id", tryFailed); wait != 0 {
		t.Errorf("a known browser in that network: %v", wait)
	}
	g.now = g.now.Add(networkRefill)
	if wait := g.try("192.0.2.1", "another", "", trySucceeded); wait != 0 {
		t.Errorf("three seconds later: %v", wait)
	}
	if wait := g.try("192.0.2.1", "another", "", tryFailed); wait != 0 {
		t.Errorf("from what is a home now: %v", wait)
	}
}

// A person signs in at every minute of an attack that never ends, from the browser that has done
// so before, in the attacker's own network too, from a home, and from a network that is new.
func TestAttackersKeepNobodyOut(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	g.try("203.0.113.77", "alice", "", trySucceeded)
	for minute := range 20 {
		for i := range 10_000 {
			g.tryFrom(at6(i, 0, 1), "alice", "", tryFailed)
		}
		for i := range 50 {
			g.tryFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 1}), "alice", "", tryFailed)
			g.tryFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), "alice", "", tryFailed)
		}
		for name, wait := range map[string]time.Duration{
			"known browser":                           g.try("198.51.100.1", "alice", "its-id", trySucceeded),
			"known browser in an attacker's network":  g.tryFrom(at6(7, 0, 2), "alice", "its-id", trySucceeded),
			"home in a /24 of the attacker's":         g.try("203.0.113.77", "alice", "", trySucceeded),
			"a network that never failed":             g.tryFrom(netip.AddrFrom4([4]byte{172, 16, byte(minute), 1}), "alice", "", trySucceeded),
			"a network of IPv6 that has never failed": g.tryFrom(at6(60_000+minute, 0, 1), "alice", "", trySucceeded),
		} {
			if wait != 0 {
				t.Fatalf("minute %d, %s: %v", minute, name, wait)
			}
		}
		g.now = g.now.Add(time.Minute)
		if len(g.counts) > guardedCounts+8 {
			t.Fatalf("%d counts", len(g.counts))
		}
	}
}

// guesser is a network with the time of its next try.
type guesser struct {
	address netip.Addr
	next    time.Time
}

type guessers []guesser

func (h guessers) Len() int           { return len(h) }
func (h guessers) Less(i, j int) bool { return h[i].next.Before(h[j].next) }
func (h guessers) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *guessers) Push(x any)        { *h = append(*h, x.(guesser)) }
func (h *guessers) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// guessesIn is how often the networks together may fail at one account in that time, each of them
// trying again as soon as it is told that it may.
func (g *guarded) guessesIn(d time.Duration, networks []netip.Addr) (guesses int) {
	g.t.Helper()
	start := g.now
	var queue guessers
	for _, n := range networks {
		heap.Push(&queue, guesser{n, start})
	}
	for end := start.Add(d); queue[0].next.Before(end); {
		next := heap.Pop(&queue).(guesser)
		g.now = next.next
		wait := g.tryFrom(next.address, "alice", "", tryFailed)
		if wait == 0 {
			guesses++
		}
		next.next = g.now.Add(max(wait, time.Millisecond))
		heap.Push(&queue, next)
	}
	return guesses
}

// What remains for a guesser: one network has 109 guesses a day (five, ten between 1 s and 512 s,
// and then one each quarter of an hour). Many have ten each (at 0 min, 15 min, 45 min, then after
// one, two and each four hours), and what an account takes before it counts as attacked.
func TestGuessesOfADay(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	if got := newGuarded(t).guessesIn(day, []netip.Addr{netip.MustParseAddr("192.0.2.1")}); got != 5+10+94 {
		t.Errorf("one network: %d guesses a day", got)
	}
	var site, spread []netip.Addr
	for i := range 500 {
		site = append(site, at6(1, i, 1))
	}
	// All /64s of one /48 are little more than one network: 20 free, and the same pace.
	if got := newGuarded(t).guessesIn(day, site); got > 20+10+94 {
		t.Errorf("500 /64s of one /48: %d guesses a day", got)
	}
	for i := range 10_000 {
		spread = append(spread, at6(i, 0, 1))
	}
	for i := range 50 {
		spread = append(spread, netip.AddrFrom4([4]byte{10, 0, byte(i), 1}))
	}
	unattacked := accountFailures + int(day/accountRefill)
	if got, most := newGuarded(t).guessesIn(day, spread), 10*len(spread)+unattacked; got > most || got < 9*len(spread) {
		t.Errorf("10,050 networks: %d guesses a day, at most %d", got, most)
	}
}

// However many names are tried, an account under attack keeps what it has against it, and the
// table does not grow.
func TestFloodOfNamesForgetsNoAttackedAccount(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	for range pairFailures + 1 {
		g.try("192.0.2.1", "alice", "", tryFailed)
		g.now = g.now.Add(time.Second)
	}
	g.attack("alice")
	held, _ := g.begin(netip.MustParseAddr("192.0.3.1"), "bob", "")
	// What comes later pushes out nothing that weighs more.
	g.now = g.now.Add(time.Second)
	for i := range 2 * guardedCounts {
		// Networks enough, so that none is refused for itself.
		from := netip.AddrFrom4([4]byte{11 + byte(i>>16), byte(i >> 8), byte(i), 1})
		g.tryFrom(from, "name-"+strconv.Itoa(i), "", tryFailed)
		if len(g.counts) > guardedCounts+3 {
			t.Fatalf("%d counts", len(g.counts))
		}
	}
	if wait := g.try("192.0.2.1", "alice", "", tryFailed); wait == 0 {
		t.Error("the flood gave the attacker new tries")
	}
	if !g.attacked(guardKey{kind: countAccount, account: accountOf("alice")}, g.now) {
		t.Error("the flood made the attack forgotten")
	}
	// A try that was under way all the time still counts.
	g.end(held, tryFailed)
	if c := g.counts[guardKey{kind: countPair, network: netip.MustParsePrefix("192.0.3.0/24"), account: accountOf("bob")}]; c == nil || c.failures != 1 {
		t.Error("the failure of a try under way was lost")
	}
}

// Homes are bounded too, for an account and in all, and do not last for ever.
func TestGuardForgetsHomes(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	home := func(address, login string) bool {
		return g.isHome(accountOf(login), homeOf(netip.MustParseAddr(address)), g.now)
	}
	g.try("192.0.2.1", "alice", "", trySucceeded)
	if !home("192.0.2.1", "ALICE") || home("192.0.2.2", "alice") || home("192.0.2.1", "bob") {
		t.Error("a home is not what it should be")
	}
	g.now = g.now.Add(homesKept)
	if home("192.0.2.1", "alice") {
		t.Error("a home lasts for ever")
	}
	for i := range homesOfAccount + 1 {
		g.tryFrom(at6(i, 0, 1), "alice", "", trySucceeded)
	}
	if home("2001:db8::1", "alice") || !home("2001:db8:1::2", "alice") || len(g.homes[accountOf("alice")]) != homesOfAccount {
		t.Errorf("homes %v", g.homes[accountOf("alice")])
	}
	for i := range guardedHomes + 1 {
		g.now = g.now.Add(time.Millisecond)
		g.tryFrom(at6(i, 0, 1), "name-"+strconv.Itoa(i), "", trySucceeded)
	}
	if len(g.homes) > guardedHomes || home("2001:db8:1::2", "alice") || !home(at6(guardedHomes, 0, 1).String(), "name-"+strconv.Itoa(guardedHomes)) {
		t.Errorf("%d homes, or not the newest", len(g.homes))
	}
}

func TestGuardCountsTriesUnderWay(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	from := netip.MustParseAddr("2001:db8::1")
	var under []*guardTry
	for range pairFailures {
		try, wait := g.begin(from, "alice", "")
		if try == nil {
			t.Fatalf("refused too early: %v", wait)
		}
		under = append(under, try)
	}
	if try, wait := g.begin(netip.MustParseAddr("2001:db8::2"), "ALICE", ""); try != nil || wait != firstWait {
		t.Error("a sixth try beside five under way")
	}
	for _, try := range under {
		g.end(try, tryUnknown)
	}
	if wait := g.try("2001:db8::1", "alice", "", tryFailed); wait != 0 {
		t.Errorf("after five that nobody looked at: %v", wait)
	}
	// Under attack there is one at a time from the first on.
	g.attack("bob")
	first, _ := g.begin(from, "bob", "")
	if second, _ := g.begin(from, "bob", ""); first == nil || second != nil {
		t.Error("two tries at once at an account under attack")
	}
}
