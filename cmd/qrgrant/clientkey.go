package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

const clientKeyDetail = `    The private key is for the client alone, and is shown once. The line below it is its public
    key as the configuration has it, for a client with auth_method: private_key_jwt.`

func clientKeyVerb() verb {
	return verb{
		name: "client-key", detail: clientKeyDetail,
		summary: "makes a key for a client that signs (ES256), and its public half for the configuration",
		prepare: func(*flag.FlagSet) action {
			return func(_ context.Context, e env) error {
				private, public, err := newClientKey()
				if err != nil {
					return err
				}
				fmt.Fprintf(e.Stdout, "%sjwks: {keys: [%s]}\n", private, public)
				return nil
			}
		},
	}
}

// newClientKey makes a key of P-256 and returns its halves, as PEM and as a JWK.
func newClientKey() (private, public []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the key: %w", err)
	}
	jwk := jose.JSONWebKey{Key: key.Public(), Algorithm: string(jose.ES256), Use: "sig"}
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the key: %w", err)
	}
	jwk.KeyID = base64.RawURLEncoding.EncodeToString(sum)
	public, err = json.Marshal(jwk)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), public, nil
}
