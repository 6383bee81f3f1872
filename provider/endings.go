package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

// EndSignIns ends every sign-in of a person and revokes every token: what is due when an account
// is locked or its password replaced, because whoever the change is to keep out may hold either.
// The store must know of the change already, or the person could sign in between. Clients are
// told (OpenID Connect Back-Channel Logout 1.0). A person without sign-ins is no error; after
// one, the call can be repeated. The end of ctx does not stop it.
func (p *Provider) EndSignIns(ctx context.Context, subject string) error {
	// Whoever asked for it may hang up: half of it done would leave a thief signed in.
	ctx = context.WithoutCancel(ctx)
	now := p.config.Now()
	sids, err := revokePerson(ctx, p.config.Store, subject, now)
	errs := []error{err}
	for _, sid := range sids {
		errs = append(errs, p.endSession(ctx, sid, now))
	}
	return errors.Join(errs...)
}

// EndStoredSignIns is EndSignIns on a store that no Provider of this process serves. The store
// keeps what clients are to be told: a Provider that serves it begins to at its start, at its next
// Sweep, or at once with TellClients.
func EndStoredSignIns(ctx context.Context, store storage.Store, subject string, now time.Time) error {
	// See EndSignIns.
	ctx = context.WithoutCancel(ctx)
	sids, err := revokePerson(ctx, store, subject, now)
	errs := []error{err}
	for _, sid := range sids {
		if err := store.EndSession(ctx, sid, now); !errors.Is(err, storage.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// revokePerson revokes every token of a person and returns the sign-ins that have not ended. One
// that is past its time counts, for its refresh tokens and its clients may not be.
func revokePerson(ctx context.Context, store storage.Store, subject string, now time.Time) (sids []string, err error) {
	if subject == "" {
		return nil, errors.New("provider: a person has a subject")
	}
	_, err = store.RevokeTokens(ctx, storage.TokenFilter{Subject: subject}, now)
	sessions, errList := store.SessionsBySubject(ctx, subject)
	for _, s := range sessions {
		if s.EndedAt.IsZero() {
			sids = append(sids, s.ID)
		}
	}
	if err := errors.Join(err, errList); err != nil {
		return sids, fmt.Errorf("provider: end the sign-ins of a person: %w", err)
	}
	return sids, nil
}

// RevokeClientTokens revokes the tokens that people have given a client: what is due when it is
// switched off, or they would work again once it is switched on. While it is off none works
// anyway. Tokens of its own (client_credentials) end by their lifetime. The end of ctx does not
// stop it.
func RevokeClientTokens(ctx context.Context, store storage.Store, clientID string, now time.Time) error {
	// See EndSignIns: what is left of a thief's tokens would work again.
	ctx = context.WithoutCancel(ctx)
	users, err := store.Users(ctx)
	if err != nil {
		return fmt.Errorf("provider: list the people: %w", err)
	}
	errs := make([]error, 0, 1)
	for _, u := range users {
		_, err := store.RevokeTokens(ctx, storage.TokenFilter{Subject: u.Subject, ClientID: clientID}, now)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("provider: revoke the tokens of a client: %w", err)
	}
	return nil
}

// RemoveClient removes a client with all that people have given it: their tokens, and their
// consents, which a client that gets the id later must not find. The client goes last, so that the
// call can be repeated. Switch it off first where its id may come back: what is under way then
// gets nothing. The end of ctx does not stop it.
func RemoveClient(ctx context.Context, store storage.Store, clientID string, now time.Time) error {
	// See EndSignIns.
	ctx = context.WithoutCancel(ctx)
	if err := RevokeClientTokens(ctx, store, clientID, now); err != nil {
		return err
	}
	users, err := store.Users(ctx)
	if err != nil {
		return fmt.Errorf("provider: list the people: %w", err)
	}
	for _, u := range users {
		// Read first: most people have none, and to remove nothing costs a commit.
		_, err := store.Consent(ctx, u.Subject, clientID)
		if err == nil {
			err = store.DeleteConsent(ctx, u.Subject, clientID)
		}
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return fmt.Errorf("provider: forget a consent: %w", err)
		}
	}
	if err := store.DeleteClient(ctx, clientID); err != nil {
		return fmt.Errorf("provider: remove a client: %w", err)
	}
	return nil
}
