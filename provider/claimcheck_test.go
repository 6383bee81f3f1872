package provider_test

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
)

func TestCheckClaims(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		claim string
		value any
		want  string
	}{
		"a number is no telephone number":      {"phone_number", uint64(4915112345), "must be text; put it in quotes"},
		"a name is text":                       {"name", true, "must be text; put it in quotes"},
		"in every language":                    {"name#de", 7, "must be text; put it in quotes"},
		"yes is not true":                      {"email_verified", "yes", "must be true or false, without quotes"},
		"nor for the telephone":                {"phone_number_verified", 1, "must be true or false, without quotes"},
		"a day is no number":                   {"updated_at", "yesterday", "must be a number, the seconds since 1970"},
		"nor is what JSON has no words for":    {"updated_at", math.Inf(1), "must be a number, the seconds since 1970"},
		"nor anything before":                  {"updated_at", -1, "must be a number, the seconds since 1970"},
		"a town is no address":                 {"address", "Berlin", "must be keys with values, such as {locality: Berlin, country: DE}"},
		"an address has members of its own":    {"address", map[string]any{"town": "Berlin"}, `has no "town"; it takes formatted, street_address, locality, region, postal_code and country`},
		"which are text":                       {"address", map[string]any{"postal_code": uint64(10115)}, "must have text as its postal_code; put it in quotes"},
		"nothing is no value":                  {"colour", nil, "is left empty; give it a value or take it out"},
		"what JSON cannot say is no value":     {"colour", math.NaN(), "is nothing that JSON can say"},
		"not even deep inside":                 {"colour", map[string]any{"x": []any{make(chan int)}}, "is nothing that JSON can say"},
		"a claim has a name":                   {"#de", "x", "needs a name"},
		"the subject is the server's":          {"sub", "x", "is said by the server itself and cannot be given"},
		"and the issuer":                       {"iss", "x", "is said by the server itself and cannot be given"},
		"and the way of the sign-in":           {"amr", []any{"pwd"}, "is said by the server itself and cannot be given"},
		"and the sign-in":                      {"sid", "x", "is said by the server itself and cannot be given"},
		"and its time":                         {"auth_time", uint64(1), "is said by the server itself and cannot be given"},
		"and the audience, with a language":    {"aud#en", "x", "is said by the server itself and cannot be given"},
		"an own claim may be text":             {"colour", "green", ""},
		"or a list":                            {"groups", []any{"a", "b"}, ""},
		"a time may be a number of any reader": {"updated_at", 1.7e9, ""},
		"true is true":                         {"email_verified", true, ""},
		"an address":                           {"address", map[string]any{"locality": "Berlin"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := provider.CheckClaims(map[string]any{c.claim: c.value})
			var bad *provider.ClaimError
			switch {
			case c.want == "" && err != nil, c.want != "" && !errors.As(err, &bad):
				t.Fatalf("%v", err)
			case c.want != "" && (bad.Claim != c.claim || bad.Sentence != c.want):
				t.Errorf("%q %q", bad.Claim, bad.Sentence)
			}
		})
	}
	if err := provider.CheckClaims(providertest.Alice().Claims); err != nil {
		t.Error(err)
	}
}

// Every bad claim is named, always in the same order.
func TestCheckClaimsNamesAll(t *testing.T) {
	t.Parallel()
	for range 9 {
		err := provider.CheckClaims(map[string]any{"sub": "x", "name": 1, "email": "a@b.example", "address": "x"})
		var names []string
		var all interface{ Unwrap() []error }
		if errors.As(err, &all) {
			for _, err := range all.Unwrap() {
				var bad *provider.ClaimError
				if errors.As(err, &bad) {
					names = append(names, bad.Claim)
				}
			}
		}
		if diff := cmp.Diff([]string{"address", "name", "sub"}, names); diff != "" {
			t.Fatal(diff)
		}
	}
}
