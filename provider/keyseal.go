package provider

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/qrgrant/qrgrant/storage"
)

// keySealSize is the size of Config.KeySeal, for AES-256.
const keySealSize = 32

// keySeal encrypts the secrets of keys at rest. A nil *keySeal leaves them in the clear.
type keySeal struct {
	// name tells one sealing key from another without saying anything about it.
	name string
	aead cipher.AEAD
}

func newKeySeal(secret []byte) (*keySeal, error) {
	if len(secret) == 0 {
		return nil, nil
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, fmt.Errorf("provider: Config.KeySeal: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("provider: Config.KeySeal: %w", err)
	}
	sum := sha256.Sum256(append([]byte("provider|key seal|"), secret...))
	return &keySeal{name: base64.RawURLEncoding.EncodeToString(sum[:9]), aead: aead}, nil
}

// seal returns the key as it is stored.
func (s *keySeal) seal(k storage.Key) storage.Key {
	if s == nil {
		return k
	}
	// A random nonce is safe for 2^32 keys under one seal.
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(k.Secret)+s.aead.Overhead())
	_, _ = rand.Read(nonce) // it never fails
	k.SealedBy = s.name
	k.Secret = s.aead.Seal(nonce, nonce, k.Secret, sealedWith(&k))
	return k
}

// open returns the key with its secret in the clear.
func (s *keySeal) open(k storage.Key) (storage.Key, error) {
	switch {
	case k.SealedBy == "":
		return k, nil
	case s == nil:
		return storage.Key{}, fmt.Errorf("provider: key %q is sealed and Config.KeySeal is missing", k.ID)
	case k.SealedBy != s.name:
		return storage.Key{}, fmt.Errorf("provider: key %q is sealed under another key than Config.KeySeal", k.ID)
	}
	size := s.aead.NonceSize()
	if len(k.Secret) < size {
		return storage.Key{}, fmt.Errorf("provider: key %q: %w", k.ID, errors.New("too short"))
	}
	secret, err := s.aead.Open(nil, k.Secret[:size], k.Secret[size:], sealedWith(&k))
	if err != nil {
		return storage.Key{}, fmt.Errorf("provider: key %q was changed in the store: %w", k.ID, err)
	}
	k.Secret, k.SealedBy = secret, ""
	return k, nil
}

// sealedWith is everything about a key that must not change without its secret: else whoever
// can write to the store could bring a retired key back.
func sealedWith(k *storage.Key) []byte {
	return []byte(strings.Join([]string{
		k.SealedBy, k.ID, string(k.Use), k.Algorithm,
		strconv.FormatInt(k.CreatedAt.UnixNano(), 10), strconv.FormatInt(k.ActiveSince().UnixNano(), 10),
	}, "\x00"))
}
