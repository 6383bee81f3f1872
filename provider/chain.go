package provider

import (
	"context"
	"errors"

	"github.com/qrgrant/qrgrant/storage"
)

// longestChain bounds how many sign-ins one sign-out ends. What is older than that ends by its
// own lifetime.
const longestChain = 256

// follow makes a new sign-in the successor of the one that the browser has, when it is the same
// person's: a client that asks for a fresh sign-in (prompt=login, max_age) must not cut off what
// the others have, and the person still signs out of all of it at once (Back-Channel Logout §2.3).
func (p *Provider) follow(s *storage.Session, b *browser) {
	if b.session != nil && b.session.Subject == s.Subject {
		s.ReplacesID = b.session.ID
	}
}

// endOther ends the sign-in that the browser had when it was another person's: nobody could end it
// here any more.
func (p *Provider) endOther(ctx context.Context, s *storage.Session, b *browser) error {
	if b.session == nil || b.session.Subject == s.Subject {
		return nil
	}
	if err := p.endChain(ctx, b.session); err != nil {
		return unavailable(err)
	}
	return nil
}

// endChain ends a sign-in and those of the same person that it took the place of, also where one
// between them has ended before. A browser that hangs up does not leave half of them.
func (p *Provider) endChain(ctx context.Context, s *storage.Session) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	seen := make(map[string]bool)
	for len(seen) < longestChain {
		seen[s.ID] = true
		errs = append(errs, p.endSignIn(ctx, "", s.ID))
		if s.ReplacesID == "" || seen[s.ReplacesID] {
			break
		}
		earlier, err := p.config.Store.Session(ctx, s.ReplacesID)
		if errors.Is(err, storage.ErrNotFound) || err == nil && earlier.Subject != s.Subject {
			break
		}
		if err != nil {
			errs = append(errs, err)
			break
		}
		s = earlier
	}
	return errors.Join(errs...)
}
