package fositestore

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/storage"
)

// Client shows a storage.Client to fosite.
type Client struct {
	*storage.Client
	// Credential is SHA-256 of the secret this request authenticated with, and the same at every
	// request for a client that signs assertions; zero for a public client and for one that did
	// not authenticate.
	Credential [32]byte
}

var (
	_ fosite.Client             = Client{}
	_ fosite.ResponseModeClient = Client{}
)

// GetID returns the client_id.
func (c Client) GetID() string { return c.ID }

// GetHashedSecret returns nil: secrets are compared by the provider, never by fosite.
func (Client) GetHashedSecret() []byte { return nil }

// GetRedirectURIs returns the registered redirect URIs.
func (c Client) GetRedirectURIs() []string { return c.RedirectURIs }

// GetGrantTypes returns the grants the client may use; authorization_code when it names none.
func (c Client) GetGrantTypes() fosite.Arguments {
	if len(c.GrantTypes) == 0 {
		return fosite.Arguments{"authorization_code"}
	}
	return c.GrantTypes
}

// GetResponseTypes returns code for a client of the code flow and nothing for any other.
func (c Client) GetResponseTypes() fosite.Arguments {
	if slices.Contains(c.GetGrantTypes(), "authorization_code") {
		return fosite.Arguments{"code"}
	}
	return nil
}

// GetScopes returns the scopes the client may ask for.
func (c Client) GetScopes() fosite.Arguments { return c.Scopes }

// IsPublic reports whether the client has neither a secret nor a key.
func (c Client) IsPublic() bool { return c.Public() }

// GetAudience returns nil: audiences are set by the provider, never asked for.
func (Client) GetAudience() fosite.Arguments { return nil }

// GetResponseModes returns the response modes the provider writes.
func (Client) GetResponseModes() []fosite.ResponseModeType {
	return []fosite.ResponseModeType{fosite.ResponseModeDefault, fosite.ResponseModeQuery}
}

type clientKey struct{}

// WithClient returns a context that knows the authenticated client, so that one request reads
// and checks it once.
func WithClient(ctx context.Context, c Client) context.Context {
	return context.WithValue(ctx, clientKey{}, c)
}

// ClientFrom returns what WithClient put there.
func ClientFrom(ctx context.Context) (Client, bool) {
	c, ok := ctx.Value(clientKey{}).(Client)
	return c, ok
}

// Client returns a client that is not disabled; fosite.ErrNotFound otherwise.
func (s *Store) Client(ctx context.Context, id string) (Client, error) {
	if c, ok := ClientFrom(ctx); ok && c.ID == id {
		return c, nil
	}
	// Drivers use the id as a key; an empty or huge one is nobody's.
	if id == "" || len(id) > 256 {
		return Client{}, fosite.ErrNotFound
	}
	c, err := s.config.Store.Client(ctx, id)
	if s.config.Described != nil && (err == nil || errors.Is(err, storage.ErrNotFound)) {
		c, err = s.config.Described(ctx, id, c)
	}
	if err == nil && c.Disabled {
		err = storage.ErrNotFound
	}
	if errors.Is(err, storage.ErrNotFound) {
		return Client{}, fosite.ErrNotFound.WithWrap(err)
	}
	if err != nil {
		return Client{}, err
	}
	return Client{Client: c}, nil
}

// GetClient is Client for fosite.
func (s *Store) GetClient(ctx context.Context, id string) (fosite.Client, error) {
	c, err := s.Client(ctx, id)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// ClientAssertionJWTValid refuses: the provider checks assertions itself, and fosite is never to
// accept one.
func (*Store) ClientAssertionJWTValid(context.Context, string) error { return fosite.ErrInvalidClient }

// SetClientAssertionJWT refuses, for the same reason.
func (*Store) SetClientAssertionJWT(context.Context, string, time.Time) error {
	return fosite.ErrInvalidClient
}
