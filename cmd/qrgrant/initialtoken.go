package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
)

const initialTokenDetail = `    The token is for whoever may register clients, and is shown once. The server keeps its hash
    only, in the configuration:

      registration:
        initial_access_tokens_sha256: [HEX]`

func initialTokenVerb() verb {
	return verb{
		name: "initial-token", detail: initialTokenDetail,
		summary: "makes an initial access token for client registration, and its hash for the configuration",
		prepare: func(*flag.FlagSet) action {
			return func(_ context.Context, e env) error {
				token := newSecret()
				fmt.Fprintf(e.Stdout, "token %s\nsha256 %s\n", token, hashSecret(token))
				return nil
			}
		},
	}
}

// newSecret returns a secret of more than 256 bits.
func newSecret() string { return rand.Text() + rand.Text() }

// hashSecret is what a configuration has of a secret.
func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}
