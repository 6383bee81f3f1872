package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/storage"
)

// endings end what people have going on.
type endings interface {
	// EndSignIns ends every sign-in of a person with all tokens, and tells the clients.
	EndSignIns(ctx context.Context, subject string) error
	// RevokeClientTokens revokes what people have given a client.
	RevokeClientTokens(ctx context.Context, id string) error
}

// servedEndings are those of a running server.
type servedEndings struct {
	storedEndings
	provider *provider.Provider
}

// EndSignIns implements endings.
func (e servedEndings) EndSignIns(ctx context.Context, subject string) error {
	return e.provider.EndSignIns(ctx, subject)
}

// storedEndings work on a database that nobody serves; clients are told by the next server.
type storedEndings struct{ store storage.Store }

// EndSignIns implements endings.
func (e storedEndings) EndSignIns(ctx context.Context, subject string) error {
	return provider.EndStoredSignIns(ctx, e.store, subject, time.Now())
}

// RevokeClientTokens implements endings.
func (e storedEndings) RevokeClientTokens(ctx context.Context, id string) error {
	return provider.RevokeClientTokens(ctx, e.store, id, time.Now())
}

var (
	_ endings = servedEndings{}
	_ endings = storedEndings{}
)

// changes are what a configuration makes of a database. It replaces what is there under the same
// name and removes nothing.
type changes struct {
	clients []*storage.Client
	users   []*storage.User
	// people have another password than before, or are locked or unlocked, by subject; switched
	// are clients that go off or on. What they had going on must end: whoever the change is
	// to keep out may hold it, and an unlocked account must not bring it back.
	people, switched []string
}

// changes reads the database and checks everything that can be wrong; nothing is written.
func (f *configFile) changes(ctx context.Context, s storage.Store, getenv func(string) string) (*changes, error) {
	c := &changes{}
	for i := range f.Clients {
		client := f.Clients[i].record(getenv)
		existing, err := s.Client(ctx, client.ID)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return nil, fmt.Errorf("read the client %q: %w", client.ID, err)
		}
		if err == nil && existing.Source != storage.ClientConfigured {
			return nil, fmt.Errorf("the client %q registered itself under this id; give yours another one, or remove that one with: qrgrant client remove", client.ID)
		}
		if err == nil && existing.Disabled != client.Disabled {
			c.switched = append(c.switched, client.ID)
		}
		c.clients = append(c.clients, client)
	}
	logins := map[string]string{}
	for i := range f.Users {
		user, existing, err := f.Users[i].record(ctx, s, getenv)
		if err != nil {
			return nil, fmt.Errorf("the user %q: %w", f.Users[i].Login, err)
		}
		if other, taken := logins[user.Subject]; taken {
			return nil, fmt.Errorf("the user %q: the subject %q is that of %q already", user.Login, user.Subject, other)
		}
		logins[user.Subject] = user.Login
		if existing != nil && (existing.Disabled != user.Disabled || existing.PasswordHash != user.PasswordHash) {
			c.people = append(c.people, user.Subject)
		}
		c.users = append(c.users, user)
	}
	return c, nil
}

// record keeps the subject that a login has already: it is the person's identity at every relying
// party and must survive restarts. A subject that is known under another login is a person who
// has got a new one.
func (u *userConfig) record(ctx context.Context, s storage.Store, getenv func(string) string) (user, existing *storage.User, err error) {
	user = &storage.User{Subject: u.Subject, Login: u.Login, PasswordHash: u.PasswordHash, Claims: u.Claims, Disabled: u.Disabled}
	existing, err = s.UserByLogin(ctx, u.Login)
	if errors.Is(err, storage.ErrNotFound) && u.Subject != "" {
		existing, err = s.User(ctx, u.Subject)
	}
	switch {
	case errors.Is(err, storage.ErrNotFound):
		existing = nil
	case err != nil:
		return nil, nil, err
	case u.Subject != "" && u.Subject != existing.Subject:
		return nil, nil, fmt.Errorf("the database knows this login under the subject %q", existing.Subject)
	default:
		user.Subject = existing.Subject
	}
	if user.Subject == "" {
		user.Subject = rand.Text()
	}
	if u.PasswordEnv == "" {
		return user, existing, nil
	}
	password := getenv(u.PasswordEnv)
	// Another hash of the same password would look like another password, and end the sign-ins.
	if existing != nil && provider.VerifyPassword(existing.PasswordHash, password) {
		user.PasswordHash = existing.PasswordHash
		return user, existing, nil
	}
	user.PasswordHash, err = provider.HashPassword(password)
	return user, existing, err
}

// apply writes all of it or nothing.
func (c *changes) apply(ctx context.Context, s storage.Store) error {
	err := s.Tx(ctx, func(ctx context.Context) error {
		for _, client := range c.clients {
			if err := s.PutClient(ctx, client); err != nil {
				return fmt.Errorf("store the client %q: %w", client.ID, err)
			}
		}
		for _, user := range c.users {
			if err := s.PutUser(ctx, user); err != nil {
				return fmt.Errorf("store the user %q: %w", user.Login, err)
			}
		}
		return nil
	})
	if errors.Is(err, storage.ErrConflict) {
		return errors.New("a login was given to somebody else in the meantime; try again")
	}
	return err
}

// end ends what the changes are to end; call it after apply, or people could sign in between.
func (c *changes) end(ctx context.Context, with endings) error {
	var errs []error
	for _, subject := range c.people {
		if err := with.EndSignIns(ctx, subject); err != nil {
			errs = append(errs, fmt.Errorf("end the sign-ins of the subject %q: %w", subject, err))
		}
	}
	for _, id := range c.switched {
		if err := with.RevokeClientTokens(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("revoke the tokens of the client %q: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// store takes the changes over into a database that nobody serves yet.
func (c *changes) store(ctx context.Context, s storage.Store) error {
	if err := c.apply(ctx, s); err != nil {
		return err
	}
	return c.end(ctx, storedEndings{s})
}

// strangers are those that are enabled in the database and not in the file.
type strangers struct {
	clients, logins []string
}

// strangers lists whom only the database has: what is taken out of the file stays able to
// sign in.
func (f *configFile) strangers(ctx context.Context, s storage.Store) (found strangers, err error) {
	clients, err := s.Clients(ctx)
	if err != nil {
		return strangers{}, fmt.Errorf("list the clients: %w", err)
	}
	for _, c := range clients {
		// Who registered itself is meant to stand nowhere else.
		if !c.Disabled && c.Source == storage.ClientConfigured && !slices.ContainsFunc(f.Clients, func(known clientConfig) bool { return known.ID == c.ID }) {
			found.clients = append(found.clients, c.ID)
		}
	}
	users, err := s.Users(ctx)
	if err != nil {
		return strangers{}, fmt.Errorf("list the users: %w", err)
	}
	for _, u := range users {
		if !u.Disabled && !slices.ContainsFunc(f.Users, func(known userConfig) bool { return strings.EqualFold(known.Login, u.Login) }) {
			found.logins = append(found.logins, u.Login)
		}
	}
	return found, nil
}

// warn logs who the strangers are.
func (s *strangers) warn(logger *slog.Logger) {
	for _, id := range s.clients {
		logger.Warn("a client in the database is not in the configuration and stays as it is; to switch it off, list it with disabled: true", "client_id", id)
	}
	for _, login := range s.logins {
		logger.Warn("a user in the database is not in the configuration and stays as it is; to lock the account, list it with disabled: true", "login", login)
	}
}
