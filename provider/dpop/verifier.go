package dpop

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"time"
)

const (
	// maxProof and maxID bound a proof and its jti in bytes.
	maxProof = 8 << 10
	maxID    = 256
	// proofLifetime is how old a proof may be, skew how far clocks may differ.
	proofLifetime = time.Minute
	skew          = 10 * time.Second
)

// Config wires a Verifier. UseOnce and Secrets are required.
type Config struct {
	// UseOnce marks an identifier as used until the given time; the second time it returns an
	// error that wraps ErrUsed. Any other error is a failure of the server.
	UseOnce func(ctx context.Context, id [32]byte, until time.Time) error
	// Secrets are the keys of nonces, of at least 32 bytes: the first one makes, all check.
	Secrets func() [][]byte
	// NonceOptional accepts proofs without a nonce of ours (RFC 9449 §8). One that is sent must
	// be good all the same.
	NonceOptional bool
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Verifier checks proofs. It is safe for concurrent use.
type Verifier struct {
	config Config
}

// New returns a Verifier.
func New(c Config) *Verifier {
	if c.Now == nil {
		c.Now = time.Now //nolint:forbidigo // This is where the clock is configured.
	}
	return &Verifier{config: c}
}

// Request is what a proof has to be for.
type Request struct {
	// Proofs are the values of the header DPoP: none proves nothing, more than one is refused.
	Proofs []string
	Method string
	// URL is that of the request as the client knows it; query and fragment do not count, and
	// ws and wss are the same as http and https.
	URL string
	// AccessToken is the token the proof comes with at a resource; empty elsewhere.
	AccessToken string
}

// Verify checks the proof of a request (RFC 9449 §4.3) and returns the thumbprint of its key,
// the jkt of RFC 9449 §6.1; empty when there is no proof. Its error is an *Error, or a failure
// of Config.UseOnce. A proof that was refused has used nothing up; one that was accepted will
// not be again, here or at any other server with the same UseOnce.
func (v *Verifier) Verify(ctx context.Context, r Request) (jkt string, err error) {
	if len(r.Proofs) == 0 {
		return "", nil
	}
	if len(r.Proofs) > 1 || len(r.Proofs[0]) > maxProof {
		return "", because("more than one proof, or a huge one")
	}
	jkt, said, err := open(r.Proofs[0])
	if err != nil {
		return "", invalid(err)
	}
	if err := v.check(r, said); err != nil {
		return "", err
	}
	// The key is part of it: nobody uses up the identifiers of others.
	id := sha256.Sum256([]byte("dpop|" + jkt + "|" + said.id))
	err = v.config.UseOnce(ctx, id, said.issued.Add(proofLifetime+2*skew))
	switch {
	case errors.Is(err, ErrUsed):
		return "", invalid(err)
	case err != nil:
		return "", fmt.Errorf("dpop: %w", err)
	}
	return jkt, nil
}

// check compares what a proof says with the request it came with. The nonce is last: a client
// that is told to take another one gets further with it.
func (v *Verifier) check(r Request, c claims) error {
	now := v.config.Now()
	age := now.Sub(c.issued)
	switch {
	case c.id == "" || len(c.id) > maxID:
		return because("no jti, or a long one")
	case c.method == "" || c.method != r.Method:
		return because("another htm")
	case !sameURL(c.url, r.URL):
		return because("another htu")
	case age < -skew || age > proofLifetime+skew:
		return because("an iat too far from now")
	case r.AccessToken != "" && subtle.ConstantTimeCompare([]byte(c.hash), []byte(tokenHash(r.AccessToken))) != 1:
		return because("another ath")
	}
	return v.checkNonce(c.nonce, now)
}

// tokenHash is the ath of an access token (RFC 9449 §4.2).
func tokenHash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
