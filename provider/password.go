package provider

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// The parameters of new hashes (RFC 9106; OWASP's second choice, about 20 ms).
const (
	argonMemory  = 19 << 10 // KiB
	argonTime    = 2
	argonThreads = 1
	argonKeyLen  = 32
	argonSaltLen = 16
)

// HashPassword returns an argon2id hash in PHC string format for storage.User.PasswordHash.
func HashPassword(password string) (string, error) {
	salt := make([]byte, argonSaltLen)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("provider: random bytes: %w", err)
	}
	key := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, argonKeyLen)
	enc := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads,
		enc.EncodeToString(salt), enc.EncodeToString(key)), nil
}

// VerifyPassword reports whether hash, in PHC string format, is of this password. A hash that
// CheckPasswordHash refuses matches nothing.
func VerifyPassword(hash, password string) bool {
	h, err := parseArgonHash(hash)
	if err != nil {
		return false
	}
	return h.matches(password)
}

func (h argonHash) matches(password string) bool {
	length := uint32(len(h.key)) //nolint:gosec // G115: parseArgonHash takes at most 64
	got := argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.threads, length)
	return subtle.ConstantTimeCompare(got, h.key) == 1
}

// CheckPasswordHash returns an error when hash is no argon2id hash in PHC string format with
// parameters within reason (at most 256 MiB, 16 passes, 16 lanes): no password matches it.
func CheckPasswordHash(hash string) error {
	_, err := parseArgonHash(hash)
	return err
}

// argonHash is a hash taken apart.
type argonHash struct {
	hashCost
	salt, key []byte
}

func parseArgonHash(hash string) (argonHash, error) {
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return argonHash{}, errors.New("provider: not an argon2id hash")
	}
	if parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return argonHash{}, errors.New("provider: not the version 19 of argon2id")
	}
	var h argonHash
	// What Sscanf leaves unread must not be there.
	_, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.time, &h.threads)
	if err != nil || parts[3] != fmt.Sprintf("m=%d,t=%d,p=%d", h.memory, h.time, h.threads) {
		return argonHash{}, errors.New("provider: malformed parameters of argon2id")
	}
	if h.memory > 256<<10 || h.time < 1 || h.time > 16 || h.threads < 1 || h.threads > 16 {
		return argonHash{}, errors.New("provider: parameters of argon2id beyond reason")
	}
	var errSalt, errKey error
	h.salt, errSalt = base64.RawStdEncoding.DecodeString(parts[4])
	h.key, errKey = base64.RawStdEncoding.DecodeString(parts[5])
	if errSalt != nil || errKey != nil || len(h.key) < 16 || len(h.key) > 64 {
		return argonHash{}, errors.New("provider: malformed salt or hash of argon2id")
	}
	return h, nil
}
