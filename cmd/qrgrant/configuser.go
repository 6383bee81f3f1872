package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/qrgrant/qrgrant/provider"
)

// longestSubject is what relying parties keep of a sub (OpenID Connect Core §2).
const longestSubject = 255

func (u *userConfig) faults(getenv func(string) string) []fault {
	var found faults
	found.when(u.Login == "", "login", "a user needs a login")
	found.tooLong("login", u.Login)
	found.when(!fitSubject(u.Subject), "subject", badSubject)
	found.when(u.PasswordHash != "" && u.PasswordEnv != "", "password_env", "give password_hash or password_env, not both")
	found.when(u.PasswordHash != "" && provider.CheckPasswordHash(u.PasswordHash) != nil, "password_hash", "this is not an argon2id hash; make one with: qrgrant hash-password")
	found.when(u.PasswordEnv != "" && getenv(u.PasswordEnv) == "", "password_env", fmt.Sprintf("the environment variable %s is empty", u.PasswordEnv))
	return append(found, claimFaults(u.Claims)...)
}

const badSubject = "a subject has at most 255 characters, all of them in ASCII"

func fitSubject(subject string) bool {
	return len(subject) <= longestSubject && !strings.ContainsFunc(subject, func(r rune) bool { return r < ' ' || r > '~' })
}

// claimFaults lists the claims that must not be handed out as they are.
func claimFaults(claims map[string]any) []fault {
	err := provider.CheckClaims(claims)
	if err == nil {
		return nil
	}
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	var found faults
	for _, err := range all {
		var bad *provider.ClaimError
		if errors.As(err, &bad) {
			found.add("claims."+bad.Claim, "the claim "+bad.Error())
		}
	}
	return found
}
