package bolt_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

func ExampleOpen() {
	dir, err := os.MkdirTemp("", "qrgrant")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()

	store, err := bolt.Open(filepath.Join(dir, "qrgrant.db"), bolt.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = store.Close() }()

	ctx := context.Background()
	// Both records reach the disk in one commit, or neither does.
	err = store.Tx(ctx, func(ctx context.Context) error {
		if err := store.PutUser(ctx, &storage.User{Subject: "1", Login: "Ann"}); err != nil {
			return err
		}
		return store.PutClient(ctx, &storage.Client{ID: "tv", Name: "Television"})
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	user, err := store.UserByLogin(ctx, "ann")
	fmt.Println(user.Subject, err)
	// Output: 1 <nil>
}
