// Package dpop proves and checks the possession of a key (RFC 9449).
//
// A Verifier checks the proofs of requests at a server; a Key makes them at a client, and a
// Transport adds them to every request of an http.Client. None of them knows what a proof is for:
// which session, code or token has to be bound to its key is decided by whoever asks.
//
// # Design
//
// verifier.go decides, in the order of RFC 9449 §4.3; proof.go takes a proof apart, and reads its
// JSON itself, because encoding/json takes members whose names differ in case for the same and the
// last of two; address.go compares htu; nonce.go makes the nonces, which nobody has to store.
//
// Specifications: RFC 9449 (DPoP), RFC 7515 and RFC 7638 (JWS, thumbprints), RFC 8725 (best
// practices: explicit typ, algorithms from a list).
package dpop

import "errors"

// The error codes (RFC 9449 §5, §8).
const (
	CodeInvalidProof = "invalid_dpop_proof"
	CodeUseNonce     = "use_dpop_nonce"
)

// The headers, and the scheme of a bound access token (RFC 9449 §4.1, §7.1, §8).
const (
	Header      = "DPoP"
	HeaderNonce = "DPoP-Nonce"
	Scheme      = "DPoP"
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

func because(reason string) *Error { return invalid(errors.New(reason)) }

// ErrUsed is what Config.UseOnce returns, or wraps, for an identifier that was used before.
var ErrUsed = errors.New("dpop: used before")
