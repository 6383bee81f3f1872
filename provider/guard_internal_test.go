package provider

import (
	"net/netip"
	"strconv"
	"testing"
	"time"
)

// However many names are tried, an account under attack keeps what it has against it, and the
// table does not grow.
func TestFloodOfNamesForgetsNoAttackedAccount(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	g := newSignInGuard(func() time.Time { return now })
	attacker := netip.MustParseAddr("192.0.2.1")
	for range accountFailures {
		try, ok := g.begin(attacker, "alice")
		if !ok {
			t.Fatal("refused too early")
		}
		g.end(try, true)
	}
	held, ok := g.begin(netip.MustParseAddr("192.0.2.2"), "bob")
	if !ok {
		t.Fatal("bob is refused")
	}
	for i := range 3 * guardedNames {
		// Networks enough, so that none is refused for itself.
		from := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		try, ok := g.begin(from, "name-"+strconv.Itoa(i))
		if !ok {
			t.Fatalf("name %d is refused", i)
		}
		g.end(try, true)
		if len(g.buckets) > guardedNames+3 {
			t.Fatalf("%d buckets", len(g.buckets))
		}
	}
	if _, ok := g.begin(attacker, "alice"); ok {
		t.Error("the flood gave the attacker new tries")
	}
	// A try that was under way all the time still counts.
	g.end(held, true)
	if b := g.buckets[guardKey{kind: 'n', network: network(netip.MustParseAddr("192.0.2.2"))}]; b == nil || b.TokensAt(now) != networkFailures-1 {
		t.Error("the failure of a try under way was lost")
	}
}

func TestGuardCountsTriesUnderWay(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	g := newSignInGuard(func() time.Time { return now })
	from := netip.MustParseAddr("2001:db8::1")
	var under []guardTry
	for range accountFailures {
		try, ok := g.begin(from, "alice")
		if !ok {
			t.Fatal("refused too early")
		}
		under = append(under, try)
	}
	if _, ok := g.begin(netip.MustParseAddr("2001:db8::2"), "ALICE"); ok {
		t.Error("an eleventh try beside ten under way")
	}
	for _, try := range under {
		g.end(try, false)
	}
	if try, ok := g.begin(from, "alice"); !ok || len(g.buckets) != 3 {
		t.Errorf("after ten that did not fail: %t, %d buckets", ok, len(g.buckets))
	} else {
		g.end(try, false)
	}
}
