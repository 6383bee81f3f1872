// Package dpop proves and checks the possession of a key (RFC 9449).
//
// A Verifier checks the proofs of requests at a server, a Key makes them at a client. Neither
// knows what a proof is for: which session, code or token has to be bound to its key is decided
// by whoever asks.
package dpop

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// typ is that of every proof (RFC 9449 §4.2).
	typ = "dpop+jwt"
	// maxProof and maxID bound a proof and its jti in bytes.
	maxProof = 8 << 10
	maxID    = 256
	// proofLifetime is how old a proof may be, skew how far clocks may differ.
	proofLifetime = time.Minute
	skew          = 10 * time.Second
	// nonceStep is how often the nonce changes, and nonceSteps how many former ones are good.
	nonceStep  = 2 * time.Minute
	nonceSteps = 2
)

// The error codes (RFC 9449 §5, §8).
const (
	CodeInvalidProof = "invalid_dpop_proof"
	CodeUseNonce     = "use_dpop_nonce"
)

// Error is a proof that was refused. It says no more to the client than its Code and a fixed
// sentence.
type Error struct {
	// Code is CodeInvalidProof or CodeUseNonce; with the latter the answer carries a nonce.
	Code string
	// Sentence is for people who read answers.
	Sentence string
	// cause is for the log only.
	cause error
}

func (e *Error) Error() string {
	if e.cause != nil {
		return "dpop: " + e.Code + ": " + e.cause.Error()
	}
	return "dpop: " + e.Code + ": " + e.Sentence
}

func (e *Error) Unwrap() error { return e.cause }

func invalid(cause error) *Error {
	return &Error{Code: CodeInvalidProof, Sentence: "The DPoP proof is not valid.", cause: cause}
}

// ErrUsed is what Config.UseOnce returns, or wraps, for an identifier that was used before.
var ErrUsed = errors.New("dpop: used before")

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
	// URL is that of the request as the client knows it; query and fragment do not count.
	URL string
	// AccessToken is the token the proof comes with at a resource; empty elsewhere.
	AccessToken string
}

// Algorithms are those a proof may be signed with, as metadata lists them.
func Algorithms() []string { return []string{"ES256", "ES384", "EdDSA", "PS256"} }

func algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.EdDSA, jose.PS256}
}

type claims struct {
	ID       string   `json:"jti"`
	Method   string   `json:"htm"`
	URL      string   `json:"htu"`
	IssuedAt *float64 `json:"iat"`
	Hash     string   `json:"ath"`
	Nonce    string   `json:"nonce"`
}

// Verify checks the proof of a request (RFC 9449 §4.3) and returns the thumbprint of its key,
// the jkt of RFC 9449 §6.1; empty when there is no proof. Its error is an *Error, or a failure
// of Config.UseOnce. A proof that was refused has used nothing up.
func (v *Verifier) Verify(ctx context.Context, r Request) (jkt string, err error) {
	if len(r.Proofs) == 0 {
		return "", nil
	}
	if len(r.Proofs) > 1 || len(r.Proofs[0]) > maxProof {
		return "", invalid(errors.New("more than one proof, or a huge one"))
	}
	key, payload, err := open(r.Proofs[0])
	if err != nil {
		return "", invalid(err)
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return "", invalid(err)
	}
	sum, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", invalid(err)
	}
	jkt = base64.RawURLEncoding.EncodeToString(sum)
	issued, err := v.check(r, &c)
	if err != nil {
		return "", err
	}
	id := sha256.Sum256([]byte("dpop|" + jkt + "|" + c.ID))
	err = v.config.UseOnce(ctx, id, issued.Add(proofLifetime+2*skew))
	switch {
	case errors.Is(err, ErrUsed):
		return "", invalid(err)
	case err != nil:
		return "", fmt.Errorf("dpop: %w", err)
	}
	return jkt, nil
}

// open checks the signature of a proof against the key in its own header.
func open(proof string) (*jose.JSONWebKey, []byte, error) {
	jws, err := jose.ParseSignedCompact(proof, algorithms())
	if err != nil {
		return nil, nil, err
	}
	header := jws.Signatures[0].Protected
	key := header.JSONWebKey
	switch {
	case !strings.EqualFold(text(header.ExtraHeaders[jose.HeaderType]), typ):
		return nil, nil, errors.New("another typ")
	case key == nil || !key.IsPublic() || !key.Valid():
		return nil, nil, errors.New("no public key")
	case len(key.Certificates) > 0 || header.ExtraHeaders["crit"] != nil:
		return nil, nil, errors.New("a header that nobody needs")
	}
	payload, err := jws.Verify(key.Key)
	return key, payload, err
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// check compares what a proof says with the request it came with.
func (v *Verifier) check(r Request, c *claims) (issued time.Time, err error) {
	now := v.config.Now()
	switch {
	case c.ID == "" || len(c.ID) > maxID:
		return issued, invalid(errors.New("no jti, or a long one"))
	case c.Method != r.Method:
		return issued, invalid(errors.New("another htm"))
	case !sameURL(c.URL, r.URL):
		return issued, invalid(errors.New("another htu"))
	case c.IssuedAt == nil || *c.IssuedAt < 0 || *c.IssuedAt > 1<<40:
		return issued, invalid(errors.New("no iat"))
	}
	issued = time.Unix(int64(*c.IssuedAt), 0)
	if age := now.Sub(issued); age < -skew-time.Second || age > proofLifetime+skew {
		return issued, invalid(errors.New("an iat too far from now"))
	}
	if !v.tokenMatches(r.AccessToken, c.Hash) {
		return issued, invalid(errors.New("another ath"))
	}
	if c.Nonce == "" && v.config.NonceOptional || c.Nonce != "" && v.good(c.Nonce, now) {
		return issued, nil
	}
	return issued, &Error{Code: CodeUseNonce, Sentence: "Send a DPoP proof with the nonce of this answer."}
}

// tokenMatches compares the hash of the access token (RFC 9449 §4.2).
func (*Verifier) tokenMatches(token, hash string) bool {
	if token == "" {
		return true
	}
	return subtle.ConstantTimeCompare([]byte(hash), []byte(accessTokenHash(token))) == 1
}

func accessTokenHash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// sameURL compares two addresses without query and fragment (RFC 9449 §4.3 item 9), normalised
// as RFC 3986 §6.2.2 and §6.2.3 have it: the case of scheme and host, and the default port.
func sameURL(sent, wanted string) bool {
	a, okA := normalised(sent)
	b, okB := normalised(wanted)
	return okA && okB && a == b
}

func normalised(raw string) (string, bool) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || u.Opaque != "" {
		return "", false
	}
	scheme, host, port := strings.ToLower(u.Scheme), strings.ToLower(u.Hostname()), u.Port()
	defaults := map[string]string{"https": "443", "http": "80", "wss": "443", "ws": "80"}
	if port == defaults[scheme] {
		port = ""
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	return scheme + "://" + host + ":" + port + path, true
}

// Nonce is the nonce that clients are to use from now on; it is good for at least two steps of
// two minutes.
func (v *Verifier) Nonce() string {
	secrets := v.config.Secrets()
	if len(secrets) == 0 {
		return ""
	}
	return nonce(secrets[0], step(v.config.Now()))
}

func step(now time.Time) int64 { return now.Unix() / int64(nonceStep/time.Second) }

func nonce(secret []byte, step int64) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("dpop nonce|"))
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(step))) //nolint:gosec // Only the bits matter.
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:18])
}

func (v *Verifier) good(sent string, now time.Time) bool {
	return slices.ContainsFunc(v.config.Secrets(), func(secret []byte) bool {
		for back := range int64(nonceSteps + 1) {
			if subtle.ConstantTimeCompare([]byte(sent), []byte(nonce(secret, step(now)-back))) == 1 {
				return true
			}
		}
		return false
	})
}
