// Package jws reads what clients sign. It is go-jose with one more name: Ed25519, which RFC 9864
// §2.2 gives to the only EdDSA there is here, and which today's libraries write.
package jws

import (
	"crypto/ed25519"
	"errors"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// Ed25519 is the fully specified name of jose.EdDSA with a key of that curve (RFC 9864 §2.2).
const Ed25519 jose.SignatureAlgorithm = "Ed25519"

// Parse reads a JWS in compact form that is signed with one of algs. Where EdDSA is among them,
// Ed25519 is too. Nothing is verified.
func Parse(compact string, algs []jose.SignatureAlgorithm) (*jose.JSONWebSignature, error) {
	if slices.Contains(algs, jose.EdDSA) {
		algs = append(slices.Clip(algs), Ed25519)
	}
	return jose.ParseSignedCompact(compact, algs)
}

// Verify checks the signature of what Parse made of compact and returns the payload. key is a
// public key, or a *jose.JSONWebKey with one.
func Verify(parsed *jose.JSONWebSignature, compact string, key any) ([]byte, error) {
	if jose.SignatureAlgorithm(parsed.Signatures[0].Header.Algorithm) != Ed25519 {
		return parsed.Verify(key)
	}
	if set, ok := key.(*jose.JSONWebKey); ok {
		key = set.Key
	}
	public, ok := key.(ed25519.PublicKey)
	end := strings.LastIndexByte(compact, '.')
	if !ok || len(public) != ed25519.PublicKeySize || end < 0 || parsed.Signatures[0].Protected.ExtraHeaders["crit"] != nil ||
		!ed25519.Verify(public, []byte(compact[:end]), parsed.Signatures[0].Signature) {
		return nil, errors.New("jws: the signature does not fit")
	}
	return parsed.UnsafePayloadWithoutVerification(), nil
}
