package qr

import (
	"sync"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

// repeatWindow is how soon after an answer one repeat of the same poll is free.
const repeatWindow = 2 * time.Second

// pace is the polling clock of one session (protocol §4, Interval). It lives in memory, so a
// pending poll writes nothing; only the raised interval is stored with the session.
type pace struct {
	// counted is the arrival of the last poll not answered slow_down.
	counted time.Time
	// answered is when the last answer left; slowed and held say which answer it was.
	answered time.Time
	slowed   bool
	held     bool
	// told is the state the last answer spoke of; zero before the first answer.
	told storage.QRState
	// repeated says that the free repeat since the last poll of its own is spent.
	repeated bool
	// holding is closed to end the poll that is being held; nil when none is.
	holding  chan struct{}
	replaced time.Time
	expires  time.Time
}

// verdict is what the pace makes of a poll.
type verdict uint8

const (
	onTime verdict = iota
	// repeatPending and repeatSlowed get the answer of the poll they repeat.
	repeatPending
	repeatSlowed
	tooEarly
)

// judge decides about a poll at now. wantsHold says that it asks to be held, which lets it
// take the place of one that is held already: its connection may be gone.
func (p *pace) judge(now time.Time, interval time.Duration, wantsHold bool) verdict {
	// x/oauth2 detects the way to authenticate by sending each poll twice and looks at the
	// second answer only; without the free repeat it would be slowed down for ever.
	if !p.answered.IsZero() && !p.held && !p.repeated && now.Sub(p.answered) <= repeatWindow {
		p.repeated = true
		if p.slowed {
			return repeatSlowed
		}
		return repeatPending
	}
	replaces := p.holding != nil && wantsHold && now.Sub(p.replaced) >= interval
	if p.counted.IsZero() || p.held || replaces || !now.Before(p.counted.Add(interval-interval/10)) {
		if replaces {
			p.replaced = now
		}
		p.counted, p.repeated, p.slowed, p.held = now, false, false, false
		return onTime
	}
	p.repeated, p.slowed = false, true
	return tooEarly
}

// places counts what is held open at one time, polls and streams alike, per client and in all.
type places struct {
	limits Limits

	mu      sync.Mutex
	clients map[string]int
	total   int
}

func newPlaces(limits Limits) *places {
	return &places{limits: limits, clients: make(map[string]int)}
}

// take takes a place for the client and reports whether there was one.
func (p *places) take(clientID string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.total >= p.limits.HeldPolls || p.clients[clientID] >= p.limits.HeldPollsPerClient {
		return false
	}
	p.total++
	p.clients[clientID]++
	return true
}

func (p *places) leave(clientID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total--
	if p.clients[clientID]--; p.clients[clientID] == 0 {
		delete(p.clients, clientID)
	}
}

// paces keeps the pace of every polled session and which polls are held.
type paces struct {
	places *places

	mu     sync.Mutex
	pace   map[storage.QRID]*pace
	closed bool
	// drain is closed when the server stops holding polls and streams.
	drain   chan struct{}
	pruneAt int
}

func newPaces(places *places) *paces {
	return &paces{places: places, pace: make(map[storage.QRID]*pace), drain: make(chan struct{}), pruneAt: firstPrune}
}

// judge decides about a poll of the session.
func (p *paces) judge(q *storage.QRSession, now time.Time, wantsHold bool) verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	own := p.pace[q.ID]
	if own == nil {
		p.prune(now)
		own = &pace{expires: q.ExpiresAt().Add(storage.MinLifetime)}
		p.pace[q.ID] = own
	}
	return own.judge(now, q.Interval, wantsHold)
}

// hold registers a poll to be held and replaces the one held before. It returns the channel
// that ends it, or nil when a limit is reached or the server drains.
func (p *paces) hold(q *storage.QRSession) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	own := p.pace[q.ID]
	if own == nil || p.closed {
		return nil
	}
	switch {
	case own.holding != nil:
		close(own.holding) // its place goes to the new one
	case !p.places.take(q.ClientID):
		return nil
	}
	own.holding = make(chan struct{})
	return own.holding
}

// let ends a hold. It reports whether the poll is still the one that is held, which is what
// lets its answer say so; a replaced one is not.
func (p *paces) let(q *storage.QRSession, holding chan struct{}) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	own := p.pace[q.ID]
	if own == nil || own.holding != holding {
		return false
	}
	own.holding = nil
	p.places.leave(q.ClientID)
	return !p.closed
}

// answered notes that an answer about q as it stands leaves now.
func (p *paces) answered(q *storage.QRSession, now time.Time, held bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if own := p.pace[q.ID]; own != nil {
		own.answered, own.held, own.told = now, held, q.State
	}
}

// untold reports whether the state has changed since the last answer; the opening told the
// first one.
func (p *paces) untold(q *storage.QRSession) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	told := storage.QRPending
	if own := p.pace[q.ID]; own != nil && own.told != 0 {
		told = own.told
	}
	return told != q.State
}

// forget drops the pace of a session that has ended.
func (p *paces) forget(id storage.QRID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if own := p.pace[id]; own != nil && own.holding == nil {
		delete(p.pace, id)
	}
}

func (p *paces) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		close(p.drain)
	}
}

func (p *paces) prune(now time.Time) {
	if len(p.pace) < p.pruneAt {
		return
	}
	for id, own := range p.pace {
		if own.holding == nil && now.After(own.expires) {
			delete(p.pace, id)
		}
	}
	p.pruneAt = max(firstPrune, 2*len(p.pace))
}
