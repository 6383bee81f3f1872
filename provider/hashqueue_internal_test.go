package provider

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"testing"
)

func strangerOf(i int) hasher {
	return hasher{network: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)}
}

func waiter(who hasher, memory int) *hashWaiter {
	return &hashWaiter{who: who, memory: memory, ready: make(chan struct{})}
}

func admitted(w *hashWaiter) bool {
	select {
	case <-w.ready:
		return true
	default:
		return false
	}
}

// Nobody takes every place, and strangers leave one for people who are known here.
func TestHashQueueIsFair(t *testing.T) {
	t.Parallel()
	var q hashQueue
	var mine []*hashWaiter
	for range waitingOfOne + hashesOfOne {
		w := waiter(strangerOf(1), argonMemory)
		if !q.enter(w) {
			t.Fatal("refused too early")
		}
		mine = append(mine, w)
	}
	if !admitted(mine[1]) || admitted(mine[2]) {
		t.Error("one network has more or less than two places")
	}
	if q.enter(waiter(strangerOf(1), argonMemory)) {
		t.Error("one network may wait for ever")
	}
	other, third := waiter(strangerOf(2), argonMemory), waiter(strangerOf(3), argonMemory)
	if !q.enter(other) || !q.enter(third) || !admitted(other) || admitted(third) {
		t.Error("strangers have more or less than three places")
	}
	known := waiter(hasher{known: true, account: accountOf("alice")}, argonMemory)
	if !q.enter(known) || !admitted(known) || q.running != hashesAtOnce {
		t.Error("a known person waits for strangers")
	}
	q.leave(mine[0])
	if !admitted(mine[2]) || admitted(third) {
		t.Error("a free place went to somebody else than the first in line")
	}
	q.leave(mine[3]) // gives up waiting
	q.leave(mine[1])
	if admitted(mine[3]) || !admitted(mine[4]) {
		t.Error("who had given up got a place, or the next one none")
	}
}

func TestHashQueueBoundsMemoryAndLength(t *testing.T) {
	t.Parallel()
	var q hashQueue
	small, big, late := waiter(strangerOf(1), argonMemory), waiter(strangerOf(2), hashMemory), waiter(strangerOf(3), argonMemory)
	for _, w := range []*hashWaiter{small, big, late} {
		if !q.enter(w) {
			t.Fatal("refused")
		}
	}
	if !admitted(small) || admitted(big) || admitted(late) {
		t.Error("more memory than there is, or a check that was overtaken")
	}
	q.leave(small)
	if !admitted(big) || admitted(late) || q.memory != hashMemory {
		t.Errorf("%d KiB in use", q.memory)
	}
	q.leave(big)
	q.leave(late)
	if q.running != 0 || q.memory != 0 || q.strangers != 0 || len(q.places) != 0 {
		t.Errorf("places were lost: %d running, %d KiB, %d strangers, %v", q.running, q.memory, q.strangers, q.places)
	}
	for i := range strangersAtOnce + hashesWaiting {
		if !q.enter(waiter(strangerOf(i), argonMemory)) {
			t.Fatalf("stranger %d is refused", i)
		}
	}
	hash := hashCost{64, 1, 1}.nobodysHash()
	_, err := q.verify(t.Context(), strangerOf(1000), hash, "x")
	var busy *oauthError
	if !errors.As(err, &busy) || busy.status != http.StatusServiceUnavailable || busy.wait != busyWait {
		t.Errorf("one too many: %v", err)
	}
	if _, err := q.verify(t.Context(), hasher{known: true}, hash, "x"); err != nil {
		t.Errorf("a known person: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	q.strange = q.strange[:10]
	if _, err := q.verify(gone, strangerOf(1000), hash, "x"); !errors.Is(err, context.Canceled) || len(q.strange) != 10 {
		t.Errorf("who is gone waits on: %v", err)
	}
}

// Whoever needed more memory than is free, and gives up, holds up nobody behind.
func TestHashQueueGoesOnWhenOneGivesUp(t *testing.T) {
	t.Parallel()
	var q hashQueue
	small, big, late := waiter(strangerOf(1), argonMemory), waiter(strangerOf(2), hashMemory), waiter(strangerOf(3), argonMemory)
	for _, w := range []*hashWaiter{small, big, late} {
		if !q.enter(w) {
			t.Fatal("refused")
		}
	}
	if admitted(late) {
		t.Fatal("overtaken")
	}
	q.leave(big)
	if !admitted(late) {
		t.Error("a free place is given to nobody")
	}
	q.leave(small)
	q.leave(late)
	if q.running != 0 || q.memory != 0 {
		t.Errorf("%d run with %d KiB", q.running, q.memory)
	}
}
