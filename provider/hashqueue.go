package provider

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// hashesAtOnce bounds how many passwords are checked at once, hashMemory their memory in KiB
	// together: a check takes 19 MiB with the parameters of HashPassword, and at most 256 MiB with
	// those that CheckPasswordHash lets pass.
	hashesAtOnce = 4
	hashMemory   = 256 << 10
	// strangersAtOnce leaves a place for people whose browser or home is known, and hashesOfOne
	// leaves places for everybody else.
	strangersAtOnce = 3
	hashesOfOne     = 2
	// hashesWaiting and waitingOfOne bound the queues; who comes later is sent away.
	hashesWaiting = 128
	waitingOfOne  = 32
	busyWait      = 2 * time.Second
)

// hasher is whom a check counts for: an account at a browser or home of its person, or the widest
// network of a stranger.
type hasher struct {
	known   bool
	network netip.Prefix
	account account
}

// hashQueue lets a few passwords be checked at once, those of known people first, and nobody in
// every place. The zero value is ready.
type hashQueue struct {
	mu                         sync.Mutex
	running, strangers, memory int
	places                     map[hasher]int
	known, strange             []*hashWaiter
}

// hashWaiter waits for its place; ready is closed when it has it.
type hashWaiter struct {
	who    hasher
	memory int
	ready  chan struct{}
}

// verify checks a password when a place is free. Its error is that there are too many checks, or
// that ctx has ended.
func (q *hashQueue) verify(ctx context.Context, who hasher, hash, password string) (bool, error) {
	h, err := parseArgonHash(hash)
	if err != nil {
		return false, nil
	}
	w := &hashWaiter{who: who, memory: int(h.memory), ready: make(chan struct{})}
	if !q.enter(w) {
		return false, busy()
	}
	select {
	case <-w.ready:
	case <-ctx.Done():
		q.leave(w)
		return false, unavailable(ctx.Err())
	}
	defer q.leave(w)
	return h.matches(password), nil
}

func busy() *oauthError {
	e := unavailable(nil)
	e.wait = busyWait
	return e
}

func (q *hashQueue) enter(w *hashWaiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	line := q.line(w)
	mine := 0
	for _, other := range *line {
		if other.who == w.who {
			mine++
		}
	}
	if len(*line) >= hashesWaiting || mine >= waitingOfOne {
		return false
	}
	*line = append(*line, w)
	q.admit()
	return true
}

// leave gives a place back, or gives up waiting for one.
func (q *hashQueue) leave(w *hashWaiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	line := q.line(w)
	if i := slices.Index(*line, w); i >= 0 {
		*line = slices.Delete(*line, i, i+1)
	} else {
		q.take(w, -1)
	}
	// Also after giving up: those behind may have waited for nothing but this one's memory.
	q.admit()
}

func (q *hashQueue) line(w *hashWaiter) *[]*hashWaiter {
	if w.who.known {
		return &q.known
	}
	return &q.strange
}

func (q *hashQueue) take(w *hashWaiter, n int) {
	if q.places == nil {
		q.places = make(map[hasher]int)
	}
	q.running += n
	q.memory += n * w.memory
	if !w.who.known {
		q.strangers += n
	}
	if q.places[w.who] += n; q.places[w.who] == 0 {
		delete(q.places, w.who)
	}
}

// admit gives the free places to those who wait, in their order. Whoever needs more memory than is
// free is not overtaken, or would wait as long as others come.
func (q *hashQueue) admit() {
	full := false
	for _, line := range []*[]*hashWaiter{&q.known, &q.strange} {
		*line = slices.DeleteFunc(*line, func(w *hashWaiter) bool {
			if q.running >= hashesAtOnce || !w.who.known && q.strangers >= strangersAtOnce || q.places[w.who] >= hashesOfOne {
				return false
			}
			if full = full || q.memory+w.memory > hashMemory; full {
				return false
			}
			q.take(w, 1)
			close(w.ready)
			return true
		})
	}
}
