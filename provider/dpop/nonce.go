package dpop

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"
	"time"
)

const (
	// nonceStep is how often the nonce changes, and nonceSteps how many former ones are good.
	nonceStep  = 2 * time.Minute
	nonceSteps = 2
	// nonceBytes is the length of a nonce before its encoding.
	nonceBytes = 18
)

// Nonce is the nonce that clients are to use from now on; it is good for at least two steps of
// two minutes. Every process with the same secrets makes the same.
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
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:nonceBytes])
}

// good reports whether the nonce is the current one, a former one, or the next: the process that
// made it may have a clock that is ahead of ours.
func (v *Verifier) good(sent string, now time.Time) bool {
	return slices.ContainsFunc(v.config.Secrets(), func(secret []byte) bool {
		for back := int64(0); back <= nonceSteps; back++ {
			if equalNonce(sent, nonce(secret, step(now)-back)) {
				return true
			}
		}
		return equalNonce(sent, nonce(secret, step(now.Add(skew))))
	})
}

// CheckNonce says of the proof of a request what Verify would say of its nonce: an *Error with
// CodeUseNonce, or nil where there is no such fault, whatever other one there may be. It trusts
// nothing and uses nothing up. Whoever does something before Verify that counts once, such as
// taking a client assertion, asks here first: the same request can then come again.
func (v *Verifier) CheckNonce(proofs []string) error {
	if len(proofs) != 1 || len(proofs[0]) > maxProof {
		return nil
	}
	_, rest, _ := strings.Cut(proofs[0], ".")
	encoded, _, _ := strings.Cut(rest, ".")
	payload, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return nil //nolint:nilerr // Verify says what is wrong with it.
	}
	said, err := readClaims(payload)
	if err != nil {
		return nil //nolint:nilerr // As above.
	}
	return v.checkNonce(said.nonce, v.config.Now())
}

func (v *Verifier) checkNonce(sent string, now time.Time) error {
	if sent == "" && v.config.NonceOptional || v.good(sent, now) {
		return nil
	}
	return &Error{Code: CodeUseNonce, Sentence: "Send a DPoP proof with the nonce of this answer."}
}

func equalNonce(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
