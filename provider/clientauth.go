package provider

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/storage"
)

// credentials is what a request says about its client.
type credentials struct {
	id, secret string
}

// authenticate is the client authentication of every endpoint (RFC 6749 §2.3):
// client_secret_basic, client_secret_post, or none for a public client. It has fosite's
// signature; a client already authenticated for this request is not checked twice.
func (p *Provider) authenticate(ctx context.Context, r *http.Request, values url.Values) (fosite.Client, error) {
	if c, ok := fositestore.ClientFrom(ctx); ok {
		return c, nil
	}
	c, err := p.authenticatedClient(ctx, r, values)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (p *Provider) authenticatedClient(ctx context.Context, r *http.Request, values url.Values) (fositestore.Client, error) {
	sent, err := readCredentials(r, values)
	if err != nil {
		return fositestore.Client{}, err
	}
	client, err := p.tokens.Client(ctx, sent.id)
	if errors.Is(err, fosite.ErrNotFound) {
		// The same work and the same answer as for a wrong secret.
		client = fositestore.Client{Client: &storage.Client{SecretHashes: make([][32]byte, 1)}}
	} else if err != nil {
		return fositestore.Client{}, unavailable(err)
	}
	if client.ID != "" {
		answerReadable(ctx, client.Client)
	}
	if !secretMatches(client, sent.secret) || client.ID == "" {
		return fositestore.Client{}, invalidClient()
	}
	if !client.Public() {
		client.Credential = sha256.Sum256([]byte(sent.secret))
	}
	return client, nil
}

// secretMatches compares with every valid hash, however early one matches. Secrets are
// generated with 256 bits, so a fast hash is enough; bcrypt here would cost 200 ms per poll.
func secretMatches(c fositestore.Client, secret string) bool {
	if c.Public() {
		// A secret for a public client is a configuration mistake that would go unnoticed.
		return secret == ""
	}
	sum := sha256.Sum256([]byte(secret))
	match := 0
	for _, h := range c.SecretHashes {
		match |= subtle.ConstantTimeCompare(sum[:], h[:])
	}
	return match == 1 && secret != ""
}

func readCredentials(r *http.Request, values url.Values) (credentials, error) {
	if values.Has("client_assertion") || values.Has("client_assertion_type") {
		return credentials{}, invalidClient()
	}
	posted := credentials{id: values.Get("client_id"), secret: values.Get("client_secret")}
	header := r.Header.Values("Authorization")
	if len(header) == 0 {
		return posted, nil
	}
	if len(header) > 1 {
		return credentials{}, invalidRequest("The Authorization header was sent more than once.")
	}
	basic, ok := parseBasic(header[0])
	switch {
	case !ok:
		return credentials{}, invalidClient()
	case values.Has("client_secret"):
		return credentials{}, invalidRequest("The client used two authentication methods.")
	case values.Has("client_id") && posted.id != basic.id:
		return credentials{}, invalidRequest("The client_id is not that of the Authorization header.")
	}
	return basic, nil
}

// parseBasic reads a Basic header whose two halves are form-urlencoded (RFC 6749 §2.3.1).
func parseBasic(header string) (credentials, bool) {
	scheme, encoded, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "Basic") {
		return credentials{}, false
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil {
		return credentials{}, false
	}
	left, right, ok := strings.Cut(string(raw), ":")
	id, errID := url.QueryUnescape(left)
	secret, errSecret := url.QueryUnescape(right)
	if !ok || errID != nil || errSecret != nil || !form.Clean(id) || !form.Clean(secret) {
		return credentials{}, false
	}
	return credentials{id: id, secret: secret}, true
}
