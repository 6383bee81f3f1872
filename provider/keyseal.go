package provider

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/qrgrant/qrgrant/storage"
)

// ErrKeySeal says that the private keys in the Store are sealed and Config.KeySeals lacks the key
// that they are sealed under. New wrote nothing.
var ErrKeySeal = errors.New("provider: the private keys in the store are sealed under a key that Config.KeySeals lacks")

// keySealSize is the size of each of Config.KeySeals, for AES-256.
const keySealSize = 32

// keySeals encrypt the secrets of keys at rest: the first seals, all of them open. None leaves
// the secrets in the clear.
type keySeals []*keySeal

// keySeal is one of Config.KeySeals.
type keySeal struct {
	// name tells one sealing key from another without saying anything about it.
	name string
	aead cipher.AEAD
}

func newKeySeals(secrets [][]byte) (keySeals, error) {
	var seals keySeals
	for i, secret := range secrets {
		block, err := aes.NewCipher(secret)
		if err != nil {
			return nil, fmt.Errorf("provider: Config.KeySeals[%d]: %w", i, err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, fmt.Errorf("provider: Config.KeySeals[%d]: %w", i, err)
		}
		sum := sha256.Sum256(append([]byte("provider|key seal|"), secret...))
		seals = append(seals, &keySeal{name: base64.RawURLEncoding.EncodeToString(sum[:9]), aead: aead})
	}
	return seals, nil
}

// name is the SealedBy of what seal returns.
func (s keySeals) name() string {
	if len(s) == 0 {
		return ""
	}
	return s[0].name
}

// seal returns the key as it is stored.
func (s keySeals) seal(k storage.Key) storage.Key {
	if len(s) == 0 {
		return k
	}
	return s[0].seal(k)
}

// open returns the key with its secret in the clear. With a seal, a key that lies in the clear is
// not taken: whoever can write to the store, and knows no seal, could have put it there.
func (s keySeals) open(k storage.Key) (storage.Key, error) {
	if k.SealedBy == "" {
		if len(s) > 0 {
			return storage.Key{}, fmt.Errorf("provider: key %q lies in the clear in a store whose keys are sealed; it is a stranger's and is not taken", k.ID)
		}
		return k, nil
	}
	at := slices.IndexFunc(s, func(each *keySeal) bool { return each.name == k.SealedBy })
	if at < 0 {
		return storage.Key{}, fmt.Errorf("key %q: %w", k.ID, ErrKeySeal)
	}
	return s[at].open(k)
}

// sealed reports whether a key is sealed under one of these.
func (s keySeals) sealed(k *storage.Key) bool {
	return slices.ContainsFunc(s, func(each *keySeal) bool { return each.name == k.SealedBy })
}

// openStored returns the keys of the store in the clear. What is not sealed under the first seal
// is sealed under it, all in one transaction: a crash leaves every key as it was. A store that
// has no sealed key is taken as it is, once; from then on what lies in the clear is refused.
func (r *keyRing) openStored(ctx context.Context) ([]storage.Key, error) {
	stored, err := r.store.Keys(ctx)
	if err != nil {
		return nil, fmt.Errorf("provider: load keys: %w", err)
	}
	sealed := slices.ContainsFunc(stored, isSealed)
	var opened, again []storage.Key
	for _, k := range stored {
		inClear := *k
		if sealed {
			if inClear, err = r.seals.open(*k); err != nil {
				return nil, err
			}
		}
		opened = append(opened, inClear)
		if k.SealedBy != r.seals.name() {
			again = append(again, r.seals.seal(inClear))
		}
	}
	if len(again) == 0 {
		return opened, nil
	}
	err = r.store.Tx(ctx, func(ctx context.Context) error {
		for i := range again {
			if err := r.store.ReplaceKey(ctx, &again[i]); err != nil {
				return fmt.Errorf("provider: seal key %q: %w", again[i].ID, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if sealed {
		r.logger.InfoContext(ctx, "keys that an older key sealed are sealed under the first one now", "keys", len(again))
		return opened, nil
	}
	// What has lain in the clear may be in a backup or in a free page of the database: only a
	// rotation makes up for that.
	for i := range again {
		r.logger.WarnContext(ctx, "a key that was kept in the clear is sealed now; older backups still have it", "key_id", again[i].ID)
	}
	return opened, nil
}

func isSealed(k *storage.Key) bool { return k.SealedBy != "" }

func (s *keySeal) seal(k storage.Key) storage.Key {
	// A random nonce is safe for 2^32 keys under one seal.
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(k.Secret)+s.aead.Overhead())
	_, _ = rand.Read(nonce) // it never fails
	k.SealedBy = s.name
	k.Secret = s.aead.Seal(nonce, nonce, k.Secret, sealedWith(&k))
	return k
}

func (s *keySeal) open(k storage.Key) (storage.Key, error) {
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
