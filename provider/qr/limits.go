package qr

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

// Limits bounds what one asker, person or network can do (protocol §9). A zero field is the
// default that its comment names. Counters live in memory: a restart forgets them.
type Limits struct {
	// OpensPerMinute and OpenSessions bound both doors per /24 or /56: 600 and 300.
	OpensPerMinute int
	OpenSessions   int
	// BrowserOpensPerMinute and BrowserOpenSessions bound the hosted door per browser, beside
	// those of its network: 30 and 10.
	BrowserOpensPerMinute int
	BrowserOpenSessions   int
	// Scans bounds the scans of one person in 10 min: 10.
	Scans int
	// UserCodeTries and UserCodeTriesPerPrefix bound failed user codes in 10 min, per person
	// and per network prefix: 5 and 20. The latter bounds refused frames at Hold too, apart.
	UserCodeTries          int
	UserCodeTriesPerPrefix int
	// HeldPolls and HeldPollsPerClient bound the polls and streams held open at one time:
	// 100,000 and 50,000. Beyond them a poll is answered at once and a stream is refused; a
	// negative number holds none.
	HeldPolls          int
	HeldPollsPerClient int
	// CoolDown is how long an asker stays away after a report: 5 min. A negative one keeps
	// nobody away.
	CoolDown time.Duration
}

func (l *Limits) defaults() {
	for field, value := range map[*int]int{
		&l.OpensPerMinute: 600, &l.OpenSessions: 300, &l.Scans: 10,
		&l.BrowserOpensPerMinute: 30, &l.BrowserOpenSessions: 10,
		&l.UserCodeTries: 5, &l.UserCodeTriesPerPrefix: 20,
		&l.HeldPolls: 100_000, &l.HeldPollsPerClient: 50_000,
	} {
		if *field == 0 {
			*field = value
		}
	}
	if l.CoolDown == 0 {
		l.CoolDown = 5 * time.Minute
	}
}

func (l *Limits) valid() bool {
	return min(l.OpensPerMinute, l.OpenSessions, l.BrowserOpensPerMinute, l.BrowserOpenSessions,
		l.Scans, l.UserCodeTries, l.UserCodeTriesPerPrefix) >= 0
}

// tryWindow is the span over which scans and user-code tries are counted.
const tryWindow = 10 * time.Minute

// prefix is the network an address is counted under: /24 for IPv4, /56 for IPv6. All
// addresses that could not be read share one.
func prefix(a netip.Addr) netip.Prefix {
	bits := 56
	if a.Is4() {
		bits = 24
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// window counts events per key over a sliding span: at most limit in any span.
type window[K comparable] struct {
	limit int
	span  time.Duration

	mu     sync.Mutex
	events map[K][]time.Time
	// pruneAt is the size at which idle keys are dropped next; doubling it keeps that cheap.
	pruneAt int
}

const firstPrune = 1024

func newWindow[K comparable](limit int, span time.Duration) *window[K] {
	return &window[K]{limit: limit, span: span, events: make(map[K][]time.Time), pruneAt: firstPrune}
}

// take counts one event of key at now. When the limit is reached it counts nothing and
// returns how long to wait.
func (w *window[K]) take(key K, now time.Time) (retryAfter time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	events := w.recent(key, now)
	if len(events) >= w.limit {
		return events[0].Add(w.span).Sub(now)
	}
	w.events[key] = append(events, now)
	w.prune(now)
	return 0
}

// giveBack takes the newest event of key away: the try it counted succeeded.
func (w *window[K]) giveBack(key K) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if events := w.events[key]; len(events) > 1 {
		w.events[key] = events[:len(events)-1]
	} else {
		delete(w.events, key)
	}
}

// recent drops what is older than the span and returns the rest, oldest first.
func (w *window[K]) recent(key K, now time.Time) []time.Time {
	events := w.events[key]
	for len(events) > 0 && !now.Before(events[0].Add(w.span)) {
		events = events[1:]
	}
	return events
}

func (w *window[K]) prune(now time.Time) {
	if len(w.events) < w.pruneAt {
		return
	}
	for key := range w.events {
		if len(w.recent(key, now)) == 0 {
			delete(w.events, key)
		}
	}
	w.pruneAt = max(firstPrune, 2*len(w.events))
}

// openSessions counts the undecided sessions of each network or browser.
type openSessions[K comparable] struct {
	limit int

	mu    sync.Mutex
	until map[K]map[storage.QRID]int64
	// total counts the sessions; at pruneAt of them the expired ones are dropped.
	total   int
	pruneAt int
}

func newOpenSessions[K comparable](limit int) *openSessions[K] {
	return &openSessions[K]{limit: limit, until: make(map[K]map[storage.QRID]int64), pruneAt: firstPrune}
}

// take reserves a place for a session until it expires. Without a free one it returns how
// long until the first gets free.
func (o *openSessions[K]) take(p K, id storage.QRID, now, expires time.Time) (retryAfter time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.prune(now)
	if len(o.until[p]) >= o.limit {
		o.forget(p, now)
	}
	open := o.until[p]
	if len(open) >= o.limit {
		return time.Unix(slices.Min(slices.Collect(maps.Values(open))), 0).Sub(now)
	}
	if open == nil {
		open = make(map[storage.QRID]int64, 1)
		o.until[p] = open
	}
	open[id] = expires.Unix()
	o.total++
	return 0
}

// forget drops the expired sessions of one key.
func (o *openSessions[K]) forget(p K, now time.Time) {
	open := o.until[p]
	for id, until := range open {
		if until <= now.Unix() {
			delete(open, id)
			o.total--
		}
	}
	if len(open) == 0 {
		delete(o.until, p)
	}
}

// prune drops the expired sessions of all keys when there are twice as many as were left
// the last time.
func (o *openSessions[K]) prune(now time.Time) {
	if o.total < o.pruneAt {
		return
	}
	for p := range o.until {
		o.forget(p, now)
	}
	o.pruneAt = max(firstPrune, 2*o.total)
}

// release frees the place of a session that ended before its time.
func (o *openSessions[K]) release(p K, id storage.QRID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, open := o.until[p][id]; open {
		delete(o.until[p], id)
		o.total--
	}
	if len(o.until[p]) == 0 {
		delete(o.until, p)
	}
}

// asker is what a report counts against: without a key or cookie of its own the consumption
// device is its client at its one address.
type asker struct {
	clientID string
	address  string
}

// reports remembers who reported whom, for the cool-down. One report keeps an asker away
// from the reporter; it takes two people to keep it away from everybody, so that nobody can
// lock others out alone.
type reports struct {
	coolDown time.Duration

	mu sync.Mutex
	by map[asker]map[string]time.Time
}

func newReports(coolDown time.Duration) *reports {
	return &reports{coolDown: coolDown, by: make(map[asker]map[string]time.Time)}
}

func (r *reports) add(a asker, subject string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for other, by := range r.by {
		if r.forget(by, now); len(by) == 0 {
			delete(r.by, other)
		}
	}
	if r.by[a] == nil {
		r.by[a] = make(map[string]time.Time)
	}
	r.by[a][subject] = now
}

// against returns how long the asker must stay away from this person.
func (r *reports) against(a asker, subject string, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, reported := r.by[a][subject]
	if !reported {
		return 0
	}
	return max(0, at.Add(r.coolDown).Sub(now))
}

// barred returns how long the asker may not open sessions at all.
func (r *reports) barred(a asker, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	by := r.by[a]
	if r.forget(by, now); len(by) < 2 {
		return 0
	}
	var longest time.Duration
	for _, at := range by {
		longest = max(longest, at.Add(r.coolDown).Sub(now))
	}
	return longest
}

func (r *reports) forget(by map[string]time.Time, now time.Time) {
	for subject, at := range by {
		if !now.Before(at.Add(r.coolDown)) {
			delete(by, subject)
		}
	}
}
