package load

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"
)

// laneDepth is how many polls a caller keeps parked. The one that is woken has then been
// sent several requests ago, so the server really holds it.
const laneDepth = 4

// Lanes lets every caller of a crew be a phone with some PCs of its own, which wait in held
// polls until the phone scans for one of them.
type Lanes struct {
	flow   *Flow
	stock  []*Attempt
	lanes  map[*Conn]*lane
	missed atomic.Int64
}

type lane struct {
	pcs     [laneDepth]*Conn
	waiting [laneDepth]*Attempt
	next    int
}

// LaneStock is how many attempts the lanes of n callers take before their first step.
func LaneStock(n int) int { return n * laneDepth }

// NewLanes connects the PCs and parks a poll on each. stock are opened attempts: LaneStock of
// them are parked at once, the others by the steps.
func NewLanes(ctx context.Context, t Target, crew *Crew, f *Flow, stock []*Attempt) (*Lanes, error) {
	l := &Lanes{flow: f, lanes: make(map[*Conn]*lane)}
	for _, phone := range crew.conns {
		own := &lane{}
		l.lanes[phone] = own
		for i := range own.pcs {
			pc, err := Dial(ctx, t.Address)
			if err == nil {
				own.pcs[i] = pc
				err = pc.Deadline(time.Now().Add(grace))
			}
			if err == nil {
				own.waiting[i], stock = stock[0], stock[1:]
				err = f.Park(pc, own.waiting[i], false)
			}
			if err != nil {
				return nil, errors.Join(err, l.Close())
			}
		}
	}
	l.stock = stock
	return l, nil
}

// Step wakes the poll that has waited longest by a scan, and parks another attempt in its
// place. The time counts from the phone's scan to the PC's answer.
func (l *Lanes) Step(phone *Conn, n int) (time.Duration, error) {
	own := l.lanes[phone]
	pc, a := own.pcs[own.next], own.waiting[own.next]
	latency, woken, err := l.flow.Wait(pc, phone, a)
	switch {
	case err != nil:
		return 0, err
	case woken.Tokens || a.checkCode == "":
		return 0, fmt.Errorf("a long poll ended after %s without a check code", latency)
	case !woken.Held:
		l.missed.Add(1)
	}
	own.waiting[own.next] = l.stock[n]
	err = l.flow.Park(pc, own.waiting[own.next], false)
	own.next = (own.next + 1) % laneDepth
	return latency, err
}

// Missed is how many polls were not held because the scan overtook them.
func (l *Lanes) Missed() int { return int(l.missed.Load()) }

// Close drops the polls that still wait.
func (l *Lanes) Close() error {
	var err error
	for _, own := range l.lanes {
		for _, pc := range own.pcs {
			if pc != nil {
				err = errors.Join(err, pc.Close())
			}
		}
	}
	return err
}

// Crowd is PCs that wait for a decision in held polls, each on a connection of its own.
type Crowd struct {
	flow     *Flow
	attempts []*Attempt
	pcs      *Crew
}

// NewCrowd connects a PC for each attempt and parks a poll on it. The attempts are scanned
// and have been polled at least an interval ago.
func NewCrowd(ctx context.Context, t Target, f *Flow, attempts []*Attempt) (*Crowd, error) {
	pcs, err := NewCrew(ctx, t.Address, len(attempts))
	if err != nil {
		return nil, fmt.Errorf("waiting PCs: %w", err)
	}
	w := &Crowd{flow: f, attempts: attempts, pcs: pcs}
	for i, pc := range pcs.conns {
		if err := errors.Join(pc.Deadline(time.Now().Add(2*grace)), f.Park(pc, attempts[i], true)); err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	return w, nil
}

// Close disconnects every PC.
func (w *Crowd) Close() error { return w.pcs.Close() }

// Approve lets phones approve the first count attempts, evenly paced, and measures from the
// moment a phone sends its decision to the moment the PC has its tokens.
func (w *Crowd) Approve(ctx context.Context, phones *Crew, perSecond float64, count int) (Sample, error) {
	sent, received := make([]time.Time, count), make([]time.Time, count)
	arrived := make(chan error, count)
	for i := range count {
		go func() {
			err := w.await(i)
			received[i] = time.Now()
			arrived <- err
		}()
	}
	start := time.Now()
	sample, err := phones.Run(ctx, Limit{Count: count}, func(c *Conn, n int) (time.Duration, error) {
		time.Sleep(time.Until(start.Add(time.Duration(float64(n) / perSecond * float64(time.Second)))))
		sent[n] = time.Now()
		return 0, w.flow.Approve(c, w.attempts[n])
	})
	if err != nil {
		return Sample{}, err
	}
	for range count {
		select {
		case err := <-arrived:
			if err != nil {
				return Sample{}, err
			}
		case <-ctx.Done():
			return Sample{}, ctx.Err()
		}
	}
	for i := range count {
		sample.Latencies[i] = received[i].Sub(sent[i])
	}
	return sample, nil
}

// await reads the answers of a PC until it has tokens; a poll whose 25 s are over comes again.
func (w *Crowd) await(i int) error {
	pc, a := w.pcs.conns[i], w.attempts[i]
	for {
		woken, err := w.flow.ReceiveParked(pc, a)
		switch {
		case err != nil:
			return err
		case woken.Tokens:
			return nil
		case !woken.Held:
			return &UnexpectedError{Operation: "long poll", Status: http.StatusBadRequest, Code: "at once instead of being held"}
		}
		if err := w.flow.Park(pc, a, true); err != nil {
			return err
		}
	}
}
