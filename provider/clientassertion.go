package provider

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json" // It tells names by their case and refuses a member twice.

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/internal/fetch"
	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/provider/internal/jws"
	"github.com/qrgrant/qrgrant/storage"
)

// assertionType is the client_assertion_type of a JWT (RFC 7523 §2.2).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

const (
	// maxAssertion and maxAssertionID bound an assertion and its jti in bytes.
	maxAssertion   = 8 << 10
	maxAssertionID = 256
	// assertionLifetime is how far off exp, and how long ago iat, may be; assertionSkew is how far
	// clocks may differ.
	assertionLifetime = 5 * time.Minute
	assertionSkew     = 10 * time.Second
)

// assertionAlgorithms are those a client can have its assertions signed with, as metadata lists
// them. RS256 has to be named by the client, as it is there for clients that know nothing else.
func assertionAlgorithms() []string {
	return []string{"ES256", "ES384", "PS256", "EdDSA", "Ed25519", "RS256"}
}

// algorithmsOf returns what the assertions of a client may be signed with.
func algorithmsOf(c *storage.Client) []jose.SignatureAlgorithm {
	switch {
	case c.AuthAlg == "":
		return []jose.SignatureAlgorithm{jose.ES256, jose.PS256, jose.EdDSA}
	case slices.Contains(assertionAlgorithms(), c.AuthAlg):
		return []jose.SignatureAlgorithm{algorithmNamed(c.AuthAlg)}
	}
	return nil
}

// algorithmNamed is the algorithm of that name. EdDSA has two, and whoever registers one of them
// may sign with the other: which one it is, the library of the client knows.
func algorithmNamed(name string) jose.SignatureAlgorithm {
	if name == string(jws.Ed25519) {
		return jose.EdDSA
	}
	return jose.SignatureAlgorithm(name)
}

// assertion is what a client says of itself (RFC 7523 §3).
type assertion struct {
	Issuer    string       `json:"iss"`
	Subject   string       `json:"sub"`
	Audience  audience     `json:"aud"`
	ID        string       `json:"jti"`
	Expiry    *numericDate `json:"exp"`
	IssuedAt  *numericDate `json:"iat"`
	NotBefore *numericDate `json:"nbf"`
}

// audience is a string or an array of strings (RFC 7519 §4.1.3).
type audience []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audience) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(raw, (*[]string)(a))
}

// numericDate is a NumericDate (RFC 7519 §2), which may have a fraction.
type numericDate float64

// time returns the moment; ok is false for one that no clock shows.
func (s *numericDate) time() (at time.Time, ok bool) {
	if s == nil || *s < 0 || *s > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(*s), 0), true
}

// readAssertion reads whom an assertion is of. Nothing it says is true before verifiedAssertion.
func readAssertion(values url.Values) (credentials, error) {
	compact := values.Get("client_assertion")
	if values.Get("client_assertion_type") != assertionType || len(compact) > maxAssertion {
		return credentials{}, invalidClient()
	}
	_, rest, _ := strings.Cut(compact, ".")
	encoded, _, _ := strings.Cut(rest, ".")
	payload, err := base64.RawURLEncoding.DecodeString(encoded)
	var claimed assertion
	if err != nil || json.Unmarshal(payload, &claimed) != nil || !form.Clean(claimed.Subject) {
		return credentials{}, invalidClient()
	}
	if values.Has("client_id") && values.Get("client_id") != claimed.Subject {
		return credentials{}, invalidClient()
	}
	return credentials{id: claimed.Subject, assertion: compact, method: storage.AuthPrivateKeyJWT}, nil
}

// assertedClient authenticates a client that signed an assertion. One that does not exist, or
// that may not, costs the same signature.
func (p *Provider) assertedClient(ctx context.Context, r *http.Request, client fositestore.Client, compact string) (fositestore.Client, error) {
	if client.AuthMethod != storage.AuthPrivateKeyJWT {
		p.clientKeys.verifyNothing(compact, algorithmsOf(&storage.Client{}))
		return fositestore.Client{}, invalidClient()
	}
	payload, header, err := p.clientKeys.verify(ctx, client.Client, compact, algorithmsOf(client.Client))
	if errors.Is(err, fetch.ErrBusy) || err != nil && ctx.Err() != nil {
		return fositestore.Client{}, unavailable(err)
	}
	var said assertion
	if err == nil {
		said, err = parseAssertion(payload, header)
	}
	if err == nil {
		err = said.check(client.ID, p.audiences(r, client.Client), p.config.Now())
	}
	if err == nil {
		// An answer that asks for a nonce asks for the same request again, assertion included.
		err = p.dpop.CheckNonce(r.Header.Values(dpop.Header))
	}
	if err == nil {
		err = p.useAssertion(ctx, client.ID, &said)
	}
	if err != nil {
		p.config.Logger.DebugContext(ctx, "a client assertion was refused", "client_id", client.ID, "error", err)
		return fositestore.Client{}, assertionRefused(err)
	}
	// Its keys may change between a request and its repetition, and it is the same client still.
	client.Credential = sha256.Sum256([]byte(storage.AuthPrivateKeyJWT + "|" + client.ID))
	return client, nil
}

// assertionRefused is the one answer to whatever is wrong with an assertion; a failure of ours is
// none of that, nor is the wish for a nonce.
func assertionRefused(err error) error {
	if nonce := proofError(err); nonce != nil {
		return nonce
	}
	var own *oauthError
	if errors.As(err, &own) {
		return own
	}
	refused := invalidClient()
	refused.cause = err
	return refused
}

// parseAssertion reads what was signed.
func parseAssertion(payload []byte, header jose.Header) (assertion, error) {
	var said assertion
	if typ, sent := header.ExtraHeaders[jose.HeaderType]; sent {
		text, _ := typ.(string)
		if !strings.EqualFold(text, "JWT") && !strings.EqualFold(text, "client-authentication+jwt") {
			return said, errors.New("provider: an assertion of another typ")
		}
	}
	if err := json.Unmarshal(payload, &said); err != nil {
		return said, fmt.Errorf("provider: %w", err)
	}
	return said, nil
}

// audiences are what an assertion at this endpoint may be for. The issuer alone, unless the client
// needs more: what is for one endpoint's address could be for a server that names it as its own.
func (p *Provider) audiences(r *http.Request, c *storage.Client) []string {
	if c.AssertionAudience != storage.AudienceEndpoint {
		return []string{p.config.Issuer}
	}
	return []string{p.config.Issuer, p.urlOf(routeToken), p.origin() + r.URL.EscapedPath()}
}

// check compares what a client says with who it is, whom it means and when (RFC 7523 §3).
func (a *assertion) check(clientID string, audiences []string, now time.Time) error {
	switch {
	case a.Issuer != clientID || a.Subject != clientID:
		return errors.New("provider: an assertion of another client")
	case len(a.Audience) == 0 || len(a.Audience) > len(audiences):
		return errors.New("provider: an assertion for nobody, or for many")
	case slices.ContainsFunc(a.Audience, func(one string) bool { return !slices.Contains(audiences, one) }):
		return errors.New("provider: an assertion for another audience")
	case a.ID == "" || len(a.ID) > maxAssertionID:
		return errors.New("provider: an assertion without a jti, or with a long one")
	}
	return a.checkTimes(now)
}

func (a *assertion) checkTimes(now time.Time) error {
	expiry, ok := a.Expiry.time()
	if !ok || !now.Before(expiry.Add(assertionSkew)) || expiry.After(now.Add(assertionLifetime+assertionSkew)) {
		return errors.New("provider: an assertion without a near exp")
	}
	if issued, ok := a.IssuedAt.time(); a.IssuedAt != nil &&
		(!ok || issued.After(now.Add(assertionSkew)) || issued.Before(now.Add(-assertionLifetime-assertionSkew))) {
		return errors.New("provider: an assertion with an iat too far from now")
	}
	if from, ok := a.NotBefore.time(); a.NotBefore != nil && (!ok || from.After(now.Add(assertionSkew))) {
		return errors.New("provider: an assertion that is not good yet")
	}
	return nil
}

// useAssertion marks an assertion as used until it would have expired. It comes last: whoever
// cannot sign for a client can use up nothing of it.
func (p *Provider) useAssertion(ctx context.Context, clientID string, a *assertion) error {
	// With its length an id cannot be spelt so that it runs into somebody else's.
	id := sha256.Sum256([]byte("assertion|" + strconv.Itoa(len(clientID)) + "|" + clientID + "|" + a.ID))
	expiry, _ := a.Expiry.time()
	err := p.config.Store.UseOnce(ctx, id, expiry.Add(2*assertionSkew), p.config.Now())
	if err != nil && !errors.Is(err, storage.ErrConflict) {
		return unavailable(err)
	}
	return err
}
