package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/storage"
)

// The ways in which a client authenticates (OpenID Connect Core §9).
const (
	authBasic = "client_secret_basic"
	authPost  = "client_secret_post"
	authNone  = "none"
)

func authMethods() []string {
	return []string{authBasic, authPost, storage.AuthPrivateKeyJWT, authNone}
}

// assertionAlgs are what clients may sign assertions with, requestObjectAlgs request objects.
func assertionAlgs() []string {
	return []string{"ES256", "ES384", "PS256", "EdDSA", "Ed25519", "RS256"}
}

func requestObjectAlgs() []string { return []string{"ES256", "PS256", "EdDSA", "Ed25519", "RS256"} }

// public reports whether the client can prove nothing about itself.
func (c *clientConfig) public() bool { return !c.secret() && c.AuthMethod != storage.AuthPrivateKeyJWT }

func (c *clientConfig) secret() bool { return c.SecretEnv != "" || len(c.SecretSHA256) > 0 }

// keys reports whether the client has keys of its own, and under which key of the file.
func (c *clientConfig) keys() (where string, has bool) {
	if len(c.JWKS) > 0 {
		return "jwks", true
	}
	return "jwks_uri", c.JWKSURI != ""
}

func (c *clientConfig) authFaults() []fault {
	var found faults
	where, keys := c.keys()
	signs := c.AuthMethod == storage.AuthPrivateKeyJWT
	switch c.AuthMethod {
	case authBasic, authPost:
		found.when(!c.secret(), "auth_method", c.AuthMethod+" needs a secret; give secret_env or secret_sha256")
	case storage.AuthPrivateKeyJWT:
		found.when(c.secret(), "auth_method", "private_key_jwt goes without a secret; take the secret out, or the auth_method")
		found.when(!keys, "auth_method", "private_key_jwt needs jwks or jwks_uri")
	case authNone:
		found.when(c.secret(), "auth_method", "auth_method is none, but there is a secret; take one of them out")
	case "":
		// It would be public, which nobody means who gives it keys.
		found.when(keys && !c.secret(), where, "keys do not say how the client authenticates; add auth_method: private_key_jwt, or auth_method: none")
	}
	found.when(c.AuthAlg != "" && !signs, "auth_alg", "auth_alg is for auth_method: private_key_jwt")
	found.when(c.AssertionAudience != "" && !signs, "assertion_audience", "assertion_audience is for auth_method: private_key_jwt")
	return found
}

// keyFaults never repeats what stands in a key: it may be the private one.
func (c *clientConfig) keyFaults() []fault {
	var found faults
	found.when(len(c.JWKS) > 0 && c.JWKSURI != "", "jwks_uri", "give jwks or jwks_uri, not both")
	found.address("jwks_uri", c.JWKSURI)
	if len(c.JWKS) == 0 {
		return found
	}
	raw, err := json.Marshal(c.JWKS)
	if err == nil {
		err = provider.CheckJWKS(raw)
	}
	if err != nil {
		found.add("jwks", "jwks cannot be used: "+strings.TrimPrefix(err.Error(), "provider: "))
		return found
	}
	if c.AuthMethod == storage.AuthPrivateKeyJWT {
		found.when(!fitsKey(raw, c.AuthAlg), "jwks", unfitKey(c.AuthAlg))
	}
	return found
}

func unfitKey(alg string) string {
	if alg == "" {
		return "no key in jwks is for ES256, PS256 or EdDSA; RS256 and ES384 have to be named with auth_alg"
	}
	return fmt.Sprintf("no key in jwks is for %s, which auth_alg names", alg)
}

// fitsKey reports whether assertions of the algorithm can be signed with one of the keys; empty
// is every algorithm that need not be named.
func fitsKey(jwks []byte, alg string) bool {
	var set struct {
		Keys []struct{ Kty, Crv, Alg, Use string }
	}
	if json.Unmarshal(jwks, &set) != nil {
		return false
	}
	for _, key := range set.Keys {
		for _, of := range []struct{ alg, kty, crv string }{
			{"ES256", "EC", "P-256"}, {"ES384", "EC", "P-384"}, {"PS256", "RSA", ""}, {"EdDSA", "OKP", "Ed25519"}, {"Ed25519", "OKP", "Ed25519"}, {"RS256", "RSA", ""},
		} {
			asked := of.alg == alg || alg == "" && of.alg != "RS256" && of.alg != "ES384"
			if asked && key.Kty == of.kty && key.Crv == of.crv && (key.Alg == "" || key.Alg == of.alg || key.Crv == "Ed25519" && (key.Alg == "EdDSA" || key.Alg == "Ed25519")) && (key.Use == "" || key.Use == "sig") {
				return true
			}
		}
	}
	return false
}

// address refuses what is no https address of a host; empty is none.
func (f *faults) address(path, raw string) {
	f.when(raw != "" && !isAddress(raw), path, fmt.Sprintf("%.80q cannot be used: it must be https with a plain host name, without user, # or space", raw))
}

// isAddress reports whether the server may read what is there, or lead a browser there.
func isAddress(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && u.Scheme == "https" && provider.CheckRedirectURI(raw) == nil && len(raw) <= provider.LongestShownURI &&
		!strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}
