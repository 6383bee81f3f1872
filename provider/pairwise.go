package provider

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/internal/fetch"
	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/storage"
)

const (
	// pairwiseHMAC stands for the key of pairwise subjects where signing keys have their algorithm.
	pairwiseHMAC jose.SignatureAlgorithm = "pairwise"
	// pairwiseID is the id of that key: of two processes that make it at once one wins, and the
	// other takes what it made.
	pairwiseID = "pairwise"
	// sectorBody bounds the list at a sector_identifier_uri.
	sectorBody = 64 << 10
)

// The types of subjects (OpenID Connect Core §8).
const (
	subjectPublic   = "public"
	subjectPairwise = "pairwise"
)

// subjectTypes lists those that are switched on, as metadata does.
func (c *Config) subjectTypes() []string {
	if c.Pairwise {
		return []string{subjectPublic, subjectPairwise}
	}
	return []string{subjectPublic}
}

// subjectFor returns what the client knows the person by (OpenID Connect Core §8): the subject
// itself or, for a client with pairwise subjects, a value that the clients of its sector share and
// no others. Whoever holds the key can compute it, and nobody can compute it back.
func (r *keyRing) subjectFor(c *storage.Client, subject string) (string, error) {
	if !c.Pairwise || subject == "" {
		return subject, nil
	}
	key, err := r.pairwiseKey()
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, key)
	// A client that the operator gave no sector is one by itself; no host has a bar in it.
	mac.Write([]byte(cmp.Or(c.Sector, "client|"+c.ID) + "\x00" + subject))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)), nil
}

// pairwiseKey returns the one key of pairwise subjects, which it makes when the store has none. It
// never joins the unit of work of a request: a key that made a subject must not be dropped with it.
func (r *keyRing) pairwiseKey() ([]byte, error) {
	ctx := r.own
	if keys := r.of(pairwiseHMAC); len(keys) > 0 {
		return keys[0].secret, nil
	}
	// Another process may have made it.
	errLearn := r.learn(ctx)
	if keys := r.of(pairwiseHMAC); len(keys) > 0 {
		return keys[0].secret, nil
	}
	if errLearn != nil {
		return nil, errLearn
	}
	secret := make([]byte, sha256.Size)
	_, _ = rand.Read(secret) // it never fails
	err := r.put(ctx, storage.Key{ID: pairwiseID, Use: storage.KeyPairwise, Secret: secret, CreatedAt: r.now()})
	if errors.Is(err, storage.ErrConflict) {
		err = r.learn(ctx)
	}
	if err != nil {
		return nil, err
	}
	keys := r.of(pairwiseHMAC)
	if len(keys) == 0 {
		return nil, errors.New("provider: the key of pairwise subjects cannot be read")
	}
	return keys[0].secret, nil
}

// subjectOf is subjectFor for a client as fosite knows it.
func (r *keyRing) subjectOf(client fosite.Client, subject string) (string, error) {
	c, ok := client.(fositestore.Client)
	if !ok {
		return "", errors.New("provider: unknown client type")
	}
	return r.subjectFor(c.Client, subject)
}

// person returns the subject of the person that an ID token of ours is about. That of a client
// with pairwise subjects cannot be computed back; the sign-in of the token says whose it may be.
// What fits nobody is left as it is: no person's subject reads like that.
func (s *idTokenStrategy) person(ctx context.Context, claims *idTokenClaims) string {
	c, err := s.store.Client(ctx, claims.Audience)
	if err != nil || !c.Pairwise {
		return claims.Subject
	}
	signIn, err := s.store.Session(ctx, claims.SessionID)
	if err != nil {
		return claims.Subject
	}
	if subject, err := s.keys.subjectFor(c, signIn.Subject); err != nil || subject != claims.Subject {
		return claims.Subject
	}
	return signIn.Subject
}

// isAbout reports whether a hint, as hint returns it, is about a person. Long after the sign-in of
// its token has ended nobody can say whom the client knows by a pairwise subject, but whether it is
// this person can be computed.
func (s *idTokenStrategy) isAbout(ctx context.Context, hint *idTokenClaims, subject string) bool {
	if hint.Subject == subject {
		return true
	}
	c, err := s.store.Client(ctx, hint.Audience)
	if err != nil || !c.Pairwise {
		return false
	}
	known, err := s.keys.subjectFor(c, subject)
	return err == nil && known == hint.Subject
}

// meetsClaims reports whether a sign-in is one that the claims of the request allow, in which the
// client names people as it knows them.
func (p *Provider) meetsClaims(ctx context.Context, req *authorizeRequest, s *storage.Session) bool {
	subject, err := p.keys.subjectFor(req.client.Client, s.Subject)
	if err != nil {
		p.config.Logger.ErrorContext(ctx, "a pairwise subject was not made", "client_id", req.client.ID, "error", err)
		return false
	}
	return req.claims.meets(s, subject)
}

// SectorOf returns the host that a client's pairwise subjects are of (OpenID Connect Core §8.1):
// that of its sector_identifier_uri, otherwise the one of its redirect URIs, in lower case. It is
// false where there is none, or more than one.
func SectorOf(c *storage.Client) (host string, ok bool) {
	from := c.RedirectURIs
	if c.SectorIdentifierURI != "" {
		from = []string{c.SectorIdentifierURI}
	}
	var hosts []string
	for _, raw := range from {
		u, err := url.Parse(raw)
		if err != nil || u.Hostname() == "" {
			return "", false
		}
		hosts = append(hosts, strings.ToLower(u.Hostname()))
	}
	if hosts = slices.Compact(hosts); len(hosts) != 1 {
		return "", false
	}
	return hosts[0], true
}

// checkSector reads the list at the sector_identifier_uri, which must name every redirect URI:
// otherwise a client could put itself into the sector of others (OpenID Connect Dynamic Client
// Registration §5).
func (p *Provider) checkSector(ctx context.Context, c *storage.Client) error {
	if c.SectorIdentifierURI == "" {
		return nil
	}
	unread := invalidMetadata("The sector_identifier_uri does not lead to a JSON array.")
	document, err := p.fetcher.Get(ctx, c.SectorIdentifierURI, sectorBody, "application/json")
	switch {
	case errors.Is(err, fetch.ErrRefused):
		return unread
	case errors.Is(err, fetch.ErrBusy):
		return unavailable(err) // nobody was asked
	case err != nil:
		// It may be there the next time, but no client of ours would ask again by itself.
		unread.cause = fmt.Errorf("provider: sector: %w", err)
		return unread
	}
	var listed []string
	if json.Unmarshal(document.Body, &listed) != nil {
		return unread
	}
	for _, raw := range c.RedirectURIs {
		if !slices.Contains(listed, raw) {
			return &oauthError{
				status: http.StatusBadRequest, code: "invalid_client_metadata",
				description: "The list at the sector_identifier_uri lacks one of the redirect_uris.",
			}
		}
	}
	return nil
}
