package qr

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

// claims remembers which sessions the sign-ins of phones have claimed, so that the end of a
// sign-in finds them without a scan of the store. It is a short cut and no truth: what it
// has forgotten, through a restart or because another process took the scan, is refused at the
// redemption (Config.Active).
type claims struct {
	mu    sync.Mutex
	until map[string]map[storage.QRID]time.Time
	// total counts the sessions; at pruneAt of them the expired ones are dropped.
	total   int
	pruneAt int
}

func newClaims() *claims {
	return &claims{until: make(map[string]map[storage.QRID]time.Time), pruneAt: firstPrune}
}

// add notes who has claimed a live session, as often as it is seen.
func (c *claims) add(q *storage.QRSession, now time.Time) {
	if q.Claim == nil || q.Claim.SessionID == "" || !q.Live(now) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	own := c.until[q.Claim.SessionID]
	if _, known := own[q.ID]; known {
		return
	}
	c.prune(now)
	if own == nil {
		own = make(map[storage.QRID]time.Time, 1)
		c.until[q.Claim.SessionID] = own
	}
	// A redemption is possible for as long as this beyond the lifetime.
	own[q.ID] = q.ExpiresAt().Add(storage.MinLifetime + time.Minute)
	c.total++
}

// drop forgets a session that has ended.
func (c *claims) drop(q *storage.QRSession) {
	if q.Claim == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(q.Claim.SessionID, q.ID)
}

func (c *claims) remove(sid string, id storage.QRID) {
	own := c.until[sid]
	if _, known := own[id]; known {
		delete(own, id)
		c.total--
	}
	if len(own) == 0 {
		delete(c.until, sid)
	}
}

// of lists the sessions of a sign-in.
func (c *claims) of(sid string) []storage.QRID {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := make([]storage.QRID, 0, len(c.until[sid]))
	for id := range c.until[sid] {
		ids = append(ids, id)
	}
	return ids
}

func (c *claims) prune(now time.Time) {
	if c.total < c.pruneAt {
		return
	}
	for sid, own := range c.until {
		for id, until := range own {
			if now.After(until) {
				c.remove(sid, id)
			}
		}
	}
	c.pruneAt = max(firstPrune, 2*c.total)
}

// SignInEnded ends the sessions that the phone's sign-in sid has claimed and that are not yet
// redeemed; whoever waits for them is told that they were denied. Call it after the sign-in has
// ended in the store. It knows the claims that were made, polled or streamed in this process;
// any other is refused when it is redeemed.
func (s *Server) SignInEnded(ctx context.Context, sid string) error {
	var errs []error
	for _, id := range s.claims.of(sid) {
		var q *storage.QRSession
		err := s.config.Store.UpdateQRSession(ctx, id, func(stored *storage.QRSession) error {
			if now := s.config.Now(); stored.Live(now) {
				if err := stored.Abort(now, "inactive"); err != nil {
					return err
				}
			}
			q = stored.Clone()
			return nil
		})
		switch {
		case err == nil:
			s.ended(q)
		case !errors.Is(err, storage.ErrNotFound):
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
