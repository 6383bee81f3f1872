package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

// EndSignIns ends every sign-in of a person with all tokens of theirs, as it becomes an account
// that is disabled. It works on the store alone, whether a provider runs on it or not; one that
// does begins to tell the clients at its next Sweep, or at once with TellClients.
func EndSignIns(ctx context.Context, store storage.Store, subject string, now time.Time) error {
	_, err := store.RevokeTokens(ctx, storage.TokenFilter{Subject: subject}, now)
	sessions, listErr := store.SessionsBySubject(ctx, subject)
	errs := []error{err, listErr}
	for _, s := range sessions {
		if s.ActiveAt(now) {
			errs = append(errs, store.EndSession(ctx, s.ID, now))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("provider: end the sign-ins: %w", err)
	}
	return nil
}

// TellClients begins to tell clients of the sign-ins that were ended in the store by others
// than this Provider. It does not wait; Sweep does the same.
func (p *Provider) TellClients() { p.backchannel.look() }
