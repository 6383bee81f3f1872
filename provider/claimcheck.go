package provider

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ClaimError is a claim of a person that must not be handed out as it is.
type ClaimError struct {
	// Claim is its name.
	Claim string
	// Sentence says what it must be, in words for whoever wrote it; the value is not repeated.
	Sentence string
}

// Error implements error.
func (e *ClaimError) Error() string { return e.Claim + " " + e.Sentence }

// CheckClaims checks what storage.User.Claims may hold: the claims of OpenID Connect Core §5.1
// with the types they have there, also with a language tag (§5.2), and any others that JSON has
// words for, but none that only the provider can make true, such as sub. The error joins one
// ClaimError for each bad claim, in the order of their names.
func CheckClaims(claims map[string]any) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		if sentence := claimFault(name, claims[name]); sentence != "" {
			errs = append(errs, &ClaimError{Claim: name, Sentence: sentence})
		}
	}
	return errors.Join(errs...)
}

// protocolClaims are said by the provider about a token, never about a person by whoever keeps
// the accounts (Core §2, §3.1.3.6, §3.3.2.11, §5.6.2; RFC 7519 §4.1; RFC 7800; Back-Channel
// Logout §2.4).
func protocolClaims() []string {
	return []string{
		"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "nonce", "sid", "auth_time", "acr", "amr", "azp",
		"at_hash", "c_hash", "s_hash", "cnf", "events", "client_id", "scope", "_claim_names", "_claim_sources",
	}
}

func claimFault(name string, value any) string {
	bare, _, _ := strings.Cut(name, "#")
	switch {
	case slices.Contains(protocolClaims(), bare):
		return "is said by the server itself and cannot be given"
	case bare == "":
		return "needs a name"
	case value == nil:
		return "is left empty; give it a value or take it out"
	}
	switch bare {
	case "email_verified", "phone_number_verified":
		if _, ok := value.(bool); !ok {
			return "must be true or false, without quotes"
		}
	case "updated_at":
		if seconds, ok := number(value); !ok || seconds < 0 {
			return "must be a number, the seconds since 1970"
		}
	case "address":
		return addressFault(value)
	default:
		if scopeOf(bare) != "" {
			if _, ok := value.(string); !ok {
				return "must be text; put it in quotes"
			}
		}
	}
	if _, err := json.Marshal(value); err != nil {
		return "is nothing that JSON can say"
	}
	return ""
}

// addressFault checks the address claim (Core §5.1.1).
func addressFault(value any) string {
	members, ok := value.(map[string]any)
	if !ok {
		return "must be keys with values, such as {locality: Berlin, country: DE}"
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if !slices.Contains([]string{"formatted", "street_address", "locality", "region", "postal_code", "country"}, name) {
			return fmt.Sprintf("has no %.40q; it takes formatted, street_address, locality, region, postal_code and country", name)
		}
		if _, ok := members[name].(string); !ok {
			return fmt.Sprintf("must have text as its %s; put it in quotes", name)
		}
	}
	return ""
}

// number is a value as the readers of YAML and JSON give numbers.
func number(value any) (n float64, ok bool) {
	switch v := value.(type) {
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	case uint64:
		return float64(v), true
	case float64:
		// Neither infinite nor undefined, for JSON has no words for those.
		return v, v-v == 0
	}
	return 0, false
}
