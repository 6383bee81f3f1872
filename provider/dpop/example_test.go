package dpop_test

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/qrgrant/qrgrant/provider/dpop"
)

func Example() {
	used := make(map[[32]byte]bool)
	server := dpop.New(dpop.Config{
		UseOnce: func(_ context.Context, id [32]byte, _ time.Time) error {
			if used[id] {
				return dpop.ErrUsed
			}
			used[id] = true
			return nil
		},
		Secrets: func() [][]byte { return [][]byte{[]byte("a secret of at least 32 bytes ...")} },
	})

	key, err := dpop.NewKey()
	if err != nil {
		fmt.Println(err)
		return
	}
	proof, err := key.Proof(http.MethodPost, "https://issuer.example/token", server.Nonce(), "")
	if err != nil {
		fmt.Println(err)
		return
	}
	request := dpop.Request{Proofs: []string{proof}, Method: http.MethodPost, URL: "https://issuer.example/token"}
	jkt, err := server.Verify(context.Background(), request)
	fmt.Println(jkt == key.Thumbprint(), err)
	_, err = server.Verify(context.Background(), request)
	fmt.Println(err)
	// Output:
	// true <nil>
	// dpop: invalid_dpop_proof: dpop: used before
}

func ExampleTransport() {
	key, err := dpop.NewKey()
	if err != nil {
		fmt.Println(err)
		return
	}
	// Every request of this client proves the key; hand it to x/oauth2 by the context.
	client := &http.Client{Transport: &dpop.Transport{Key: key}, Timeout: 30 * time.Second}
	fmt.Println(client.Timeout)
	// Output: 30s
}
