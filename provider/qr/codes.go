package qr

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"github.com/qrgrant/qrgrant/storage"
)

// userCodeAlphabet has no vowels, so no words, and no look-alikes (RFC 8628 §6.1).
const userCodeAlphabet = "BCDFGHJKLMNPQRSTVWXZ"

const userCodeLength = 8

// secretLength is the 256 bits of device_code and confirm_handle.
const secretLength = 32

// secret is a reference and 256 random bits, as device_code and confirm_handle travel. The
// reference finds the record, the hash of the random half proves the holder: no index of
// secrets is kept, and the comparison takes constant time.
type secret struct {
	id  storage.QRID
	raw [secretLength]byte
}

func newSecret(rand io.Reader, id storage.QRID) (secret, error) {
	s := secret{id: id}
	if _, err := io.ReadFull(rand, s.raw[:]); err != nil {
		return secret{}, fmt.Errorf("qr: read randomness: %w", err)
	}
	return s, nil
}

func (s secret) String() string {
	return base64.RawURLEncoding.EncodeToString(append(s.id[:], s.raw[:]...))
}

func (s secret) hash() [32]byte { return sha256.Sum256(s.raw[:]) }

func (s secret) matches(hash [32]byte) bool {
	own := s.hash()
	return subtle.ConstantTimeCompare(own[:], hash[:]) == 1
}

func parseSecret(text string) (secret, bool) {
	var s secret
	if len(text) != base64.RawURLEncoding.EncodedLen(len(s.id)+len(s.raw)) {
		return secret{}, false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != len(s.id)+len(s.raw) {
		return secret{}, false
	}
	copy(s.id[:], raw)
	copy(s.raw[:], raw[len(s.id):])
	return s, true
}

func newUserCode(rand io.Reader) (string, error) {
	code := make([]byte, 0, userCodeLength)
	var buf [16]byte
	for len(code) < userCodeLength {
		if _, err := io.ReadFull(rand, buf[:]); err != nil {
			return "", fmt.Errorf("qr: read randomness: %w", err)
		}
		for _, b := range buf {
			// 240 is the largest multiple of 20 in a byte; above it letters would be uneven.
			if b < 240 && len(code) < userCodeLength {
				code = append(code, userCodeAlphabet[b%20])
			}
		}
	}
	return string(code), nil
}

// showUserCode writes a code as people read it: XXXX-XXXX.
func showUserCode(code string) string { return code[:4] + "-" + code[4:] }

// normalizeUserCode forgives case, spaces, dashes and any other separator (RFC 8628 §6.1).
// It reports false when what is left is no code.
func normalizeUserCode(typed string) (string, bool) {
	if len(typed) > 64 {
		return "", false
	}
	code := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			r -= 'a' - 'A'
		}
		if strings.ContainsRune(userCodeAlphabet, r) {
			return r
		}
		return -1
	}, typed)
	return code, len(code) == userCodeLength
}
