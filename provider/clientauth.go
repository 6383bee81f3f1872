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

// The ways a client proves who it is, beside storage.AuthPrivateKeyJWT (OpenID Connect Core §9).
const (
	authBasic = "client_secret_basic"
	authPost  = "client_secret_post"
	authNone  = "none"
)

// credentials is what a request says about its client: an id and, depending on the method, a
// secret or an assertion.
type credentials struct {
	method                string
	id, secret, assertion string
}

// authenticate is the client authentication of every endpoint (RFC 6749 §2.3):
// client_secret_basic, client_secret_post, private_key_jwt, or none for a public client. It has
// fosite's signature; a client already authenticated for this request is not checked twice, for
// its assertion is used up.
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
	switch {
	case errors.Is(err, fosite.ErrNotFound):
		// The same work and the same answer as for a wrong secret.
		client = fositestore.Client{Client: &storage.Client{SecretHashes: make([][32]byte, 1)}}
	case err != nil:
		return fositestore.Client{}, unavailable(err)
	default:
		answerReadable(ctx, client.Client)
	}
	if sent.method == storage.AuthPrivateKeyJWT {
		return p.assertedClient(ctx, r, client, sent.assertion)
	}
	if !secretMatches(client, sent.secret) || client.ID == "" || client.AuthMethod != "" && client.AuthMethod != sent.method {
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
	header := r.Header.Values("Authorization")
	if values.Has("client_assertion") || values.Has("client_assertion_type") {
		if len(header) > 0 || values.Has("client_secret") {
			return credentials{}, invalidRequest("The client used two authentication methods.")
		}
		return readAssertion(values)
	}
	posted := credentials{method: methodOf(authPost, values.Get("client_secret")), id: values.Get("client_id"), secret: values.Get("client_secret")}
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
	return credentials{method: methodOf(authBasic, secret), id: id, secret: secret}, true
}

// methodOf is how a secret was sent; without one nothing was proved, whatever the header.
func methodOf(method, secret string) string {
	if secret == "" {
		return authNone
	}
	return method
}
