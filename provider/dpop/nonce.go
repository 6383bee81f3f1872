package dpop

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"slices"
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

func equalNonce(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
