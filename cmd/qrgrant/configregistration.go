package main

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/qrgrant/qrgrant/provider"
)

// registrationConfig is who may register clients; what is left out is nobody.
type registrationConfig struct {
	Open                bool     `yaml:"open"`
	InitialTokensSHA256 []string `yaml:"initial_access_tokens_sha256"`
	MaxClients          int      `yaml:"max_clients"`
}

func (r *registrationConfig) policy() provider.Registration {
	policy := provider.Registration{Open: r.Open, MaxClients: r.MaxClients}
	for _, sum := range r.InitialTokensSHA256 {
		// serverFaults has refused what is none.
		if hash, err := readSHA256(sum); err == nil {
			policy.InitialTokens = append(policy.InitialTokens, hash)
		}
	}
	return policy
}

func (r *registrationConfig) faults(given map[string]bool) []fault {
	const at = "$.registration"
	var found faults
	written := given[at] || given[at+".max_clients"] || r.MaxClients != 0
	found.when(written && !r.Open && !given[at+".open"] && len(r.InitialTokensSHA256) == 0, at,
		"registration needs initial_access_tokens_sha256, or open: true for everybody; nobody could register")
	found.when(r.Open && len(r.InitialTokensSHA256) > 0, at+".open",
		"open: true asks nobody for a token, and initial_access_tokens_sha256 lists some; take one of them out")
	for i, sum := range r.InitialTokensSHA256 {
		at := fmt.Sprintf("%s.initial_access_tokens_sha256[%d]", at, i)
		_, err := readSHA256(sum)
		found.when(err != nil, at, "this is not a SHA-256 in hexadecimal; make a token with: qrgrant initial-token")
		found.when(err == nil && slices.ContainsFunc(r.InitialTokensSHA256[:i], func(earlier string) bool { return strings.EqualFold(earlier, sum) }), at, "this stands here twice")
	}
	if r.MaxClients != 0 || given[at+".max_clients"] {
		found.when(r.MaxClients < 1 || r.MaxClients > mostCounted, at+".max_clients", fmt.Sprintf("max_clients must be from 1 to %d", mostCounted))
	}
	return found
}

// readSHA256 reads a hash in hexadecimal.
func readSHA256(text string) (hash [32]byte, err error) {
	raw, err := hex.DecodeString(text)
	if err == nil && len(raw) != len(hash) {
		err = hex.ErrLength
	}
	if err != nil {
		return hash, err
	}
	return [32]byte(raw), nil
}
