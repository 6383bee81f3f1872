package bolt

import (
	"bytes"
	"context"
	"errors"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
)

func loginKey(login string) []byte { return []byte(strings.ToLower(login)) }

// PutUser implements storage.Users.
func (s *Store) PutUser(ctx context.Context, u *storage.User) error {
	raw, err := s.codec.encode(u)
	if err != nil {
		return err
	}
	subject, login := []byte(u.Subject), loginKey(u.Login)
	free := func(tx *bbolt.Tx) error {
		if holder := in(tx, bucketUserLogin).Get(login); holder != nil && !bytes.Equal(holder, subject) {
			return storage.ErrConflict
		}
		return nil
	}
	return s.write(ctx, free, func(tx *bbolt.Tx) error {
		// Again, because the unit itself may have given the login away a moment ago.
		if err := free(tx); err != nil {
			return err
		}
		s.users.forgetOnCommit(tx, subject)
		if err := s.freeLogin(tx, subject); err != nil {
			return err
		}
		if len(login) > 0 {
			if err := in(tx, bucketUserLogin).Put(login, subject); err != nil {
				return err
			}
		}
		return in(tx, bucketUser).Put(subject, raw)
	})
}

// freeLogin removes the login of a user that is about to be replaced.
func (s *Store) freeLogin(tx *bbolt.Tx, subject []byte) error {
	was, err := fetch[storage.User](s, tx, bucketUser, subject)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return in(tx, bucketUserLogin).Delete(loginKey(was.Login))
}

// User implements storage.Users.
func (s *Store) User(ctx context.Context, subject string) (*storage.User, error) {
	return readCached(ctx, s, s.users, bucketUser, subject)
}

// UserByLogin implements storage.Users.
func (s *Store) UserByLogin(ctx context.Context, login string) (*storage.User, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var user *storage.User
	err := s.db.View(func(tx *bbolt.Tx) (err error) {
		user, err = fetch[storage.User](s, tx, bucketUser, in(tx, bucketUserLogin).Get(loginKey(login)))
		return err
	})
	return user, err
}

// Users implements storage.Users.
func (s *Store) Users(ctx context.Context) ([]*storage.User, error) {
	return all[storage.User](ctx, s, bucketUser)
}
