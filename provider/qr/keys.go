package qr

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

// KeyRetention is how long after it has ceased to make a server key can still be named by a
// session: one opened in its last moment lives to the end of the longest lifetime, may be
// redeemed a little later, and is swept a day after its end. Config.KeySource must go on
// returning a key for that long.
const KeyRetention = maxLifetime + 26*time.Hour

// keySet derives what this package needs of the server keys, once for each key.
type keySet struct {
	source func(wanted string) []Key

	mu      sync.Mutex
	derived map[string]*serverKey
}

// all returns the keys that are in use, the making one first. wanted is the id of a key that
// the caller has to have; empty for none.
func (s *keySet) all(wanted string) ([]*serverKey, error) {
	keys := s.source(wanted)
	s.mu.Lock()
	defer s.mu.Unlock()
	inUse := make([]*serverKey, 0, len(keys))
	for _, k := range keys {
		if s.derived[k.ID] == nil {
			derived, err := newServerKey(k)
			if err != nil {
				return nil, err
			}
			s.derived[k.ID] = derived
		}
		inUse = append(inUse, s.derived[k.ID])
	}
	if len(s.derived) > len(keys) {
		// What was retired is of no more use in memory either.
		maps.DeleteFunc(s.derived, func(_ string, k *serverKey) bool { return !slices.Contains(inUse, k) })
	}
	return inUse, nil
}

// making returns the key that new sessions are made under.
func (s *keySet) making() (*serverKey, error) {
	keys, err := s.all("")
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, errors.New("qr: there is no server key")
	}
	return keys[0], nil
}

// named returns the key of that id.
func (s *keySet) named(id string) (*serverKey, error) {
	keys, err := s.all(id)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.id == id {
			return k, nil
		}
	}
	return nil, fmt.Errorf("qr: there is no server key %q", id)
}

// serverKey is one Key with what derives from it once. Every use has a key of its own, so
// that a value made for one can never stand for another.
type serverKey struct {
	id string
	// frames is the extracted key from which each session's frame key is expanded.
	frames   []byte
	check    []byte
	digest   []byte
	userCode []byte
	seal     cipher.AEAD
}

func newServerKey(k Key) (*serverKey, error) {
	derived := serverKey{id: k.ID}
	var (
		sealKey []byte
		err     error
	)
	if derived.frames, err = hkdf.Extract(sha256.New, k.Secret, nil); err != nil {
		return nil, fmt.Errorf("qr: extract frame key: %w", err)
	}
	for label, into := range map[string]*[]byte{
		"check code": &derived.check, "context digest": &derived.digest,
		"user code": &derived.userCode, "seal": &sealKey,
	} {
		key, err := hkdf.Key(sha256.New, k.Secret, nil, "qrgrant "+label, sha256.Size)
		if err != nil {
			return nil, fmt.Errorf("qr: derive %s key: %w", label, err)
		}
		*into = key
	}
	block, err := aes.NewCipher(sealKey)
	if err != nil {
		return nil, fmt.Errorf("qr: seal key: %w", err)
	}
	if derived.seal, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		return nil, fmt.Errorf("qr: seal key: %w", err)
	}
	return &derived, nil
}

func mac(key []byte, parts ...string) []byte {
	h := hmac.New(sha256.New, key)
	for _, part := range parts {
		_, _ = io.WriteString(h, part)
	}
	return h.Sum(nil)
}

// checkCode derives the two digits that the consumption device shows once the session is
// scanned (protocol §2). It does not exist before the scan, because it depends on the claim.
func (k *serverKey) checkCode(q *storage.QRSession) string {
	var version [8]byte
	binary.BigEndian.PutUint64(version[:], q.Claim.Version)
	sum := mac(k.check, string(q.ID[:]), string(version[:]))
	// 90 divides 2^64 so nearly that the bias is beyond measuring.
	return fmt.Sprintf("%d", 10+binary.BigEndian.Uint64(sum)%90)
}

func (k *serverKey) userCodeHash(code string) storage.UserCodeHash {
	return storage.UserCodeHash(mac(k.userCode, code)[:16])
}

// sealUserCode encrypts a user code so that it can be shown again; the session is the
// associated data, so a sealed code moved to another record does not open.
func (k *serverKey) sealUserCode(id storage.QRID, code string) []byte {
	return k.seal.Seal(nil, nil, []byte(code), id[:]) //nolint:gosec // The AEAD makes its own random nonce.
}

func (k *serverKey) openUserCode(q *storage.QRSession) (string, error) {
	code, err := k.seal.Open(nil, nil, q.UserCodeSealed, q.ID[:])
	if err != nil {
		return "", fmt.Errorf("qr: open user code: %w", err)
	}
	return string(code), nil
}
