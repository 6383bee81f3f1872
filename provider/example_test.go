package provider_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// A provider is an http.Handler over a store.
func ExampleNew() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "provider")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	store, err := bolt.Open(filepath.Join(dir, "op.db"), bolt.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = store.Close() }()
	err = store.PutClient(ctx, &storage.Client{
		ID: "web", SecretHashes: [][32]byte{sha256.Sum256([]byte("256 bits of randomness"))},
		RedirectURIs: []string{"https://app.example/callback"}, Scopes: []string{"openid", "profile"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	p, err := provider.New(ctx, provider.Config{Issuer: "https://op.example", Store: store})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = p.Close() }()

	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "https://op.example/healthz", nil))
	fmt.Println(w.Code, w.Body)
	// Output: 200 {"status":"ok"}
}

// A password is stored as its hash only.
func ExampleHashPassword() {
	hash, err := provider.HashPassword("correct horse")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(provider.VerifyPassword(hash, "correct horse"), provider.VerifyPassword(hash, "battery staple"))
	// Output: true false
}
