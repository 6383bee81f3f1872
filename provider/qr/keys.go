package qr

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/qrgrant/qrgrant/storage"
)

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
