package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/qrgrant/qrgrant/storage"
)

// words is a repeatable flag that takes several words at once.
type words []string

// String implements flag.Value.
func (w *words) String() string { return "" }

// Set implements flag.Value.
func (w *words) Set(text string) error {
	*w = append(*w, strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })...)
	return nil
}

const clientAddDetail = `    A secret is made and shown once, unless the client is --public or signs with keys of its own:
    those are given with --jwks or --jwks-uri. What a configuration file can say beyond these
    flags, such as qr, is said there.`

func clientAddVerb() verb {
	return verb{
		name: "client add", args: []string{"ID"}, detail: clientAddDetail,
		summary: "adds a client to the database of a server, running or not",
		prepare: func(flags *flag.FlagSet) action {
			var f adminFlags
			f.declare(flags)
			c := clientConfig{}
			flags.StringVar(&c.Name, "name", "", "`NAME` that people are shown")
			flags.StringVar(&c.IDTokenAlg, "id-token-alg", "", "`ALG` of its ID tokens, ES256, RS256 or EdDSA (default ES256)")
			flags.BoolVar(&c.FirstParty, "first-party", false, "skip the consent page")
			flags.Var((*words)(&c.RedirectURIs), "redirect-uri", "`URL` it may be redirected to; repeatable")
			flags.Var((*words)(&c.GrantTypes), "grant-type", "`GRANT` it may use; repeatable (default authorization_code)")
			flags.Var((*words)(&c.Scopes), "scope", "`SCOPE` it may ask for; repeatable (default openid)")
			flags.StringVar(&c.LogoURI, "logo-uri", "", "`URL` of a picture that people are shown beside its name")
			flags.StringVar(&c.ClientURI, "client-uri", "", "`URL` of its own site")
			flags.StringVar(&c.PolicyURI, "policy-uri", "", "`URL` of what it says about people's data")
			flags.StringVar(&c.TermsURI, "tos-uri", "", "`URL` of its terms of use")
			public := flags.Bool("public", false, "it can keep no secret: an app, or script in a browser")
			flags.StringVar(&c.AuthMethod, "auth-method", "", "`METHOD` it authenticates with: client_secret_basic, client_secret_post or none;\nprivate_key_jwt follows from its keys (default basic or post)")
			jwks := flags.String("jwks", "", "`FILE` of its public keys, a JWK set in JSON")
			flags.StringVar(&c.JWKSURI, "jwks-uri", "", "`URL` where its public keys are read")
			flags.StringVar(&c.AuthAlg, "auth-alg", "", "`ALG` it signs with, which RS256 and ES384 need (default ES256, PS256 or EdDSA)")
			flags.BoolVar(&c.RequirePAR, "require-par", false, "refuse authorization requests that it has not pushed")
			flags.BoolVar(&c.RequireDPoP, "require-dpop", false, "bind every token of it to a key")
			flags.StringVar(&c.AccessTokenFormat, "access-token-format", "", "`FORMAT` of its access tokens, opaque or jwt (default opaque)")
			flags.Var((*words)(&c.Resources), "resource", "`URI` of a resource it may ask tokens for; repeatable")
			flags.Var((*words)(&c.Serves), "serves", "`URI` of a resource it is the server of; repeatable")
			return func(ctx context.Context, e env) error {
				c.ID = e.Args[0]
				if len(c.Scopes) == 0 {
					c.Scopes = []string{"openid"}
				}
				secret, err := c.credentials(*public, *jwks)
				if err != nil {
					return err
				}
				var added adminClient
				if err := f.call(ctx, e, http.MethodPost, "/clients", c, &added); err != nil {
					return inFlags(flags, err)
				}
				fmt.Fprintf(e.Stdout, "added %s\n", printable(added.ID))
				if secret != "" {
					fmt.Fprintf(e.Stdout, "secret %s\n", secret)
				}
				return nil
			}
		},
	}
}

// inFlags words a refusal, which names the keys of a configuration file, with the flags that stand
// for them. What is quoted is what was given.
func inFlags(flags *flag.FlagSet, err error) error {
	var refused *adminError
	if !errors.As(err, &refused) {
		return err
	}
	named := regexp.MustCompile(`"(?:[^"\\]|\\.)*"|\b(?:jwks|[a-z]+(?:_[a-z]+)+)\b(?:: )?`).ReplaceAllStringFunc(refused.sentence, func(word string) string {
		key, isPair := strings.CutSuffix(word, ": ")
		name := strings.ReplaceAll(key, "_", "-")
		if flags.Lookup(name) == nil {
			name = strings.TrimSuffix(name, "s")
		}
		switch {
		case flags.Lookup(name) == nil:
			return word
		case isPair:
			return "--" + name + " "
		}
		return "--" + name
	})
	return &adminError{refused.status, named}
}

// credentials completes what the client proves itself with, and returns the secret that was made
// for it, if any.
func (c *clientConfig) credentials(public bool, jwks string) (secret string, err error) {
	if jwks != "" {
		raw, err := os.ReadFile(jwks)
		if err != nil {
			return "", usagef("--jwks: %v", err)
		}
		if json.Unmarshal(raw, &c.JWKS) != nil || len(c.JWKS) == 0 {
			return "", usagef("--jwks: there is no JWK set in %s", jwks)
		}
	}
	_, keys := c.keys()
	switch {
	case public && (c.AuthMethod == "" || c.AuthMethod == authNone):
		c.AuthMethod = authNone
	case public:
		return "", usagef("--public and --auth-method %s do not go together", c.AuthMethod)
	case keys && c.AuthMethod == "":
		c.AuthMethod = storage.AuthPrivateKeyJWT
	case c.AuthMethod != storage.AuthPrivateKeyJWT && c.AuthMethod != authNone:
		secret = newSecret()
		c.SecretSHA256 = []string{hashSecret(secret)}
	}
	return secret, nil
}

func clientListVerb() verb {
	return listVerb("client list", "lists the clients in the database", "/clients", func(flags *flag.FlagSet) func(io.Writer, adminClient) {
		links := flags.Bool("links", false, "show below each client its logo, site, policy and terms too")
		return func(out io.Writer, c adminClient) {
			kind := "confidential"
			if c.Public {
				kind = "public"
			}
			fmt.Fprintf(out, "%-24s %-12s %-8s %-10s %s\n", printable(c.ID), kind, state(c.Disabled), c.Source, printable(c.Name))
			if *links {
				c.printLinks(out)
			}
		}
	})
}

// printLinks lists what the client has of the addresses that people are shown.
func (c *adminClient) printLinks(out io.Writer) {
	for _, link := range []struct{ name, uri string }{
		{"logo", c.LogoURI}, {"site", c.ClientURI}, {"policy", c.PolicyURI}, {"terms", c.TermsURI},
	} {
		if link.uri != "" {
			fmt.Fprintf(out, "  %-7s %s\n", link.name, printable(link.uri))
		}
	}
}

func clientDisableVerb() verb {
	return disableVerb("client disable", "ID",
		"switches a client off: none of its tokens works from now on, and those of people end for good",
		"switch the client on again instead", "/clients/")
}

func clientRemoveVerb() verb {
	return verb{
		name: "client remove", args: []string{"ID"},
		summary: "removes a client for good, with all that people have given it",
		prepare: func(flags *flag.FlagSet) action {
			var f adminFlags
			f.declare(flags)
			return func(ctx context.Context, e env) error {
				var removed adminClient
				if err := f.call(ctx, e, http.MethodDelete, "/clients/"+url.PathEscape(e.Args[0]), nil, &removed); err != nil {
					return err
				}
				fmt.Fprintf(e.Stdout, "%s is removed\n", printable(removed.ID))
				return nil
			}
		},
	}
}
